//! The value of `--accept-proxy`: `any`, or a list of addresses, networks and `unix`.
//!
//! Knows: the words of the list, and what is wrong with one. Never: what the list is used for.

use std::net::IpAddr;

use ipnet::IpNet;

use super::nets::{parse_net, print_net};
use super::values::Bad;
use super::wrong::Word;
use crate::spec::{ProxySender, ProxySenders};

const ANY: &str = "any";
const UNIX: &str = "unix";
const GIVE: &str =
    "give addresses such as 192.0.2.7, networks such as 10.0.0.0/8 and unix, separated by commas, or any";

/// Reads the list.
///
/// # Errors
/// What is wrong with the first word that is not legal.
pub(super) fn read_senders(word: &Word) -> Result<ProxySenders, Bad> {
    let text = word.lossy();
    if text == ANY {
        return Ok(ProxySenders::Any);
    }
    let senders = text.split(',').map(sender).collect::<Result<_, _>>();
    senders.map(ProxySenders::Of).map_err(Bad::Value)
}

/// The list as it would be typed.
pub(super) fn print_senders(senders: &ProxySenders) -> String {
    match senders {
        ProxySenders::Any => ANY.to_owned(),
        ProxySenders::Of(senders) => senders.iter().map(print_sender).collect::<Vec<_>>().join(","),
    }
}

fn print_sender(sender: &ProxySender) -> String {
    match sender {
        ProxySender::Net(network) => print_net(*network),
        ProxySender::Unix => UNIX.to_owned(),
    }
}

fn sender(word: &str) -> Result<ProxySender, String> {
    match word {
        UNIX => return Ok(ProxySender::Unix),
        "" => return Err(format!("has an empty entry; {GIVE}")),
        ANY => {
            return Err(format!(
                "has {ANY} beside others; {ANY} stands for every address, so write it alone"
            ));
        }
        _ => {}
    }
    let has_form = word.parse::<IpAddr>().is_ok() || word.parse::<IpNet>().is_ok();
    parse_net(word)
        .map(ProxySender::Net)
        .map_err(|why| if has_form { format!("has '{word}', which {why}") } else { unknown(word) })
}

fn unknown(word: &str) -> String {
    let most = match word.split_once('/').map(|(address, prefix)| (address.parse::<IpAddr>(), prefix)) {
        Some((Ok(IpAddr::V4(_)), _)) => 32,
        Some((Ok(IpAddr::V6(_)), _)) => 128,
        _ => return format!("has '{word}', which is neither an address nor a network; {GIVE}"),
    };
    format!("has '{word}', whose prefix is out of range; give 0 to {most}")
}
