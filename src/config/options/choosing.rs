//! Options about how a channel is chosen.

use super::super::policy::PolicyWord;
use super::super::row::{PLAIN, Row, TIME, Value, set};
use super::super::values::{Bad, Span, print_or, print_thousandths, thousandths};

/// The rows in the order of help, of the manual page and of `save`.
pub(in super::super) static ROWS: &[Row] = &[
    Row {
        short: Some('a'),
        long: "disable-on-failure",
        older: &["autodisable"],
        help: "Disable a channel whose connect fails, until you enable it",
        more: "The command enable brings it back. Example: balance -a 80 web1 web2",
        read: |draft, _| set(&mut draft.service.autodisable, true),
        print: |draft| draft.service.autodisable.to_string(),
        ..PLAIN
    },
    Row {
        short: Some('H'),
        long: "hash-failover",
        help: "Let clients of a hash group go to its other channels when theirs is down",
        more: "The clients of a channel that is down go to the other channels of the group. Without the option they go to the \
               next group, and balance closes their connections if there is none. Example: balance -H 80 web1 web2 web3 %",
        read: |draft, _| set(&mut draft.service.hash_failover, true),
        print: |draft| draft.service.hash_failover.to_string(),
        ..PLAIN
    },
    Row {
        long: "policy",
        value: Value::Like("NAME[,...]", || vec!["rr", "leastconn", "p2c", "first", "hash"]),
        help: "Choose a channel by: rr, leastconn, p2c, first or hash",
        default: "rr",
        more: "rr: in turn. leastconn: the channel with the fewest connections for its weight. p2c: the better of two \
               channels chosen at random. first: the first channel that has room. hash: always the same channel for the same \
               client.\n\n\
               One word is for all groups that \"!\" or the end of the line ends, and for groups that are created later. A \
               list has one word for each group; one more word than there are groups is for groups that are created later. \
               A group that \"%\" ends \
               is a hash group. Example: balance --policy leastconn,rr 80 web1 web2 ! web3 web4",
        read: |draft, word| set(&mut draft.policy, PolicyWord::read(&word.lossy()).map_err(Bad::Value)?),
        print: |draft| draft.policy.print(),
        ..PLAIN
    },
    Row {
        long: "hash-balance",
        value: Value::Word("FACTOR"),
        help: "Maximum load of one channel in a hash group, as a multiple of the average",
        more: "1 to 100, with at most 3 decimals. With 1.25, a channel that has a quarter more connections than the average of \
               its group is passed over. Its clients get the channel they would get if it did not exist. Without the option \
               a hash group does not look at the load. Example: balance --hash-balance 1.25 80 web1 web2 web3 %",
        read: |draft, word| match thousandths(&word.lossy()) {
            Some(factor @ 1_000..=100_000) => set(&mut draft.service.hash_balance, Some(factor)),
            _ => Err(Bad::Value(
                "is not a number from 1 to 100 with at most 3 decimals, such as 1.25".to_owned(),
            )),
        },
        print: |draft| print_thousandths(draft.service.hash_balance),
        ..PLAIN
    },
    Row {
        long: "slow-start",
        value: TIME,
        help: "Raise a returning channel's share over this time",
        more: "A channel that was enabled or has come up again gets few clients at first, then more and more, and its full \
               share after this time. The option works in groups that are rr, leastconn or p2c. Example: balance \
               --slow-start 30s 80 web1 web2",
        read: |draft, word| set(&mut draft.service.slow_start, Span::or("off").read_or(word)?),
        print: |draft| print_or(draft.service.slow_start),
        ..PLAIN
    },
];
