//! The texts that explain the program: synopsis, examples, run-time commands. The usage message, help and the
//! manual page share them.
//!
//! Knows: sentences. Never: options (their texts are in `options`), how anything is carried out.
//! Source: docs/compatibility.md, "Command line" and "The command language".

/// What the program is.
pub(super) const ABOUT: &str = "TCP load balancer: shares the clients of a port among servers";

/// A word of the command line that is not an option.
pub(super) struct Positional {
    pub(super) name: &'static str,
    /// One line, for `--help` and the manual page.
    pub(super) help: &'static str,
    /// Paragraphs for the manual page.
    pub(super) more: &'static str,
}

pub(super) const PORT: Positional = Positional {
    name: "PORT",
    help: "Port to listen on, a number or a name from /etc/services, or a Unix socket, unix:/PATH; with -i and -c, the instance to talk to",
    more: "\
FIRST-LAST means all these ports, as in 20000-20999 (docs/port-ranges.md). unix:/PATH is a Unix socket, unix:@NAME one with an abstract name (docs/unix-sockets.md). With -i and -c it may also be the name of a service in a file of --file: \"balance -c status web\".",
};

pub(super) const CHANNEL: Positional = Positional {
    name: "CHANNEL",
    help: "Server, as HOST[:PORT[:MAXC]]; MAXC is the maximum number of connections. An IPv6 address is [ADDR]:PORT:MAXC, a Unix socket unix:/PATH or unix:@NAME. '!' ends a group: the next group gets clients when all channels before it are down or full. '%' ends a group that chooses by the client's address. '@NAME' begins the groups for TLS clients that ask for NAME (SNI), '@' those for all others",
    more: "\
A channel without a port, or with an empty one, gets PORT, or with FIRST-LAST the port that the client came to. maxc is the maximum number of simultaneous connections; 0 or nothing means no \
limit. balance tries the groups in the order given. An IPv6 address needs no brackets if it is the whole word and has \
more than two colons, or starts with \"::\".

Options of a channel follow after commas: \"host:port:maxc,weight=3\" gives it three times the clients of a channel of \
weight 1 (0 to 256; 0 means no new clients), \"host,disabled\" starts it disabled, \"host,disabled=hard\" shows it as DIS. \
\"host,proxy\" sends a PROXY header of version 2 in front of each client's bytes, \"host,proxy=v1\" one of version 1. \
balance checks \"host,check=http:/x\" in this way, whatever --check says, and does not check \"host,check=none\" at all.

The word \"-\" in place of a channel skips its number: in \"host1 - host3\", host3 is channel 2.",
};

/// The ways to call the program.
pub(super) const SYNOPSIS: [&str; 6] = [
    "balance [-b addr] [-B addr] [-t sec] [-T sec] [-adfpHM6] PORT [CHANNEL ...] [!|%] [CHANNEL ...] ...",
    "balance [OPTION ...] PORT [CHANNEL ...] [!|%] [CHANNEL ...] ...",
    "balance [OPTION ...] --file FILE ...",
    "balance [-b addr] -c CMD PORT|NAME",
    "balance [-b addr] -i PORT|NAME",
    "balance --list",
];

