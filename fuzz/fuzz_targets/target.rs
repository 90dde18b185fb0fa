//! Command lines from strangers: the grammar of destinations, and the whole of `argv`.
//!
//! `cargo fuzz run target`. The input is words with NUL between them, as in `/proc/PID/cmdline`.
#![no_main]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use balance::config::{CliError, Invocation, parse, parse_groups};
use balance::spec::{ChannelSpec, Member};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let words: Vec<OsString> =
        data.split(|b| *b == 0).map(|word| OsStr::from_bytes(word).to_owned()).collect();

    if let Ok(groups) = parse_groups(&words) {
        for member in groups.iter().flat_map(|group| &group.members) {
            let Member::Channel(target) = member else { continue };
            let printed = target.to_string();
            let again = ChannelSpec::parse(OsStr::new(&printed)).expect("what prints a target reads as one");
            assert_eq!(again, *target);
        }
        assert!(groups.iter().all(|group| !group.members.is_empty()));
    }

    let argv: Vec<OsString> = std::iter::once("balance".into()).chain(words).collect();
    match parse(&argv) {
        Ok(raw) => match Invocation::try_from(raw) {
            Ok(Invocation::Serve(serve)) => assert!(!serve.service.connect_timeout.is_zero()),
            Ok(_) => (),
            Err(error) => assert!(!error.to_string().is_empty()),
        },
        Err(CliError::Usage { text }) => assert!(text.starts_with("balance: ")),
        Err(CliError::Help(_) | CliError::Version(_)) => (),
    }
});
