//! Files of networks from strangers, and the rules made from them.
//!
//! `cargo fuzz run nets`. The input is a file as `--deny` takes it.
#![no_main]

use balance::config::{parse_net, parse_nets, print_net};
use balance::sched::{RuleSet, Ruling};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match parse_nets(data) {
        Ok(nets) => {
            for &net in &nets {
                assert_eq!(parse_net(&print_net(net)), Ok(net), "what prints a network reads as one");
            }
            let verdicts = [Ruling::Allow, Ruling::Deny].into_iter().cycle();
            let rules = RuleSet::new(nets.iter().copied().zip(verdicts), false);
            assert!(rules.bytes() <= nets.len() * 2 * 18 + 64);
        }
        Err((line, column, why)) => {
            assert!(line >= 1 && column >= 1 && !why.is_empty());
            assert!(!why.contains(|c: char| c.is_control()), "a message is one line");
        }
    }
});
