//! JSON in ASCII only: whatever a name or an error text holds, it cannot control a terminal and no character
//! is cut in half.
//!
//! Knows: characters. Never: what is said.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        // The serializer has already escaped control characters below the blank.
        let is_plain = |c: char| matches!(c, ' '..='~');
        let mut rest = fragment;
        while let Some(at) = rest.find(|c| !is_plain(c)) {
            let (plain, other) = rest.split_at(at);
            out.write_all(plain.as_bytes())?;
            let mut others = other.chars();
            let units = others.next().map(|c| c.encode_utf16(&mut [0; 2]).to_vec()).unwrap_or_default();
            units.iter().try_for_each(|unit| write!(out, "\\u{unit:04x}"))?;
            rest = others.as_str();
        }
        out.write_all(rest.as_bytes())
    }
}

/// The value as one line, without a newline.
///
/// # Errors
/// The value has no form in JSON.
pub(super) fn line(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut out, Ascii))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn whatever_steers_a_terminal_is_written_as_its_number() {
        let text = "a\"\\\n\u{1b}[2J\u{7f}\u{9b}\u{202e}\u{e9}\u{1f600}z";
        let expected = r#""a\"\\\n\u001b[2J\u007f\u009b\u202e\u00e9\ud83d\ude00z""#;
        assert_eq!(line(&text).expect("text"), expected.as_bytes());
    }

    proptest! {
        #[test]
        fn any_text_comes_back_as_it_was(text in any::<String>()) {
            let line = line(&text).expect("text");
            prop_assert!(line.iter().all(|byte| (b' '..=b'~').contains(byte)));
            prop_assert_eq!(serde_json::from_slice::<String>(&line).expect("JSON"), text);
        }
    }
}
