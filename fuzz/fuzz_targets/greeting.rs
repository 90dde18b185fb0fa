//! The first bytes of clients and proxies: no panic, and the same result however they are split.
//!
//! `cargo fuzz run greeting`. The first byte of the input says what is wanted, and how long the pieces are.
#![no_main]

use balance::wire::greeting::{Greeted, GreetingError, GreetingReader, Introduced, TlsRequest, Wants, asks_of};
use libfuzzer_sys::fuzz_target;

type Heard = (Option<Introduced>, Greeted);

fn fed(bytes: &[u8], wants: Wants, piece: usize) -> Result<Option<Heard>, GreetingError> {
    let mut reader = GreetingReader::new(wants, Vec::new());
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes.len().min(at + piece);
        let mut heard = reader.feed(&bytes[at..end]);
        at = end;
        while let (Ok(None), Some(_)) = (&heard, reader.answer()) {
            heard = reader.answered();
        }
        let heard = heard?;
        if let Some(mut greeted) = heard {
            greeted.rest = [&greeted.rest, &bytes[at..]].concat().into();
            return Ok(Some((reader.take_header(), greeted)));
        }
        assert!(reader.bytes().len() <= GreetingReader::MOST || piece > reader.room());
    }
    Ok(None)
}

fuzz_target!(|data: &[u8]| {
    let Some((&first, bytes)) = data.split_first() else { return };
    let tls = [TlsRequest::Never, TlsRequest::Awaited, TlsRequest::Granted, TlsRequest::Never][usize::from(first >> 2 & 3)];
    let wants = Wants { header: first & 1 == 1, hello: first & 2 == 2, tls };
    let whole = fed(bytes, wants, bytes.len().max(1));
    let cut = fed(bytes, wants, usize::from(first >> 4).max(1));
    // Nothing may come between a request for TLS and its answer; in pieces, it comes after the answer.
    if tls != TlsRequest::Awaited {
        assert_eq!(cut, whole);
    }
    if let Ok(Some((header, greeted))) = whole {
        assert_eq!(header.is_some(), wants.header);
        assert!(bytes.ends_with(&greeted.rest));
        // What is held can be read again with the same result.
        assert!(!wants.hello || asks_of(&greeted.rest) == greeted.asks);
    }
});
