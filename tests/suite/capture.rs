//! `tap ID FILE.pcapng`: Wireshark reads the file, whatever happens to the session, the command or the disk.
//!
//! Source: docs/observability.md, "For Wireshark".

use std::fs;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::harness::{
    BALANCE, Client, Direction, Instance, Received, Run, Server, Setup, Stream, eventually, needs_root,
    own_address, pause,
};
use crate::tap::{Watcher, number_of};

/// Is tshark there? `ci/test` installs it, so that there none of this is ever left out.
fn has_tshark() -> bool {
    let is_there = Run::new("sh").args(["-c", "command -v tshark"]).finish().code == 0;
    assert!(is_there || std::env::var_os("CI").is_none(), "tshark is missing: ci/test installs it");
    if !is_there {
        eprintln!("LEFT OUT: tshark is not installed, and what it would check is not checked");
    }
    is_there
}

/// What tshark says of a file, which it must be able to read to its end.
#[track_caller]
fn tshark(file: &Path, args: &[&str]) -> String {
    let read = Run::new("tshark").arg("-r").arg(file).args(args).finish();
    assert_eq!(read.code, 0, "{read}");
    assert!(!read.stderr.contains("cut short") && !read.stderr.contains("damaged"), "{read}");
    read.stdout
}

/// Nothing in it is broken, nor looks so.
#[track_caller]
fn is_sound(file: &Path) {
    assert_eq!(tshark(file, &["-Y", "_ws.malformed || _ws.unreassembled"]), "");
    let odd = "_ws.expert.severity == \"Error\" || tcp.checksum.status == 0 || ip.checksum.status == 0";
    let checks = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"];
    assert_eq!(tshark(file, &[&checks[..], &["-Y", odd]].concat()), "");
    assert_eq!(tshark(file, &["-Y", "tcp.analysis.duplicate_ack"]), "");
}

/// Comments of packets.
fn comments(file: &Path) -> Vec<String> {
    let said = tshark(file, &["-T", "fields", "-e", "frame.comment"]);
    said.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Both directions of the stream as `follow tcp stream` has them.
fn followed(file: &Path) -> [Vec<u8>; 2] {
    let said = tshark(file, &["-q", "-z", "follow,tcp,raw,0"]);
    let mut ways = [Vec::new(), Vec::new()];
    for line in said.lines().skip_while(|line| !line.starts_with("Node 1")).skip(1) {
        let hex = line.trim_start_matches('\t');
        if hex.is_empty() || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            continue;
        }
        let bytes =
            (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex"));
        ways[usize::from(line.starts_with('\t'))].extend(bytes);
    }
    ways
}

fn capture(instance: &Instance, id: u64, name: &str) -> (Watcher, PathBuf) {
    let file = instance.directory.path().join(name);
    (Watcher::start(instance, &format!("tap {id} {}", file.display())), file)
}

#[track_caller]
fn begun(file: &Path) {
    eventually("the file has a head", || fs::metadata(file).is_ok_and(|about| about.len() > 0).then_some(()));
}

#[test]
fn wireshark_follows_a_session_from_its_capture() {
    if !has_tshark() {
        return;
    }
    let v6 = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), own_address().port());
    for listen in [None, Some(v6)] {
        let server = Server::echo();
        let channel = server.to_string();
        let instance = match listen {
            None => Instance::before(&[&channel]),
            Some(at) => {
                let port = at.port().to_string();
                Setup::binding(at).start(["-b", "::1", &port, &channel])
            }
        };
        let mut client = instance.connect();
        let id = number_of(&instance, &client);
        let (tap, file) = capture(&instance, id, "x.pcapng");
        begun(&file);
        let stream = Stream::new(id, Direction::Sent);
        // All of it fits into what may wait, so that nothing is left out.
        client.send_stream(stream, 200_000);
        client.recv_stream(stream, 200_000);
        client.shut_wr();
        assert_eq!(client.ending(), Received::End);
        let (said, code, told) = tap.ends();
        let expected = format!(
            "balance: session {id} has ended: client closed; {} has 200000 bytes sent and 200000 received, left out: 0 and 0\n",
            file.display()
        );
        assert_eq!((said.as_str(), code, told), ("", 0, expected));
        is_sound(&file);
        assert_eq!(tshark(&file, &["-q", "-z", "expert,warn"]).trim(), "");
        for way in followed(&file) {
            assert_eq!(way.len(), 200_000);
            stream.check(0, &way);
        }
        let ends = tshark(
            &file,
            &[
                "-c",
                "1",
                "-T",
                "fields",
                "-e",
                "ip.src",
                "-e",
                "ipv6.src",
                "-e",
                "tcp.srcport",
                "-e",
                "tcp.dstport",
            ],
        );
        let ours = client.0.local_addr().expect("it is connected");
        let words: Vec<String> = ends.split_whitespace().map(str::to_owned).collect();
        assert_eq!(words, [ours.ip().to_string(), ours.port().to_string(), instance.addr.port().to_string()]);
        assert_eq!(comments(&file), [format!("session {id} has ended: client closed")]);
        let flags = tshark(&file, &["-T", "fields", "-e", "tcp.flags.str"]);
        assert_eq!(flags.matches('F').count(), 2, "{flags}");
        assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o600);
        instance.end();
    }
}

