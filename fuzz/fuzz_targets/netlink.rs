//! What the kernel answers about routes, rules and marks, cut and distorted: it is read to its end, without a panic; and PORT as the name of a
//! Unix socket.
//!
//! `cargo fuzz run netlink`. The input is a datagram, and a word.
#![no_main]

use balance::config::read_ports;
use balance::spec::PortsSpec;
use balance::sys::netlink::read_any;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    assert!(read_any(data) <= 1 + data.len() / 16);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let ports = read_ports(&format!("unix:{text}"));
    if let Some(PortsSpec::Unix(name)) = ports {
        assert!(!text.contains([':', ',']), "what belongs to a channel is no part of a name");
        assert_eq!(read_ports(&name.to_string()), Some(PortsSpec::Unix(name)), "what prints a name reads as one");
    }
});
