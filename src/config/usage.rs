//! The words that explain the program: synopsis, examples, run-time commands. Usage text, help and man page share them.
//!
//! Knows: sentences. Never: options (their words stand with them in `cli`), how anything is carried out.
//! Source: docs/compatibility.md, "Command line" and "The command language".

/// The three ways to call the program.
pub(super) const SYNOPSIS: [&str; 3] = [
    "balance [-b addr] [-B addr] [-t sec] [-T sec] [-adfpHM6] PORT [CHANNEL ...] [!|%] [CHANNEL ...] ...",
    "balance [-b addr] -i [-d] [-M] PORT",
    "balance [-b addr] -c CMD [-d] [-M] PORT",
];

/// Command lines and what they do. The first five are as old as the program.
pub(super) const EXAMPLES: &[(&str, &str)] = &[
    (
        "balance smtp host1.test.net host2.test.net",
        "connections to the local SMTP port go to host1 and host2 in turn; runs in the background",
    ),
    ("balance -b 2001:DB8::1 80 10.1.1.1 10.1.1.2", "listens on one IPv6 address, distributes to IPv4 hosts"),
    ("balance -b ::ffff:10.1.1.3 80 10.1.1.1 10.1.1.2", "listens on 10.1.1.3, written as an IPv6 address"),
    ("balance -fp imap mailserver", "stays in the foreground and prints all data on stdout"),
    ("balance -f 8888 host1 10.1.1.1:8000", "host1 at port 8888 and 10.1.1.1 at port 8000 in turn"),
    (
        "balance imap mailserver1::16 ! mailserver2",
        "at most 16 connections to mailserver1, all others to mailserver2",
    ),
    ("balance 80 web1 web2 web3 %", "a client always gets the same host"),
    ("balance 80 [2001:db8::1]:8080:100 web2", "an IPv6 channel with port and limit"),
    ("balance -c show 80", "what the instance on port 80 is doing"),
    ("balance -c \"group 1; disable 0\" 80", "two commands, one after the other"),
    ("balance -i smtp", "an interactive shell on the instance for SMTP"),
];

/// How many of the examples `--help` shows.
pub(super) const HELP_EXAMPLES: usize = 6;

/// The run-time commands, in the order of `help`.
pub(super) const COMMANDS: &[(&str, &str)] = &[
    ("create HOST PORT", "creates a channel in the current group; it starts disabled"),
    ("assign CHANNEL HOST PORT", "gives a disabled channel of the current group a new address"),
    (
        "disable CHANNEL [hard]",
        "gives no new connections to the channel; existing ones live on, with hard they are closed",
    ),
    ("enable CHANNEL", "gives connections to the channel again"),
    ("group GROUP", "changes the current group; it is 0 at first"),
    ("hash", "sets the distribution scheme of the current group to Hash"),
    ("help", "prints the list of commands; also ?"),
    ("kill", "stops the instance; established connections live on to their natural end"),
    ("maxc CHANNEL N", "sets the most simultaneous connections of the channel; 0 is no limit"),
    ("mrtg-bytes GROUP CHANNEL", "prints bytes received and sent for MRTG"),
    ("mrtg-conns GROUP CHANNEL", "prints the total of connections for MRTG"),
    ("quit", "leaves the shell"),
    ("reset CHANNEL", "zeroes the counters of the channel"),
    ("rr", "sets the distribution scheme of the current group to Round Robin"),
    ("show", "shows all channels of all groups"),
    ("version", "shows version and limits"),
    ("status", "shows state and failures of all channels, one line each"),
];

/// What goes to stderr with exit code 64: one line that says what is wrong and what would be right, then the synopsis.
pub(super) fn usage(wrong: &str) -> String {
    format!(
        "balance: {wrong}\nusage: {}\n       {}\n       {}\ntry 'balance --help'\n",
        SYNOPSIS[0], SYNOPSIS[1], SYNOPSIS[2]
    )
}

/// The synopsis as the help page shows it, under its own `Usage: `.
pub(super) fn help_synopsis() -> String {
    SYNOPSIS.join("\n       ")
}

/// The end of the help page: examples and the run-time commands in a line.
pub(super) fn help_end() -> String {
    let mut text = String::from("Examples:\n");
    for (line, meaning) in &EXAMPLES[..HELP_EXAMPLES] {
        text.push_str(&format!("  {line}\n      {meaning}\n"));
    }
    let words: Vec<_> = COMMANDS.iter().map(|(usage, _)| first_word(usage)).collect();
    text.push_str(&format!("\nRun-time commands (for -i and -c):\n  {}", words.join(" ")));
    text
}

fn first_word(line: &str) -> &str {
    line.split(' ').next().unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usage_text_is_one_line_of_blame_and_the_three_synopsis_lines() {
        let text = usage("no PORT");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "balance: no PORT");
        for (line, synopsis) in lines[1..4].iter().zip(SYNOPSIS) {
            assert!(line.ends_with(synopsis), "{line}");
        }
        assert_eq!(lines[4..], ["try 'balance --help'"]);
        assert!(text.ends_with('\n'));
    }
}
