//! Services from files: `--file`, `--check-only`.
//!
//! Source: docs/file.md.

use std::net::SocketAddr;

use crate::harness::{Client, Directory, Finished, Refusing, Run, Server, Setup, needs_root, own_address};

/// Runs `balance ARGS` in the directory, so that files can be named without it.
fn balance(directory: &Directory, args: &[&str]) -> Finished {
    let script = format!("cd {}; exec balance \"$@\"", directory.path().display());
    Run::script(directory, &script).arg("balance").args(args).finish()
}

fn check(directory: &Directory, files: &[&str]) -> Finished {
    let options = files.iter().flat_map(|file| ["--file", file]);
    balance(directory, &options.chain(["--check-only"]).collect::<Vec<_>>())
}

/// The name of the server behind a service.
fn name_at(address: SocketAddr) -> String {
    String::from_utf8(Client::connect(address).recv(1)).expect("a letter")
}

#[test]
fn each_line_of_a_file_is_a_service() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let (first, second) = (own_address(), own_address());
    let setup = Setup::binding(first);
    let text = format!(
        "# Two services.\n* -t 2   # of both\nweb: -b {} {} {a}\nbalance -b {} {} \\\n  {b}:3\n",
        first.ip(),
        first.port(),
        second.ip(),
        second.port()
    );
    let file = setup.directory().file("services", &text);
    let instance = setup.start(["--file", &file.display().to_string()]);
    assert_eq!((name_at(first), name_at(second)), ("a".to_owned(), "b".to_owned()));
    // What `save` prints is a line of the file.
    let saved = |address: SocketAddr| {
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        Run::balance(&instance.directory).args(["-b", &ip, "-c", "save", &port]).finish().code(0).stdout
    };
    let [first_ip, second_ip] = [first, second].map(|address| address.ip().to_string());
    assert_eq!(saved(first), format!("web: -b {first_ip} -t 2 {} {a}\n", first.port()));
    assert_eq!(saved(second), format!("-b {second_ip} -t 2 {} {b}:3\n", second.port()));
    instance.terminate();
}

#[test]
fn a_directory_is_its_conf_files_in_order_and_goes_on_from_one_to_the_next() {
    let directory = Directory::new();
    std::fs::create_dir(directory.path().join("d")).expect("a directory of our own");
    for (name, text) in [
        ("10-all.conf", "* --check tcp\n"),
        ("20-web.conf", "web: 80 127.0.0.1 127.0.0.1:81\n"),
        ("30.conf", "81 127.0.0.1\n81 127.0.0.1 --on-down kick\n"),
        (".hidden.conf", "nonsense"),
        ("old.conf~", "nonsense"),
        ("README", "nonsense"),
    ] {
        directory.file(&format!("d/{name}"), text);
    }
    let wrong = "d/30.conf:2:1: the service at d/30.conf:1:1 listens on port 81 of the same address; give another port, or an \
                 address of its own with -b\nbalance: 1 error; nothing was started\n";
    assert_eq!(check(&directory, &["d"]).code(78).out("").stderr, wrong);
    directory.file("d/30.conf", "81 127.0.0.1 --on-down kick\n");
    check(&directory, &["d"]).code(0).out("2 services, 3 channels\n");
    check(&directory, &["d/20-web.conf"]).code(0).out("1 service, 2 channels\n");
    balance(&directory, &["--check-only", "80", "127.0.0.1"]).code(0).out("1 service, 1 channel\n");
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let directory = Directory::new();
    directory
        .file("a", "80 no-such-host.invalid 127.0.0.1:nosuch\n-b no-such.invalid 81\nnosuch 127.0.0.1\n");
    directory.file("b", "80x! a\n\n  82 a ! !\n'");
    let said = check(&directory, &["a", "b", "c"]).code(78).out("").stderr;
    let port = "give a number from 1 to 65535 or the name of a service";
    let expected = format!(
        "b:1:1: invalid port [80x!]; {port}\n\
         b:3:10: no channels in group; write a channel before ! and %\n\
         b:4:1: the quote is not closed on its line\n\
         c: cannot be read: No such file or directory (os error 2)\n\
         balance: 4 errors; nothing was started\n"
    );
    assert_eq!(said, expected);
    // Names are looked up when all lines make sense.
    let said = check(&directory, &["a"]).code(78).out("").stderr;
    let lines: Vec<_> = said.lines().collect();
    let [host, service, bind, word, sum] = lines[..] else { panic!("{said}") };
    assert!(
        host.starts_with("a:1:4: unknown or invalid address [no-such-host.invalid]: no host '"),
        "{said}"
    );
    let wrong =
        "a:1:25: unknown or invalid address [127.0.0.1:nosuch]: no service 'nosuch' is known; give a number";
    assert_eq!(service, wrong);
    assert!(bind.starts_with("a:2:4: unknown or invalid address [no-such.invalid]: no host '"), "{said}");
    assert_eq!(word, format!("a:3:1: invalid port [nosuch]; {port}"));
    assert_eq!(sum, "balance: 4 errors; nothing was started");
}

