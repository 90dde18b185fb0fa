//! What the asking side can see by itself if no instance answers, and why none does.
//!
//! Knows: the errors met while looking for an instance. Never: how an instance is found.

use std::path::Path;

use super::finding::{Diagnosis, Finding};
use super::kernel::KernelSigns;
use crate::control::directory::Place;

/// Is the text the one command `doctor`?
pub(crate) fn is_doctor(text: &[u8]) -> bool {
    let mut words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.next() == Some(b"doctor") && !text.contains(&b';') && !text.contains(&b'\n')
}

/// The diagnosis if no instance answers: `why`, and whether any process listens on the port (on one of
/// `addresses`, if given).
pub(crate) fn nobody(why: &str, port: Option<u16>, addresses: Option<&[Place]>) -> Diagnosis {
    let mut listeners =
        port.map(|port| KernelSigns::read(Path::new("/"), &[port]).listeners).unwrap_or_default();
    if let Some(addresses) = addresses {
        let is_asked = |at: Place| at.is_wildcard() || addresses.contains(&at);
        listeners.retain(|one| is_asked(one.address.into()));
    }
    // `why` begins with the general message, and each of its lines with our name. Both are left out here.
    let lines = why.lines().map(|line| line.trim_start_matches("balance: ").trim_end_matches('.'));
    let met: Vec<&str> = lines.filter(|line| *line != "no master process, exiting").collect();
    let met = if met.is_empty() { String::new() } else { format!(" ({})", met.join("; ")) };
    let mut findings = vec![Finding {
        check: "control-socket",
        ..Finding::broken(
            format!("no instance answers{met}"),
            "without its control socket an instance cannot be asked or changed, and it may not run at all",
            "balance --list shows those that answer; run this as the user of the instance, or as root, with its -b and BALANCE_RUN_DIR",
        )
    }];
    if let Some(one) = listeners.first() {
        findings.push(Finding {
            check: "shared-port",
            ..Finding::broken(
                format!(
                    "a process of user {} listens on {}, and it is not an instance that answers here",
                    one.uid, one.address
                ),
                "that process gets the clients of the port",
                format!("ss -ltnp 'sport = :{}' shows which", one.address.port()),
            )
        });
    }
    Diagnosis { checks: 2, services: 0, findings, holds: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_met_is_one_line() {
        let said = |why| nobody(why, None, None).to_string();
        assert!(
            said("no master process, exiting.")
                .starts_with("broken control-socket: no instance answers. Why: ")
        );
        let several = said("no master process, exiting.\nbalance: /run/x is skipped: chmod +t /run/x\n");
        assert!(
            several.contains("no instance answers (/run/x is skipped: chmod +t /run/x). Why: "),
            "{several}"
        );
        assert_eq!(several.lines().count(), 1);
    }

    #[test]
    fn a_doctor_among_other_commands_is_not_the_whole_question() {
        for (text, expected) in [
            ("doctor", true),
            (" doctor web json", true),
            ("doctor; show", false),
            ("show", false),
            ("", false),
        ] {
            assert_eq!(is_doctor(text.as_bytes()), expected, "{text:?}");
        }
    }
}
