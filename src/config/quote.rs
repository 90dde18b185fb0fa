//! Words as a POSIX shell reads them back.
//!
//! Knows: what a shell would not leave alone. Never: what a word means.

/// The word as a shell reads it back. Between single quotes nothing is special to any of them, not even the `!` of an
/// interactive one's history.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,+@%=".contains(c);
    // `=ls` is the path of ls to some shells.
    if !word.is_empty() && !word.starts_with('=') && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_reads_each_word_as_it_was() {
        let hostile = [
            "",
            " ",
            "plain",
            "a b",
            "it's",
            "'",
            "''",
            "\"",
            "$HOME",
            "$(echo x)",
            "`echo x`",
            "*",
            "?",
            "[a-z]",
            "!",
            "!!",
            "%",
            "-",
            "--",
            "-n",
            "a\nb",
            "\n",
            "a\tb",
            "\\",
            "a\\nb",
            "a\\'b",
            "~",
            "~root",
            "#",
            "a#b",
            "a;b",
            "a|b&c",
            "<x>y",
            "{a,b}",
            "=ls",
            "a=b",
            "x^y",
            "ü",
            "\u{a0}",
        ];
        let words: Vec<_> = hostile.iter().map(|word| quoted(word)).collect();
        let script = format!(r#"printf "%s\\0" {}"#, words.join(" "));
        let output = Command::new("sh").args(["-c", &script]).output().expect("there is a shell");
        let printed = String::from_utf8(output.stdout).expect("as it was given");
        let read: Vec<_> = printed.split_terminator('\0').collect();
        assert_eq!(read, hostile, "{script}");
        assert_eq!((quoted("!"), quoted("")), ("'!'".to_owned(), "''".to_owned()));
    }
}