/// Command lines and what they do. The first five are those of the original `balance`.
pub(super) const EXAMPLES: &[(&str, &str)] = &[
    (
        "balance smtp host1.test.net host2.test.net",
        "hands clients of the local SMTP port to host1 and host2 in turn; runs in the background",
    ),
    (
        "balance -b 2001:DB8::1 80 10.1.1.1 10.1.1.2",
        "listens on one IPv6 address, and hands the clients to IPv4 hosts",
    ),
    ("balance -b ::ffff:10.1.1.3 80 10.1.1.1 10.1.1.2", "listens on 10.1.1.3, written as an IPv6 address"),
    ("balance -fp imap mailserver", "stays in the foreground and prints all data that passes on stdout"),
    ("balance -f 8888 host1 10.1.1.1:8000", "uses host1 at port 8888 and 10.1.1.1 at port 8000 in turn"),
    (
        "balance imap mailserver1::16 ! mailserver2",
        "gives at most 16 connections to mailserver1, and all others to mailserver2",
    ),
    ("balance 80 web1 web2 ! sorry", "sends clients to sorry while web1 and web2 are down or full"),
    ("balance 80 web1 web2 web3 %", "always sends the same client to the same host"),
    ("balance 80 [2001:db8::1]:8080:100 web2", "uses an IPv6 channel with a port and a limit"),
    (
        "balance --check http:/healthz 80 web1:8080:100 web2:8080:100",
        "checks the web servers, and gives each at most 100 connections",
    ),
    (
        "balance --check http:/healthz --policy leastconn 80 web1:8080 web2:8080 ! sorry",
        "checks the web servers; the one with the fewest connections gets the next client, and sorry gets them all when both are down",
    ),
    (
        "balance --queue 500 --queue-timeout 10s 5432 db1::100 db2::100",
        "gives each server at most 100 connections; up to 500 clients wait, for 10 seconds at most",
    ),
    (
        "balance 80 big,weight=3 small new,weight=0",
        "gives three of four clients to big, and none to new until its weight is changed",
    ),
    (
        "balance 80 web1,proxy web2,proxy=v1",
        "tells the servers the address of each client, by a PROXY header",
    ),
    (
        "balance --check 'send:PING\\r\\n;expect:+PONG' --on-down kick 6379 redis1 ! redis2",
        "redis2 takes over when redis1 does not answer, and the connections to redis1 are closed",
    ),
    (
        "balance --file /etc/balance",
        "serves the lines of the *.conf files in this directory; each line is a service",
    ),
    (
        "balance 443 @shop.example.com web1 web2 @mail.example.com mx1 @ other",
        "hands TLS clients to the servers of the name that they ask for",
    ),
    ("balance --state /var/lib/balance/web.state 80 web1 web2", "keeps what commands change, over a restart"),
    (
        "balance --replace 80 web1 web2 web3",
        "takes over port 80 from the instance that has it; no client is refused",
    ),
    ("balance -c reload web", "reads the files again, in the process that serves web"),
    ("balance -c upgrade 80", "starts the program again and hands all connections over to the new process"),
    (
        "balance -c \"pause; wait 0 30s\" 80",
        "makes new clients wait, and waits until those of channel 0 are gone; resume ends it",
    ),
    ("balance -c status 80", "shows the state of all channels of the instance on port 80"),
    (
        "balance -c \"drain 0; wait 0 5m\" 80",
        "gives channel 0 no new clients, and waits for its last one to end",
    ),
    ("balance -c show 80", "shows the channels of the instance on port 80"),
    ("balance -c \"group 1; disable 0\" 80", "gives two commands, one after the other"),
    ("balance -c status web", "shows the state of the service web, which has its name from a file"),
    ("balance -c \"use mail; show\" web", "shows the channels of another service of the same process"),
    ("balance --list", "lists all instances and services on this machine"),
    ("balance -i smtp", "opens an interactive shell on the instance for SMTP"),
];

/// The examples that `--help` shows.
pub(super) const HELP_EXAMPLES: [&str; 8] = [
    "balance smtp host1.test.net host2.test.net",
    "balance 80 web1 web2 ! sorry",
    "balance 80 web1 web2 web3 %",
    "balance --check http:/healthz 80 web1:8080:100 web2:8080:100",
    "balance --file /etc/balance",
    "balance -c status 80",
    "balance -c \"drain 0; wait 0 5m\" 80",
    "balance -c upgrade 80",
];

