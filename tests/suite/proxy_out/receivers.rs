//! Programs that read PROXY headers; each reports in its own way who the client is.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::harness::{Client, Instance, eventually, is_root, needs_root};
use crate::real_programs::{Daemon, strings};

/// From this address, so that it is nobody else's.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 7, 7, 7);

fn before(server: &Daemon, option: &str, more: &[&str]) -> Instance {
    let words = more.iter().map(|word| (*word).to_owned());
    Instance::start(words.chain(["PORT".to_owned(), format!("{}{option}", server.channel())]))
}

/// A client from an address of its own, which says this; the client's address as the server should see it, and all that it answers.
#[track_caller]
fn ask(instance: &Instance, words: &str) -> (SocketAddr, String) {
    let mut client = Client::connect_from(CLIENT, instance.addr);
    let from = client.0.local_addr().expect("it is connected");
    client.send(words);
    let answer = client.recv_all();
    (from, String::from_utf8_lossy(&answer).into_owned())
}

const GET: &str = "GET / HTTP/1.0\r\nHost: x\r\nConnection: close\r\n\r\n";

/// Both versions, and checks of the channel before any client.
#[track_caller]
fn both_versions(server: &Daemon, told: impl Fn(&str, SocketAddr, SocketAddr) -> bool) {
    for option in [",proxy", ",proxy=v1"] {
        let instance = before(server, option, &["--check", "http:/", "--check-interval", "50ms"]);
        let status = instance.await_health(0, "up");
        assert_eq!(status.why, "-", "{option}");
        let (from, answer) = ask(&instance, GET);
        assert!(answer.contains(" 200 "), "{option}: {answer}");
        assert!(told(&answer, from, instance.addr), "{option} from {from}: {answer}");
        instance.end();
    }
}

fn log_of(server: &Daemon, name: &str) -> String {
    fs::read_to_string(server.directory.path().join(name)).unwrap_or_default()
}

fn haproxy() -> Daemon {
    Daemon::start("haproxy", |port, dir| {
        let conf = format!(
            "global\n  log stdout format raw local0\n\
             defaults\n  mode http\n  log global\n  option httplog\n  timeout client 10s\n  timeout server 10s\n  timeout connect 10s\n\
             listen all\n  bind 127.0.0.1:{port} accept-proxy\n  \
             http-request return status 200 content-type text/plain \
             lf-string \"%[src]:%[src_port] %[dst]:%[dst_port] id=%[fc_pp_unique_id]\\n\"\n"
        );
        let file = dir.join("haproxy.cfg");
        fs::write(&file, conf).expect("our own file");
        strings(["-db", "-f", &file.display().to_string()])
    })
}

#[test]
fn haproxy_is_told_who_the_client_is() {
    let server = haproxy();
    both_versions(&server, |answer, from, to| answer.contains(&format!("{from} {to} id=")));
    // It looks at the checksum, and refuses headers with a wrong one.
    let instance = before(&server, ",proxy", &["--proxy-tlv", "unique-id,crc32c"]);
    let (from, answer) = ask(&instance, GET);
    let id = answer.rsplit("id=").next().unwrap_or_default().trim();
    assert!(answer.contains(&format!("{from} {} id=", instance.addr)) && id.len() > 17, "{answer}");
    instance.end();
    // Of a check that only connects, and of a probe, it has nothing to complain of.
    let before_checks = log_of(&server, "stdout").matches("PROXY").count();
    let instance = before(&server, ",proxy", &["--check", "tcp", "--check-interval", "20ms"]);
    instance.await_health(0, "up");
    instance.end();
    let log = log_of(&server, "stdout");
    assert_eq!(log.matches("PROXY").count(), before_checks, "{log}");
}

