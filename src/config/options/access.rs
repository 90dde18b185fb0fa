//! Options about which clients are accepted, and how much one client may have.

use std::num::NonZeroU32;

use super::super::nets::{print_list, print_rate, read_list, read_prefix, read_rate};
use super::super::row::{NEEDS_ADDRESSES, NUMBER, Need, PLAIN, Row, Value, set};
use super::super::values::{Count, print_count};

const LIST: Value = Value::Word("LIST");

/// The rows in the order of help, of the manual page and of `save`.
pub(in super::super) static ROWS: &[Row] = &[
    Row {
        long: "allow",
        value: LIST,
        help: "Accept only clients from these networks",
        default: "any",
        more: "LIST has addresses, networks and files, with commas between them. A file is given by its whole path. It has one \
               address or network on each line; the rest of a line after # or ; is a comment. balance reads a file again within two seconds of a change, and on reload. A file with a wrong line changes nothing, and the log names the \
               line. If a client is in several networks, the longest prefix decides; between --allow and --deny of the same \
               length, --deny does. Several --allow in one line are one list. Example: balance --allow 10.0.0.0/8,2001:db8::/32 5432 db1 db2",
        read: |draft, word| set(&mut draft.service.allow, read_list(word, "any")?),
        print: |draft| print_list(draft.service.allow.as_ref()),
        needs: &[NEEDS_ADDRESSES],
        joins: true,
        ..PLAIN
    },
    Row {
        long: "deny",
        value: LIST,
        help: "Refuse clients from these networks",
        default: "none",
        more: "LIST is as for --allow. A refused client gets a reset. The command deny adds to this while balance runs. Example: \
               balance --deny /etc/balance/bad.txt,203.0.113.0/24 80 web1 web2",
        read: |draft, word| set(&mut draft.service.deny, read_list(word, "none")?),
        print: |draft| print_list(draft.service.deny.as_ref()),
        needs: &[NEEDS_ADDRESSES],
        joins: true,
        ..PLAIN
    },
    Row {
        long: "client-max",
        value: NUMBER,
        help: "Maximum number of connections of one client",
        default: "no limit",
        more: "Further connections of the same client get a reset. Connections that wait are counted, and an upgrade keeps the \
               count. --client-prefix says which addresses are one client. Example: balance --client-max 20 80 web1 web2",
        read: |draft, word| {
            let most: u32 = Count::or("no limit", u32::MAX).read(word)?;
            set(&mut draft.service.client_max, NonZeroU32::new(most))
        },
        print: |draft| print_count(draft.service.client_max),
        ..PLAIN
    },
    Row {
        long: "client-rate",
        value: Value::Word("N/TIME"),
        help: "Maximum number of new connections of one client in this time",
        default: "no limit",
        more: "With 10/10s, a client can open 10 connections at once, and one more each second. A client that opens at most N \
               connections in any TIME is never refused. Further connections get a reset and do not count. Example: balance \
               --client-rate 10/10s 25 mx1 mx2",
        read: |draft, word| set(&mut draft.service.client_rate, read_rate(word)?),
        print: |draft| print_rate(draft.service.client_rate),
        ..PLAIN
    },
    Row {
        long: "client-prefix",
        value: Value::Word("V4,V6"),
        help: "Number of address bits that make one client, for IPv4 and IPv6",
        default: "32,64",
        more: "Addresses that have these leading bits in common count as one client. Example: balance --client-max 20 --client-prefix \
               24,56 80 web1 web2",
        read: |draft, word| set(&mut draft.service.client_prefix, read_prefix(word)?),
        print: |draft| draft.service.client_prefix.to_string(),
        needs: &[Need {
            is_met: |draft| draft.service.client_max.is_some() || draft.service.client_rate.is_some(),
            wrong: "needs --client-max or --client-rate; say what one client may have, such as --client-max 20",
        }],
        ..PLAIN
    },
];
