//! Quotes words for a POSIX shell.
//!
//! Knows: which characters are special to a shell. Never: what a word means.

/// The word, quoted if necessary, so that a shell reads it as it is. Within single quotes nothing is special
/// to any shell, not even the `!` of an interactive shell's history.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,+@%=".contains(c);
    // Some shells expand `=ls` to the path of ls.
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
