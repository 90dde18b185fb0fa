//! The manual page, made from the table of options.
//!
//! Knows: roff, the sections of a manual page. Never: the terminal, today's date.
//! `balance.1` in the root of the tree is this page; `balance --man > balance.1` makes it anew.

use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

use super::page::command;
use super::usage::{COMMANDS, EXAMPLES};

/// The date of the page, changed by hand with its text. It is fixed, so that the page is the same on every
/// machine.
const DATE: &str = "2026-11-29";

const SOURCE: &str =
    concat!("balance ", env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"));

const DESCRIPTION: &str = "\
balance listens on PORT and hands each client to one of its channels. A channel is a host and a port, with an optional \
limit of simultaneous connections. Channels form groups. balance tries the first group first. Within a group, a client gets \
the next channel in turn, or, in a group that % ends, the channel that its address maps to. balance skips a channel that is \
disabled, full or does not answer. If a group has no other channel, it goes to the next group. If there is none, it closes the client.

balance ejects a channel whose connect fails: no client gets it while another channel is usable, and balance tries it in \
the background until it answers. With --check, balance checks all channels, and skips those that are down.

Without -f, balance goes into the background, and exit status 0 means that it serves. PORT may stand alone, without a \
channel: you can create channels while balance runs.

Options may stand anywhere. Short ones may be written together (-fp, -t2). -- ends the options. If an option is given \
twice, the last one counts. -i and -c cannot be used together.";

const STATUS: &[(&str, &str)] = &[
    ("0", "balance serves, or the command succeeded; doctor: all is fine"),
    ("1", "-c doctor: advice"),
    ("2", "-c doctor: something is broken, or no instance answers"),
    ("64", "wrong usage, or PORT is neither a number from 1 to 65535 nor a known service; -c: syntax error"),
    (
        "65",
        "a CHANNEL or ADDR is unknown or invalid, or the group of --control-group or the user of --user does not exist; --check-only: a program cannot be \
         run, or the file of --state cannot be used; -c: the command failed in another way",
    ),
    (
        "69",
        "! or % has no channel before it; -c and -i: there is no instance, it could not be stopped, an upgrade failed and the old \
         process goes on, ready found a service without a usable channel, or reopen found no access log",
    ),
    (
        "71",
        "balance cannot listen on the address or open the file of --access-log, --replace was refused, the limit of open files \
         is too low, balance may not become the user of --user, or the system lacks the congestion control of --loopback-congestion; \
         -c: reopen cannot open the file of --access-log. The message names the cause",
    ),
    ("74", "-c, --list: the answer could not be written"),
    ("75", "-c: wait timed out, another process was taking over, or 16 taps are open: try again"),
    ("77", "-c: upgrade PATH or tap by a member of --control-group"),
    (
        "78",
        "a file of --file, --allow or --deny cannot be read or has errors; -c: a reload failed, and the last line of the answer says whether \
         nothing was changed, or not everything is as the files say",
    ),
];

const FILES: &[(&str, &str)] = &[
    (
        "/run/balance/balance.PORT.ADDR",
        "the Unix socket on which an instance takes commands from its owner, root and --control-group",
    ),
    (
        "/run/balance/service.NAME",
        "the same socket, under the name of a service. The environment variable BALANCE_RUN_DIR, an absolute path, takes the \
         place of /run/balance",
    ),
    (
        "/run/balance/service.process.PID",
        "the socket of a process that takes no clients any more and serves its connections to their end: balance -c sessions process.PID. \
         A process that serves is found by process.PID, too",
    ),
    ("$XDG_RUNTIME_DIR/balance/", "the same for users who cannot write there"),
    (
        "FILE, FILE.lock, FILE.bad of --state",
        "what operators have changed, the lock of the instance that writes it, and what could not be read",
    ),
    ("/etc/services", "names of ports"),
];

const HEALTH: &[&str] = &[
    "balance ejects a channel when a client's connect to it is refused, times out or meets an unreachable host. Errors of balance's \
     own machine (descriptors, source ports, -B) eject nothing. In the background, balance tries to connect after 250 ms, 500 ms, \
     1 s and then every 2 s, give or take 10 %. The first try that succeeds brings the channel back.",
    "balance also ejects a channel that closes three connections in a row at once, without a byte, while another channel of its \
     group answers its clients: for a second, then for longer each time, up to a minute. It never ejects more than half of a group \
     for this.",
    "A channel is up if it is neither ejected nor, by --check, down. If no channel that is up has room, in any group, \
     balance tries those that are not up, unless --fail-open is off.",
    "The command status shows the health of each channel beside what the operator decided: up, untried (no client's \
     connect and no check has succeeded or failed yet), ramp:N% (--slow-start), ejected or down, since when, and why. enable, disable and weight do not change it, and \
     it does not change them. The log has event=ejected, returned, channel_down, channel_up, and with --refuse-when-down \
     refusing and welcoming. It has event=no_channel_up when the last channel goes, and channel_up_again when one is back. A \
     line of status counts the clients that were lost before they had a channel, and says why.",
];

const FILE: &[&str] = &[
    "With --file each line of a file is one service, written as on the command line: [NAME:] [OPTIONS] PORT [CHANNEL ...]. A # \
     begins a comment, a backslash at the end joins a line to the next one, and quotes work as in a shell. Quote what is special \
     to a shell. NAME: gives the service a name.",
    "A line * OPTIONS has options of the process (-f, -d, --log-time, -p, --workers, --busy-poll, --dns, --loopback-congestion, \
     --drain-timeout, --state, --http, --http-token-file, --access-log, --access-log-format, --access-log-at, --control-group, --user, --landlock), and options \
     of the services that follow. A service's own line wins over it. Options beside --file on the command line hold for all services; for \
     options of the process, those on the command line win.",
    "In a directory, balance reads the files *.conf in the order of their names. It reads several files as if they were one. balance reports all \
     errors at once, each with file, line and column. --check-only prints them, or how many services and channels there are, \
     and starts nothing.",
];

const SIGNALS: &[(&str, &str)] = &[
    (
        "TERM",
        "frees the ports at once, and serves the existing connections until they end, for --drain-timeout at most. Then balance \
         exits with 0. Without connections it exits at once. A second TERM closes all connections at once. The command kill \
         frees the port too, and lets connections continue without a time limit",
    ),
    ("INT, QUIT", "end the process at once: it frees the ports, closes its connections and exits with 0"),
    (
        "HUP",
        "in the foreground at a terminal, without nohup, like INT: the terminal is lost. Otherwise balance reads the files of --file \
         again, as the command reload does, and opens the file of --access-log again. Without both it ignores and logs the signal",
    ),
    (
        "USR1",
        "opens the file of --access-log again, as the command reopen does; without one, balance ignores and logs the signal",
    ),
    (
        "USR2",
        "starts the program again, as it is on disk now, and hands everything over to it, as the command upgrade does",
    ),
    (
        "others",
        "balance ignores signals that would end the process, except KILL and the signals of its own faults. It logs them, except PIPE",
    ),
];

const DIFFERENCES: &[&str] = &[
    "A background start that fails says so and exits with the status above; 3.57 exited with 0.",
    "Each side of a connection can end on its own (half-close). A reset stays a reset, and urgent data passes in both \
     directions. Two sides that both send much do not block each other.",
    "A hash group maps by the client's whole address, without its port, and adding or losing a channel moves only the \
     clients it must.",
    "A channel whose connect fails is not offered while another one is usable; --no-eject offers it as 3.57 does.",
    "-t and -T take fractions and units. -t 0 is wrong usage; -T 0 means never, which is the default.",
    "IPv6 channels are written [addr]:port:maxc, a comma after a channel begins its options, and - stands for no channel.",
    "-c takes several commands separated by semicolons, and exits with 64 or 65 when one is answered with an error.",
    "-p without -f warns and prints nothing; 3.57 wrote the dump into a connection.",
    "-M is accepted and changes nothing: nothing is shared with other processes.",
    "Commands go through a Unix socket that checks who is asking.",
];

/// The manual page in roff. It has the same bytes on every machine.
pub(super) fn man_page() -> Vec<u8> {
    // Without headings, all options are in the one section OPTIONS, where readers look for them.
    let options = command().long_about(DESCRIPTION).mut_args(|arg| arg.help_heading(None::<&str>));
    let man = Man::new(options).title("BALANCE").date(DATE).source(SOURCE).manual("User Commands");
    let mut page = Vec::new();
    let rendered = [Man::render_title, Man::render_name_section, Man::render_synopsis_section]
        .into_iter()
        .chain([Man::render_description_section, Man::render_options_section])
        .try_for_each(|render| render(&man, &mut page))
        .and_then(|()| own_sections().to_writer(&mut page));
    debug_assert!(rendered.is_ok(), "a Vec takes every write");
    without_repeated_preamble(page)
}

/// Each rendered section begins with the same definitions. roff needs them once, at the top.
fn without_repeated_preamble(page: Vec<u8>) -> Vec<u8> {
    let page = String::from_utf8_lossy(&page).into_owned();
    let (preamble, rest) = page.split_at(page.find(".TH ").unwrap_or(0));
    let rest = if preamble.is_empty() { rest.to_owned() } else { rest.replace(preamble, "") };
    format!("{preamble}{rest}").into_bytes()
}

fn own_sections() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    roff.text([roman(
        "A running instance understands these, in the shell of -i and as CMD of -c. A word may be shortened (s is show, \
         h is help, m is maxc). Most work on the current group of the current service. CMD starts in group 0 of the service that was asked for.",
    )]);
    terms(&mut roff, COMMANDS);
    paragraphs(&mut roff, "HEALTH OF CHANNELS", HEALTH);
    paragraphs(&mut roff, "SERVICES IN A FILE", FILE);
    roff.control("SH", ["EXIT STATUS"]);
    terms(&mut roff, STATUS);
    roff.control("SH", ["SIGNALS"]);
    terms(&mut roff, SIGNALS);
    roff.control("SH", ["FILES"]);
    terms(&mut roff, FILES);
    roff.control("SH", ["EXAMPLES"]);
    terms(&mut roff, EXAMPLES);
    roff.control("SH", ["DIFFERENCES FROM BALANCE 3.57"]);
    for difference in DIFFERENCES {
        roff.control("IP", ["\\(bu", "2"]);
        roff.text([roman(*difference)]);
    }
    roff.control("SH", ["SEE ALSO"]);
    let pages = [
        ("balance-file", "(5), "),
        ("services", "(5), "),
        ("systemd.service", "(5), "),
        ("systemd.socket", "(5), "),
        ("tcp", "(7), "),
        ("unix", "(7), "),
        ("syslog", "(3), "),
        ("logrotate", "(8), "),
        ("keepalived", "(8), "),
        ("ss", "(8)"),
    ];
    roff.text(pages.into_iter().flat_map(|(page, section)| [bold(page), roman(section)]).collect::<Vec<_>>());
    roff.control("PP", []);
    roff.text([roman(
        "The source has one page for each task in docs/. To begin: start.md, migrate.md, install.md, systemd.md, containers.md. Servers: \
         databases.md, mail.md, ssh.md, tls.md, rolling-restart.md, server-dies.md, health.md, pause.md, policies.md, names.md, unix-sockets.md, \
         port-ranges.md, routing.md, proxy-protocol.md, access.md. Several hosts: pair.md, many.md. Operation: file.md, reload.md, upgrade.md, \
         stop.md, state.md, control.md, observability.md, json.md, sizing.md, troubleshooting.md. More: reference.md, glossary.md, compatibility.md, performance.md, \
         conformance.md, compared.md, inside.md.",
    )]);
    roff
}

