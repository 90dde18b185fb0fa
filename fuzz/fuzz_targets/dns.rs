//! Messages from name servers and from impostors: no panic, and a message counts as an answer only to its own
//! question.
//!
//! `cargo fuzz run dns`. The first byte of the input says what was asked for, and how long the pieces of a
//! stream are.
#![no_main]

use balance::wire::dns::{DnsFrames, DnsKind, DnsName, DnsQuery, DnsReply, dns_frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&first, bytes)) = data.split_first() else { return };
    let kind = [DnsKind::A, DnsKind::Aaaa, DnsKind::Srv][usize::from(first % 3)];
    let name = DnsName::read("_a._b.c").expect("a name");
    let query = DnsQuery { id: 7, name, kind };
    // As it came, and with the header and question that make it an answer.
    let mut whole = query.message();
    whole[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, first]);
    whole.extend_from_slice(bytes);
    for message in [bytes, &whole[..]] {
        match query.read(message) {
            DnsReply::Found { addresses, targets, .. } => {
                assert!(addresses.is_empty() == (kind == DnsKind::Srv));
                assert!(targets.is_empty() == (kind != DnsKind::Srv));
                assert!(targets.iter().all(|one| one.port > 0 && !one.host.contains(char::is_whitespace)));
            }
            DnsReply::Failed(why) => assert!(!why.is_empty() && !why.contains(char::is_control)),
            _ => {}
        }
        let other = DnsQuery { id: 8, ..query.clone() };
        assert!(message.starts_with(&[0, 8]) || other.read(message) == DnsReply::NotOurs);
    }
    let stream = dns_frame(&whole);
    let mut frames = DnsFrames::default();
    let mut seen = Vec::new();
    for piece in stream.chunks(usize::from(first).max(1)) {
        frames.add(piece);
        seen.extend(frames.take());
    }
    assert_eq!(seen, [whole]);
});
