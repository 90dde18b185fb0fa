//! What a command line probably means whose PORT turned out to be wrong.
//!
//! Knows: words, which options take a value, names of commands. Never: whether a service or a host exists.

use std::ffi::OsString;

use super::draft::Draft;
use super::split::Split;
use super::usage::command_names;
use super::wrong::Word;
use crate::spec::Typed;

/// The sentence for a command line that was refused because of PORT (`is_port_wrong`) or a channel. `None`:
/// nothing is known.
pub fn what_was_meant(argv: &[OsString], is_port_wrong: bool) -> Option<String> {
    let words: Vec<_> = argv.iter().skip(1).map(|text| Word { text: text.clone(), at: None }).collect();
    let split = Split::of(&words);
    let mut scratch = Draft::new(Draft::ANY_PORT, Typed::default());
    super::line::read_options(&split, &[], &mut scratch, &mut Vec::new());
    if scratch.ask.interactive || scratch.ask.command.is_some() {
        return None;
    }
    let shown: Vec<String> = split.positionals.iter().map(Word::shown).collect();
    let (port, rest) = shown.split_first()?;
    if command_names().any(|name| name == port) {
        let (of_instance, arguments) =
            rest.split_last().map_or(("PORT", &[][..]), |(last, args)| (last, args));
        let command = [std::slice::from_ref(port), arguments].concat().join(" ");
        let command = if arguments.is_empty() { command } else { format!("\"{command}\"") };
        return Some(format!("{port} is a command: balance -c {command} {of_instance}"));
    }
    if !is_port_wrong {
        return None;
    }
    // An option takes the next word whatever it is, and so it may have taken PORT.
    let taken = split.options.iter().rev().find(|given| {
        let is_apart = words.contains(&given.word);
        !given.row.value.is_flag()
            && is_apart
            && given.word.as_str().is_some_and(|word| word.parse::<u16>().is_ok())
    })?;
    Some(format!("{} took '{}' as its value; '{port}' was taken for PORT", taken.name(), taken.word.shown()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_in_the_place_of_port_and_a_port_that_an_option_took_are_seen() {
        for (line, meant) in [
            ("status 80", Some("status is a command: balance -c status 80")),
            ("help", Some("help is a command: balance -c help PORT")),
            ("drain 0 web", Some("drain is a command: balance -c \"drain 0\" web")),
            (
                "-t 8081 host1",
                Some("-t (--connect-timeout) took '8081' as its value; 'host1' was taken for PORT"),
            ),
            ("--queue 8081 host1", Some("--queue took '8081' as its value; 'host1' was taken for PORT")),
            ("-t8081 host1", None),
            ("-f host1", None),
            ("99999 a", None),
            ("", None),
            ("-c show status", None),
        ] {
            let argv: Vec<OsString> =
                ["balance"].into_iter().chain(line.split_whitespace()).map(Into::into).collect();
            assert_eq!(what_was_meant(&argv, true).as_deref(), meant, "{line}");
        }
    }
}
