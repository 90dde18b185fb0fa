//! What an operator is told of mistakes: which one it is, and what would be right.
//!
//! Source: docs/compatibility.md, docs/file.md, docs/control.md.

use crate::harness::{Directory, Instance, Run};

#[test]
fn a_link_local_address_needs_its_interface() {
    let directory = Directory::new();
    let check = |args: &[&str]| Run::balance(&directory).arg("--check-only").args(args).finish();
    let cure = "fe80::1 is a link-local address; write it with its interface, such as fe80::1%";
    for (args, word) in [
        (&["80", "[fe80::1]"][..], "[fe80::1]"),
        (&["80", "127.0.0.1:9", "[fe80::1]:80:3"], "[fe80::1]:80:3"),
        (&["-b", "fe80::1", "80", "127.0.0.1:9"], "fe80::1"),
        (&["-B", "fe80::1", "80", "127.0.0.1:9"], "fe80::1"),
    ] {
        let said = check(args).code(65).out("").stderr;
        assert!(
            said.starts_with(&format!("unknown or invalid address [{word}]\nbalance: {cure}")),
            "{args:?}: {said}"
        );
    }
    // That is a host and a limit, as ever.
    check(&["80", "fe80::1"]).code(65).err("; the IPv6 address is written [fe80::1]\n");
    check(&["-b", "fe80::1%lo", "80", "fe80::1%lo", "[fe80::1%lo]:80"]).code(0);
    let file =
        directory.file("services", "* -B fe80::1\n80 127.0.0.1:9 [fe80::1]:81\n").display().to_string();
    let said = check(&["--file", &file]).code(78).out("").stderr;
    for place in ["1:6", "2:16"] {
        assert!(said.contains(&format!("services:{place}: unknown or invalid address [")), "{said}");
    }
    assert_eq!(said.matches(cure).count(), 2, "{said}");
    // A running instance takes none either, and its log says why.
    let instance = Instance::before(&[&"127.0.0.1:9"]);
    for command in ["create fe80::1 80", "create [fe80::1] 80", "disable 0; assign 0 fe80::1 80"] {
        let said = instance.ctl(command).code(65).stdout;
        assert!(said.ends_with("invalid address\n"), "{command}: {said}");
    }
    assert!(instance.stderr().contains(cure), "{}", instance.stderr());
    instance.end();
}