#[test]
fn what_is_no_file_is_refused_and_nobody_is_waited_for() {
    let directory = Directory::new();
    let inside = |name: &str| directory.path().join(name);
    directory.file("zero", "80 a\0b\n");
    directory.file("long", &format!("80 {}", "a".repeat(10 << 20)));
    directory.file("large", &"#\n".repeat(9 << 20));
    directory.file("deep", &format!("80 127.0.0.1{}", "\\\n".repeat(100_000)));
    directory.file("empty", "");
    std::os::unix::fs::symlink("loop", inside("loop")).expect("a link");
    std::fs::create_dir_all(inside("none/x.conf")).expect("directories");
    std::fs::create_dir_all(inside("bare")).expect("a directory");
    let _socket = std::os::unix::net::UnixListener::bind(inside("socket")).expect("a socket");
    Run::new("mkfifo").arg(inside("fifo")).finish().code(0);
    let table = [
        ("zero", "zero:1:1: this is not text: there is a zero byte in this line"),
        ("long", "long:1:1: the line is longer than 2 MiB; write several services"),
        ("large", "large: cannot be read: it is larger than 16 MiB; split it"),
        ("empty", "empty:1:1: no service; write at least one line such as: 80 web1 web2"),
        ("loop", "loop: cannot be read: Too many levels of symbolic links (os error 40)"),
        ("fifo", "fifo: cannot be read: it is a fifo, not a file"),
        ("/dev/zero", "/dev/zero: cannot be read: it is a device, not a file"),
        ("none", "none/x.conf: cannot be read: it is a directory, not a file"),
        ("bare", "bare: cannot be read: the directory has no file whose name ends with .conf"),
        ("socket", "socket: cannot be read: No such device or address (os error 6)"),
        ("", ": cannot be read: No such file or directory (os error 2)"),
    ];
    for (name, wrong) in table {
        let said = check(&directory, &[name]).code(78).out("").stderr;
        assert_eq!(said, format!("{wrong}\nbalance: 1 error; nothing was started\n"), "{name}");
    }
    check(&directory, &["deep"]).code(0).out("1 service, 1 channel\n");
}

#[test]
fn a_file_without_permission_is_refused() {
    if needs_root("another user") {
        return;
    }
    let directory = Directory::new();
    let path = directory.file("services", "80 127.0.0.1\n");
    let script = format!(
        "chmod 600 {}; exec setpriv --reuid 65534 --clear-groups balance --check-only --file {0}",
        path.display()
    );
    let said = Run::script(&directory, &script).finish().code(78).out("").stderr;
    let why = format!("(the user nobody may not read {}, which belongs to root)\n", path.display());
    assert!(
        said.contains(&format!("services: cannot be read: Permission denied (os error 13) {why}")),
        "{said}"
    );
}

#[test]
fn what_cannot_go_together_is_wrong_usage() {
    let directory = Directory::new();
    directory.file("services", "80 127.0.0.1\n");
    let table: &[(&[&str], &str)] = &[
        (&["--file", "services", "80"], "'80' is one word too many; with --file, services stand in the file"),
        (
            &["--file", "services", "-c", "show"],
            "--file and -c cannot be used together; -c takes the PORT of a running instance",
        ),
        (
            &["--check-only", "-i", "80"],
            "--check-only and -i cannot be used together; -i takes the PORT of a running instance",
        ),
        (
            &["--file", "services", "-t", "0"],
            "-t (--connect-timeout) must be more than 0; it is 5 seconds without -t",
        ),
        (&["--file"], "option --file needs a value: --file FILE"),
    ];
    for (args, wrong) in table {
        balance(&directory, args).code(64).out("").err(&format!("balance: {wrong}\nusage: "));
    }
    balance(&directory, &["--check-only", "80", "8080"])
        .code(65)
        .out("")
        .err("unknown or invalid address [8080]\n");
}

