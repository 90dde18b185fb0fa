//! Service files from strangers: the result is either specifications that print as a file with the same
//! meaning, or errors of one short line each.
#![no_main]

use balance::config::{print_file, read_file};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| match read_file("f", text) {
    Ok((process, services)) => {
        let printed = print_file(&process, &services);
        assert_eq!(read_file("f", printed.as_bytes()), Ok((process, services)), "{printed}");
    }
    Err(errors) => {
        assert!(!errors.is_empty() && errors.len() <= 101);
        for error in errors {
            let line = error.to_string();
            assert!(line.starts_with("f:") && line.len() < 4_000, "{line}");
        }
    }
});