fn paragraphs(roff: &mut Roff, title: &str, list: &[&str]) {
    roff.control("SH", [title]);
    for paragraph in list {
        roff.control("PP", []);
        roff.text([roman(*paragraph)]);
    }
}

fn terms(roff: &mut Roff, list: &[(&str, &str)]) {
    for (term, meaning) in list {
        roff.control("TP", []);
        roff.text(Vec::<Inline>::from([bold(*term)]));
        roff.text([roman(*meaning)]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::options;
    use super::*;

    #[test]
    fn the_committed_page_is_the_one_the_program_prints() {
        let committed = include_str!("../../balance.1");
        let printed = String::from_utf8(man_page()).expect("text");
        assert!(committed == printed, "balance.1 is out of date; make it anew: balance --man > balance.1");
    }

    #[test]
    fn the_page_has_every_section_and_every_option() {
        let page = String::from_utf8(man_page()).expect("text");
        for section in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "COMMANDS",
            "\"HEALTH OF CHANNELS\"",
            "\"SERVICES IN A FILE\"",
            "\"EXIT STATUS\"",
            "FILES",
            "EXAMPLES",
            "\"DIFFERENCES FROM BALANCE 3.57\"",
            "\"SEE ALSO\"",
        ] {
            assert_eq!(page.matches(&format!(".SH {section}\n")).count(), 1, "{section}");
        }
        let plain = page.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "");
        for row in options() {
            for name in row.names() {
                assert!(plain.contains(&format!("--{name}")), "--{name}");
            }
        }
    }
}