#[test]
fn nginx_is_told_who_the_client_is() {
    let server = Daemon::start("nginx", |port, dir| {
        let dir = dir.display();
        let user = if is_root() { "user root;" } else { "" };
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {dir}/{kind};"))
            .concat();
        let told = "$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_addr:$proxy_protocol_server_port";
        let conf = format!(
            "daemon off; {user} worker_processes 1; pid {dir}/pid; error_log {dir}/error.log info;
            events {{ }}
            http {{ access_log off; {temp} server {{
                listen 127.0.0.1:{port} proxy_protocol;
                location / {{ return 200 \"{told}\\n\"; }} }} }}"
        );
        fs::write(format!("{dir}/nginx.conf"), conf).expect("our own file");
        strings(["-p", &dir.to_string(), "-c", &format!("{dir}/nginx.conf")])
    });
    both_versions(&server, |answer, from, to| answer.ends_with(&format!("\r\n\r\n{from} {to}\n")));
    let broken = "broken header";
    let log = log_of(&server, "error.log");
    // That of the harness, which looked whether it listens.
    assert!(log.matches(broken).count() <= 1, "{log}");
}

#[test]
fn apache_is_told_who_the_client_is() {
    let server = Daemon::start("apache2", |port, dir| {
        let dir = dir.display();
        let user = if is_root() { "User www-data\nGroup www-data\n" } else { "" };
        let modules: String = ["mpm_event", "authz_core", "dir", "remoteip", "headers"]
            .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
            .concat();
        let conf = format!(
            "{modules}{user}ServerName localhost\nServerRoot {dir}\nPidFile {dir}/pid\nErrorLog {dir}/error.log\n\
             DefaultRuntimeDir {dir}\nStartServers 1\nThreadsPerChild 4\nListen 127.0.0.1:{port}\n\
             RemoteIPProxyProtocol On\nDocumentRoot {dir}/www\n\
             Header always set X-Client \"expr=%{{REMOTE_ADDR}}\"\n\
             <Directory {dir}/www>\nRequire all granted\n</Directory>\n"
        );
        fs::create_dir(format!("{dir}/www")).expect("our own directory");
        fs::write(format!("{dir}/www/index.html"), "welcome\n").expect("our own file");
        fs::write(format!("{dir}/apache.conf"), conf).expect("our own file");
        strings(["-D", "FOREGROUND", "-f", &format!("{dir}/apache.conf")])
    });
    both_versions(&server, |answer, from, _| answer.contains(&format!("X-Client: {}\r\n", from.ip())));
}

#[test]
fn varnish_is_told_who_the_client_is() {
    let server = Daemon::start("varnishd", |port, dir| {
        let vcl = "vcl 4.1; import std; backend none none; \
                   sub vcl_recv { return (synth(200)); } \
                   sub vcl_synth { set resp.http.X-Client = client.ip + \" \" + std.port(client.ip) + \" \" \
                   + server.ip + \" \" + std.port(server.ip); return (deliver); }";
        let (file, name) = (dir.join("test.vcl"), dir.join("varnish").display().to_string());
        fs::write(&file, vcl).expect("our own file");
        let (file, at) = (file.display().to_string(), format!("127.0.0.1:{port},PROXY"));
        strings(["-F", "-j", "none", "-n", &name, "-a", &at, "-f", &file, "-s", "malloc,8m"])
    });
    both_versions(&server, |answer, from, to| {
        let all = format!("X-Client: {} {} {} {}", from.ip(), from.port(), to.ip(), to.port());
        answer.contains(&all)
    });
}

#[test]
fn dovecot_is_told_who_the_client_is() {
    let server = Daemon::start("dovecot", |port, dir| {
        let dir = dir.display();
        let us = if is_root() {
            String::new()
        } else {
            let user = rustix::process::getuid().as_raw();
            format!("default_internal_user = #{user}\ndefault_login_user = #{user}\n")
        };
        let conf = format!(
            "base_dir = {dir}/run\nstate_dir = {dir}/state\nlog_path = {dir}/log\nprotocols = imap\nssl = no\n\
             disable_plaintext_auth = no\n{us}haproxy_trusted_networks = 127.0.0.0/8\nhaproxy_timeout = 5s\n\
             passdb {{\n driver = static\n args = password=x\n}}\nuserdb {{\n driver = static\n args = uid=nobody gid=nogroup home={dir}\n}}\n\
             service imap-login {{\n chroot =\n inet_listener imap {{\n  address = 127.0.0.1\n  port = {port}\n  haproxy = yes\n }}\n \
             inet_listener imaps {{\n  port = 0\n }}\n}}\n"
        );
        fs::write(format!("{dir}/dovecot.conf"), conf).expect("our own file");
        strings(["-F", "-c", &format!("{dir}/dovecot.conf")])
    });
    for option in [",proxy", ",proxy=v1"] {
        // Its greeting comes before the client has said anything.
        let instance = before(&server, option, &["--check", "expect:* OK", "--check-interval", "50ms"]);
        instance.await_health(0, "up");
        let (from, answer) = ask(&instance, "a LOGOUT\r\n");
        assert!(answer.starts_with("* OK"), "{answer}");
        let told = format!("rip={}, lip={}", from.ip(), instance.addr.ip());
        eventually("dovecot has logged it", || log_of(&server, "log").contains(&told).then_some(()));
        instance.end();
    }
}

#[test]
fn postfix_is_told_who_the_client_is() {
    if needs_root("postfix changes to a user of its own") {
        return;
    }
    let server = Daemon::start("/usr/lib/postfix/sbin/master", |port, dir| {
        let dir = dir.display();
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {dir}/queue\ndata_directory = {dir}/data\n\
             command_directory = /usr/sbin\ndaemon_directory = /usr/lib/postfix/sbin\nmail_owner = postfix\nsetgid_group = postdrop\n\
             inet_interfaces = loopback-only\nmyhostname = test.example\nmydestination =\nalias_maps =\n\
             smtpd_upstream_proxy_protocol = haproxy\nsmtpd_delay_reject = no\nsmtpd_client_restrictions = reject\n\
             maillog_file = {dir}/log\nmaillog_file_prefixes = {dir}\nsmtpd_peername_lookup = no\nsmtputf8_enable = no\n"
        );
        let services = format!(
            "127.0.0.1:{port} inet n - n - - smtpd\npostlog unix-dgram n - n - 1 postlogd\nanvil unix - - n - 1 anvil\n\
             proxymap unix - - n - - proxymap\nrewrite unix - - n - - trivial-rewrite\ntlsmgr unix - - n 1000? 1 tlsmgr\n"
        );
        for name in ["queue", "queue/pid", "queue/private", "queue/public", "data"] {
            fs::create_dir(format!("{dir}/{name}")).expect("our own directory");
        }
        own(Path::new(&format!("{dir}/queue/private")));
        own(Path::new(&format!("{dir}/queue/public")));
        own(Path::new(&format!("{dir}/data")));
        fs::write(format!("{dir}/main.cf"), main).expect("our own file");
        fs::write(format!("{dir}/master.cf"), services).expect("our own file");
        strings(["-d", "-c", &dir.to_string()])
    });
    for option in [",proxy", ",proxy=v1"] {
        let instance = before(&server, option, &[]);
        // It speaks first.
        let mut client = Client::connect_from(CLIENT, instance.addr);
        let told = format!("554 5.7.1 <unknown[{CLIENT}]>");
        assert_eq!(String::from_utf8_lossy(&client.recv(told.len())), told);
        client.rst();
        instance.end();
    }
}

/// It cannot be installed beside postfix: ci/test unpacks it.
const EXIM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/exim4/usr/sbin/exim4");

#[test]
fn exim_is_told_who_the_client_is() {
    if needs_root("exim changes to a user of its own") {
        return;
    }
    assert!(Path::new(EXIM).is_file(), "{EXIM} is missing: run ci/test");
    let server = Daemon::start("unshare", |port, dir| {
        let dir = dir.display();
        let conf = format!(
            "exim_path = {EXIM}\nspool_directory = {dir}/spool\nlog_file_path = {dir}/spool/%slog\npid_file_path = {dir}/pid\n\
             local_interfaces = 127.0.0.1\ndaemon_smtp_ports = {port}\nprimary_hostname = test.example\nkeep_environment =\n\
             host_lookup =\nrfc1413_hosts =\ntls_advertise_hosts =\nhosts_proxy = 127.0.0.1\nacl_smtp_connect = all\n\
             smtp_banner = test.example for $sender_host_address:$sender_host_port by $proxy_local_address\n\
             begin acl\nall:\n  accept\n"
        );
        fs::write(format!("{dir}/exim.conf"), conf).expect("our own file");
        // Its user comes with its package, which is not installed.
        for (file, line) in [
            ("passwd", "Debian-exim:x:7777:7777::/nonexistent:/usr/sbin/nologin\n"),
            ("group", "Debian-exim:x:7777:\n"),
        ] {
            let known = fs::read_to_string(format!("/etc/{file}")).expect("a file of the system");
            fs::write(format!("{dir}/{file}"), known + line).expect("our own file");
        }
        let script = format!(
            "set -e; cd {dir}; mkdir spool; chown 7777:7777 spool; mount --bind passwd /etc/passwd; mount --bind group /etc/group\n\
             exec {EXIM} -C {dir}/exim.conf -bdf"
        );
        strings(["-m", "sh", "-c", &script])
    });
    for option in [",proxy", ",proxy=v1"] {
        let instance = before(&server, option, &["--check", "expect:220", "--check-interval", "50ms"]);
        instance.await_health(0, "up");
        // It speaks first.
        let mut client = Client::connect_from(CLIENT, instance.addr);
        let from = client.0.local_addr().expect("it is connected");
        let told = format!("220 test.example for {from} by 127.0.0.1\r\n");
        assert_eq!(String::from_utf8_lossy(&client.recv(told.len())), told, "{option}");
        client.send("QUIT\r\n");
        assert!(client.recv_all().starts_with(b"221 "), "{option}");
        drop(client);
        instance.end();
    }
}

/// Gives a directory to the user of the mail system.
fn own(path: &Path) {
    crate::harness::Run::new("chown").arg("postfix").arg(path).finish().code(0);
}
