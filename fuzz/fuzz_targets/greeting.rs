//! What clients and proxies say first: in any split it says the same, and never a panic.
//!
//! `cargo fuzz run greeting`. The first byte of the input is how long the pieces are.
#![no_main]

use balance::wire::greeting::{Greeted, GreetingError, GreetingReader};
use libfuzzer_sys::fuzz_target;

fn fed(bytes: &[u8], piece: usize) -> Result<Option<Greeted>, GreetingError> {
    let mut reader = GreetingReader::default();
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes.len().min(at + piece);
        let heard = reader.feed(&bytes[at..end])?;
        at = end;
        if let Some(mut greeted) = heard {
            greeted.rest = [&greeted.rest, &bytes[at..]].concat().into();
            return Ok(Some(greeted));
        }
        assert!(reader.bytes().len() <= GreetingReader::MOST);
    }
    Ok(None)
}

fuzz_target!(|data: &[u8]| {
    let Some((&piece, bytes)) = data.split_first() else { return };
    let whole = fed(bytes, bytes.len().max(1));
    assert_eq!(fed(bytes, usize::from(piece).max(1)), whole);
    if let Ok(Some(greeted)) = whole {
        assert!(greeted.rest.len() < bytes.len() && bytes.ends_with(&greeted.rest));
    }
});
