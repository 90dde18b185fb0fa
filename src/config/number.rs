//! Whole numbers as they are typed.
//!
//! Knows: digits. Never: what a number is for, its range.

/// Reads a whole number. `None`: the word has other characters than digits, or none. `Some(None)`: the number
/// does not fit into 64 bits.
pub(super) fn whole_number(word: &str) -> Option<Option<u64>> {
    let is_number = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| word.parse().ok())
}
