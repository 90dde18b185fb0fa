//! Command lines from strangers: the grammar of destinations, and the whole of `argv`.
//!
//! `cargo fuzz run target`. The input is words separated by NUL, as in `/proc/PID/cmdline`.
#![no_main]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use balance::config::{Invocation, Word, parse, print_channel, print_line, read_channel, read_groups, read_line};
use balance::spec::Member;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let words: Vec<OsString> =
        data.split(|b| *b == 0).map(|word| OsStr::from_bytes(word).to_owned()).collect();
    let word = |text: OsString| Word { text, at: None };

    let mut errors = Vec::new();
    let typed: Vec<Word> = words.iter().cloned().map(word).collect();
    let (groups, sections) = read_groups(&typed, &mut errors);
    assert!(!errors.is_empty() || sections.iter().all(|section| section.group < groups.len()));
    for member in groups.iter().flat_map(|group| &group.members) {
        let Member::Channel(channel) = member else { continue };
        let again = read_channel(&word(print_channel(channel).into())).expect("what prints a channel reads as one");
        assert_eq!(again, *channel);
    }
    assert!(!errors.is_empty() || groups.iter().all(|group| !group.members.is_empty()));
    let _ = read_line(&typed);

    let argv: Vec<OsString> = std::iter::once("balance".into()).chain(words).collect();
    match parse(&argv) {
        Ok(Invocation::Serve(serve)) => {
            assert!(!serve.service.connect_timeout.is_zero());
            assert!(!print_line(&serve.service).is_empty());
        }
        Ok(_) => (),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