#[test]
fn bytes_that_were_left_out_are_a_gap_with_a_comment() {
    if !has_tshark() {
        return;
    }
    let server = Server::echo();
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    let id = number_of(&instance, &client);
    let (tap, file) = capture(&instance, id, "x.pcapng");
    begun(&file);
    let stream = Stream::new(id, Direction::Sent);
    let mut at = 0;
    let exchange = |client: &mut Client, at: &mut u64, bytes: usize| {
        client.send(stream.bytes(*at, bytes));
        stream.check(*at, &client.recv(bytes));
        *at += bytes as u64;
    };
    exchange(&mut client, &mut at, 1_000);
    tap.signal(Signal::STOP);
    // The asker stands still, and the session goes on.
    for _ in 0..128 {
        exchange(&mut client, &mut at, 64 << 10);
    }
    tap.signal(Signal::CONT);
    eventually("what was missing is told", || {
        exchange(&mut client, &mut at, 1_000);
        let seen = fs::read(&file).expect("it is there");
        seen.windows(20).any(|part| part == b"left out before this").then_some(())
    });
    client.rst();
    let (_, code, told) = tap.ends();
    let numbers: Vec<u64> =
        told.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
    let [.., sent, rcvd, no_sent, no_rcvd] = numbers[..] else { panic!("{told}") };
    assert_eq!((sent + no_sent, rcvd + no_rcvd, code), (at, at, 0), "{told}");
    assert!(no_sent > 1 << 20 && no_rcvd > 1 << 20, "{told}");
    is_sound(&file);
    // Each payload is what belongs to its sequence number.
    let lines =
        tshark(&file, &["-Y", "tcp.len > 0", "-T", "fields", "-e", "tcp.seq_raw", "-e", "tcp.payload"]);
    let mut count = 0;
    for line in lines.lines() {
        let (number, hex) = line.split_once('\t').expect("two fields");
        let bytes: Vec<u8> = (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex"))
            .collect();
        stream.check(number.parse::<u64>().expect("a number") - 1, &bytes);
        count += bytes.len() as u64;
    }
    assert_eq!(count, sent + rcvd);
    let said = comments(&file);
    assert!(said.iter().any(|comment| comment.starts_with("left out before this: ")), "{said:?}");
    assert_eq!(said.last(), Some(&format!("session {id} has ended: client reset")));
    let last = tshark(&file, &["-Y", "tcp.flags.reset == 1", "-T", "fields", "-e", "tcp.dstport"]);
    assert_eq!(last.trim(), instance.addr.port().to_string());
    instance.end();
}

#[test]
fn an_asker_that_is_interrupted_or_killed_leaves_a_file_that_can_be_read() {
    if !has_tshark() {
        return;
    }
    let server = Server::echo();
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    let id = number_of(&instance, &client);
    for (signal, code) in [(Signal::INT, 0), (Signal::TERM, 143), (Signal::KILL, 137)] {
        let (tap, file) = capture(&instance, id, &format!("{code}.pcapng"));
        begun(&file);
        let before = fs::metadata(&file).expect("it is there").len();
        client.send("something");
        client.recv(9);
        eventually("both are written, and their acknowledgements", || {
            let seen = fs::read(&file).ok()?;
            let both = seen.windows(9).filter(|part| part == b"something").count() == 2;
            (both && seen.len() as u64 > before + 300).then_some(())
        });
        tap.signal(signal);
        let (_, ended, told) = tap.ends();
        assert_eq!(ended, code, "{told}");
        is_sound(&file);
        assert_eq!(followed(&file), [b"something".to_vec(), b"something".to_vec()]);
        if signal == Signal::INT {
            assert_eq!(comments(&file), [format!("interrupted; session {id} was open")]);
            assert!(told.contains("9 bytes sent and 9 received"), "{told}");
        }
    }
    drop(client);
    instance.end();
}

#[test]
fn nothing_is_written_over_and_no_link_is_followed() {
    let server = Server::echo();
    let instance = Instance::before(&[&server]);
    let client = instance.connect();
    let id = number_of(&instance, &client);
    let there = instance.directory.file("there.pcapng", "mine");
    let link = instance.directory.path().join("link.pcapng");
    symlink(instance.directory.path().join("elsewhere"), &link).expect("a link");
    for file in [&there, &link] {
        let told = format!(
            "balance: cannot write {}: it exists already; remove it, or give another name\n",
            file.display()
        );
        instance.ctl(&format!("tap {id} {}", file.display())).code(74).out("").err(&told);
    }
    assert_eq!(fs::read_to_string(&there).expect("it is there"), "mine");
    assert!(!instance.directory.path().join("elsewhere").exists());
    // No session, no file.
    let none = instance.directory.path().join("none.pcapng");
    instance.ctl(&format!("tap 4711 {}", none.display())).code(65).out("no such session 4711\n");
    assert!(!none.exists());
    let lost = "/no/such/directory/x.pcapng";
    let told = format!("balance: cannot write {lost}: No such file or directory");
    instance.ctl(&format!("tap {id} {lost}")).code(74).out("").err(&told);
    // The instance itself writes none.
    let word = "only balance -c writes a file";
    let said = instance.ctl(&format!("version; tap {id} {}", none.display())).code(64).stdout;
    assert!(said.contains(word) && !none.exists(), "{said}");
    let said = instance.shell(format!("tap {id} {}\n", none.display())).stdout;
    assert!(said.contains(word) && !none.exists(), "{said}");
    drop(client);
    instance.end();
}

#[test]
fn a_disk_that_is_full_ends_the_capture_with_a_file_that_can_be_read() {
    if !has_tshark() || needs_root("a disk that is small") {
        return;
    }
    let server = Server::echo();
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    let id = number_of(&instance, &client);
    let disk = instance.directory.path().join("disk");
    fs::create_dir(&disk).expect("our own");
    let read = instance.directory.path().join("x.pcapng");
    let [disk, read_path] = [&disk, &read].map(|path| path.display().to_string());
    // In a mount namespace of its own.
    let script = format!(
        "mount -t tmpfs -o size=64k none {disk}; code=0; {BALANCE} {} -c 'tap {id} {disk}/x.pcapng' {} || code=$?; cp {disk}/x.pcapng {read_path}; exit $code",
        instance.bind_option().join(" "),
        instance.port(),
    );
    let run = Run::new("unshare")
        .args(["-m", "sh", "-ec", &script])
        .env("BALANCE_RUN_DIR", instance.directory.path().join("run"));
    let asker = std::thread::spawn(move || run.finish());
    let stream = Stream::new(id, Direction::Sent);
    let mut at = 0;
    while !asker.is_finished() {
        client.send(stream.bytes(at, 5_000));
        client.recv(5_000);
        at += 5_000;
        pause();
    }
    let ended = asker.join().expect("it ran");
    assert_eq!(ended.code, 74, "{ended}");
    assert!(ended.stderr.contains("x.pcapng: No space left on device"), "{ended}");
    is_sound(&read);
    assert!(fs::metadata(&read).expect("a copy").len() > 20_000);
    drop(client);
    instance.end();
}

#[test]
fn a_capture_goes_to_stdout_and_to_no_terminal() {
    if !has_tshark() {
        return;
    }
    let server = Server::echo();
    let instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    let id = number_of(&instance, &client);
    let bind = instance.bind_option().join(" ");
    let script = format!(
        "balance {bind} -c 'tap {id} 1h -' {} | tshark -l -r - -T fields -e tcp.payload",
        instance.port()
    );
    let run = Run::script(&instance.directory, &script);
    let reader = std::thread::spawn(move || run.finish());
    eventually("it has begun", || {
        instance.told("commanded").last().filter(|line| line.contains("tap")).cloned()
    });
    client.send("abc");
    client.recv(3);
    drop(client);
    let read = reader.join().expect("it ran");
    assert_eq!(read.stdout.lines().filter(|line| *line == "616263").count(), 2, "{read}");
    assert!(read.stderr.contains("client closed; stdout has 3 bytes sent and 3 received"), "{read}");
    let port = instance.port();
    let mut args: Vec<&str> = bind.split(' ').collect();
    args.extend(["-c", "tap 1 -", &port]);
    let mut terminal = crate::harness::Terminal::of(&instance.directory, &args);
    terminal.awaits("a capture is not for a terminal");
    assert_eq!(terminal.ends().code(), Some(64));
    instance.end();
}

#[test]
fn one_file_has_a_session_before_and_after_an_upgrade() {
    if !has_tshark() {
        return;
    }
    let server = Server::echo();
    let mut instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    let id = number_of(&instance, &client);
    let (tap, file) = capture(&instance, id, "x.pcapng");
    begun(&file);
    let stream = Stream::new(id, Direction::Sent);
    client.send_stream(stream, 1_000);
    client.recv_stream(stream, 1_000);
    instance.upgrade();
    eventually("the new process shows it", || {
        instance.told("commanded").iter().filter(|line| line.contains("tap")).nth(1).cloned()
    });
    client.send(stream.bytes(1_000, 500));
    stream.check(1_000, &client.recv(500));
    drop(client);
    let (_, code, told) = tap.ends();
    assert_eq!(code, 0);
    assert!(
        told.contains("client closed; ")
            && told.contains("has 1500 bytes sent and 1500 received, left out: 0 and 0"),
        "{told}"
    );
    is_sound(&file);
    for way in followed(&file) {
        assert_eq!(way.len(), 1_500);
        stream.check(0, &way);
    }
    instance.end();
}