/// The run-time commands and what they do.
pub(super) const COMMANDS: &[(&str, &str)] = &[
    (
        "create HOST PORT",
        "creates a channel in the current group; it is disabled at first. Options follow the port, as in 80,proxy",
    ),
    ("assign CHANNEL HOST PORT", "gives a disabled channel of the current group a new address"),
    (
        "disable CHANNEL [hard]",
        "gives the channel no new connections. Existing ones live on; with hard, balance closes them",
    ),
    ("enable CHANNEL", "gives the channel new connections again"),
    ("group GROUP", "makes GROUP the current group; it is 0 at first"),
    ("hash", "sets the policy of the current group to hash"),
    ("help", "prints the list of commands; ? does the same"),
    (
        "kill [TIME]",
        "stops the current service. Its connections live on until they end, or for TIME at most; 0 closes them now",
    ),
    (
        "maxc CHANNEL N",
        "sets the maximum number of simultaneous connections of the channel; 0 means no limit",
    ),
    ("mrtg-bytes GROUP CHANNEL", "prints the bytes received and sent, for MRTG"),
    ("mrtg-conns GROUP CHANNEL", "prints the total number of connections, for MRTG"),
    ("quit", "leaves the shell"),
    ("reset CHANNEL", "sets the counters of the channel to zero"),
    ("rr", "sets the policy of the current group to rr (in turn)"),
    ("show [json]", "shows all channels of all groups; with json, everything about them as one line of JSON"),
    ("version", "shows the version and the limits of the program"),
    ("status [json]", "shows state, health and failures of all channels, one line each"),
    ("drain CHANNEL", "disables the channel and prints how many of its connections are left"),
    (
        "wait CHANNEL [up] [TIME]",
        "waits until the channel has no connections, or with up, until it works: it is up, and a check (without --check a connect) that began after the command has succeeded. After TIME it gives up, and balance -c exits with 75",
    ),
    ("kick CHANNEL", "closes the connections of the channel"),
    ("remove CHANNEL", "removes a disabled channel that has no connections; the others keep their numbers"),
    ("weight CHANNEL N", "sets the channel's share of clients, 0 to 256; 0 means no new clients"),
    ("policy NAME", "sets the policy of the current group: rr, leastconn, p2c, first or hash"),
    ("sessions [CHANNEL] [json]", "lists the connections of all channels, or of one"),
    ("close ID", "closes one connection, by its number in sessions"),
    (
        "save",
        "prints the command line that starts this instance as it is now, or for a service of a file, its line of the file; a removed channel is -, so that the others keep their numbers",
    ),
    ("services [json]", "lists the services of this process, one line each"),
    (
        "use SERVICE",
        "makes SERVICE the current service, given by name, ADDRESS:PORT, or a port that only one service has. The current group is 0 again",
    ),
    ("reload [clean]", "reads the files of --file again; with clean, it also drops what was changed by hand"),
    ("reopen", "opens the file of the access log again"),
    ("pause [CHANNEL|all]", "makes new clients of the channel, or of all channels, wait"),
    ("resume [CHANNEL|all]", "ends a pause; balance serves the waiting clients in the order they came"),
    (
        "upgrade [PATH]",
        "starts the program again, or the one at PATH (absolute), and hands everything over to it, including connections",
    ),
    ("events [N] [json]", "shows the last 20 or N events with their times; balance remembers the last 1000"),
    ("debug [on|off]", "switches debug messages in the log on or off, or says whether they are on"),
    (
        "ready [all]",
        "says whether the service, or every service of the process, has a usable channel. If not, it says why, and the exit code is 69",
    ),
    (
        "tap ID [TIME] [SIZE] [FILE.pcapng|-]",
        "shows what one connection carries from now on, as -p does, for at most TIME (10m) and SIZE (1GiB); with FILE.pcapng or -, writes it to a new file or to stdout, for Wireshark",
    ),
    (
        "doctor [SERVICE] [json]",
        "looks for what usually goes wrong, in all services or in one, and says what to do. Exit code 0: all is fine; 1: advice; 2: something is broken",
    ),
    (
        "top",
        "shows the instance live in this terminal: services, channels, sessions and events, with keys for commands. ? explains the keys",
    ),
    ("ended [N] [json]", "shows the last 20 or N connections that ended, and why they did"),
    (
        "deny CIDR [TIME] [kick] [all]",
        "refuses clients from an address or network, for TIME if given; with kick, closes their connections; with all, in every service of the process",
    ),
    ("undeny CIDR [all]", "lets a denied address or network in again"),
    ("denied [all] [json]", "shows what deny refuses, and for how long"),
    ("resolve [CHANNEL]", "looks up the names of all channels, or of one, now"),
];

/// The text for stderr with exit code 64: one line that says what is wrong and what would be right, then the
/// synopsis.
pub(super) fn usage(wrong: &str) -> String {
    let calls = SYNOPSIS.join("\n       ");
    format!("balance: {wrong}\nusage: {calls}\ntry 'balance --help'; 'balance --list' shows what runs here\n")
}

/// The synopsis for the help page, which puts `Usage: ` before it.
pub(super) fn help_synopsis() -> String {
    SYNOPSIS.join("\n       ")
}

/// The end of the help page: some examples, and the names of the run-time commands.
pub(super) fn help_end() -> String {
    let mut text = String::from("Examples:\n");
    for (line, meaning) in EXAMPLES.iter().filter(|(line, _)| HELP_EXAMPLES.contains(line)) {
        text.push_str(&format!("  {line}\n      {meaning}\n"));
    }
    let words: Vec<_> = command_names().collect();
    text.push_str(&format!(
        "\nRun-time commands (for -i and -c):\n  {}\n'balance -c help PORT' explains them. Most used: status, top, drain, wait, enable, reload, upgrade, kill",
        words.join(" ")
    ));
    text
}

/// The names of the run-time commands.
pub(super) fn command_names() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().map(|(usage, _)| first_word(usage))
}

fn first_word(line: &'static str) -> &'static str {
    line.split(' ').next().unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usage_text_is_one_line_of_blame_and_the_synopsis() {
        let text = usage("no PORT");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "balance: no PORT");
        for (line, synopsis) in lines[1..7].iter().zip(SYNOPSIS) {
            assert!(line.ends_with(synopsis), "{line}");
        }
        assert_eq!(lines[7..], ["try 'balance --help'; 'balance --list' shows what runs here"]);
        assert!(text.ends_with('\n'));
    }
}