#[test]
fn a_port_that_cannot_be_had_is_told_with_its_line() {
    let directory = Directory::new();
    let (free, taken) = (own_address(), std::net::TcpListener::bind(own_address()).expect("it is ours"));
    let taken_address = taken.local_addr().expect("it is bound");
    let line = |address: SocketAddr| format!("-b {} {} {}\n", address.ip(), address.port(), Refusing::new());
    directory.file("services", &(line(free) + &line(taken_address)));
    let said = balance(&directory, &["-f", "--file", "services"]).code(71).out("").stderr;
    let column = line(taken_address).find(&format!(" {} ", taken_address.port())).expect("PORT") + 2;
    assert!(said.starts_with(&format!("services:2:{column}: bind(): Address already in use")), "{said}");
    // It only checks words and names.
    check(&directory, &["services"]).code(0).out("2 services, 2 channels\n");
}

#[test]
fn all_ports_that_cannot_be_had_are_told_at_once_and_none_is_served() {
    let directory = Directory::new();
    let free = own_address();
    let taken = [(); 3].map(|()| std::net::TcpListener::bind(own_address()).expect("it is ours"));
    let addresses = taken.each_ref().map(|taken| taken.local_addr().expect("it is bound"));
    let line = |address: SocketAddr| format!("-b {} {} {}\n", address.ip(), address.port(), Refusing::new());
    directory
        .file("services", &[free].iter().chain(&addresses).map(|address| line(*address)).collect::<String>());
    let said = balance(&directory, &["--file", "services"]).code(71).out("").stderr;
    let said: Vec<_> = said.lines().collect();
    assert_eq!(said.len(), 4, "{said:?}");
    for (number, (said, address)) in said.iter().zip(addresses).enumerate() {
        assert!(said.starts_with(&format!("services:{}:", number + 2)), "{said}");
        assert!(said.ends_with(&format!("bind(): Address already in use ({address})")), "{said}");
    }
    assert_eq!(said[3], "balance: 3 errors; nothing was started");
    std::net::TcpListener::bind(free).expect("nobody listens there");
}

#[test]
fn places_that_meet_only_once_names_are_looked_up_are_told_by_the_check() {
    let directory = Directory::new();
    let table = [
        // getaddrinfo makes 127.0.0.1 of this; `localhost` is ::1 first on some machines.
        (
            "-b 127.1 80 127.0.0.1\n80 127.0.0.1\n",
            "services:2:1: 0.0.0.0:80 and 127.0.0.1:80 of the service at services:1:10",
        ),
        (
            "80 127.0.0.1\n-b 127.0.0.1 http 127.0.0.1\n",
            "services:2:14: 127.0.0.1:80 and 0.0.0.0:80 of the service at services:1:1",
        ),
        (
            "-b ::1 http 127.0.0.1\n-6 80 127.0.0.1\n",
            "services:2:4: [::]:80 and [::1]:80 of the service at services:1:8",
        ),
    ];
    for (text, wrong) in table {
        directory.file("services", text);
        check(&directory, &["services"]).code(78).out("").err(wrong);
    }
    directory.file("services", "-b ::1 80 127.0.0.1\nhttp 127.0.0.1\n");
    check(&directory, &["services"]).code(0).out("2 services, 2 channels\n");
}

#[test]
fn a_process_in_the_background_serves_a_file_that_was_named_from_where_it_started() {
    let directory = Directory::new();
    let (server, address) = (Server::named("a"), own_address());
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    directory.file("services", &format!("-b {ip} {port} {server}\n"));
    balance(&directory, &["--file", "services"]).code(0).out("");
    assert_eq!(name_at(address), "a");
    balance(&directory, &["-b", &ip, "-c", "kill", &port]).code(0).out("shutdown complete, exiting.\n");
}
