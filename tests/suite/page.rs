//! The page at `/`: what it shows, and what it must never contain.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Instant;

use super::harness::{
    Client, DEADLINE, Directory, Instance, Refusing, Run, Server, Setup, eventually, own_address,
};
use super::http::{ask, get, has, metrics, raw, status};

/// An instance that answers HTTP, and where.
fn instance(args: &[&dyn std::fmt::Display]) -> (Instance, SocketAddr) {
    let at = own_address();
    let mut all = vec!["--http".to_owned(), at.to_string(), "PORT".to_owned()];
    all.extend(args.iter().map(ToString::to_string));
    (Instance::start(all), at)
}

fn page(at: SocketAddr, path: &str) -> String {
    let (status, page) = get(at, path);
    assert_eq!(status, 200, "{path}: {page}");
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"), "{page}");
    page
}

/// What comes after `mark`, up to the next `<`.
fn after<'a>(page: &'a str, mark: &str) -> &'a str {
    let (_, rest) = page.split_once(mark).unwrap_or_else(|| panic!("no {mark:?} in {page}"));
    rest.split('<').next().unwrap_or_default()
}

#[test]
fn the_page_says_what_show_and_status_say() {
    let (server, refuses) = (Server::echo(), Refusing::new());
    let (instance, at) = instance(&[&server, &refuses]);
    for _ in 0..3 {
        ask(instance.addr, b"abc");
    }
    let mut held = instance.connect();
    held.send(b"x");
    held.recv(1);
    instance.await_show("three have ended", |rows| rows[0].c == 1);
    let shown = eventually("it is as now", || {
        let page = page(at, "/");
        page.contains("data-label=\"c/maxc\">1/-</td>").then_some(page)
    });
    let rows = instance.show();
    for row in &rows {
        assert!(shown.contains(&format!("data-label=\"totalc\">{}</td>", row.totalc)), "{row:?}: {shown}");
    }
    assert!(shown.contains("ready, 1 channel not up"), "{shown}");
    // Operators are elsewhere than the server.
    let taken = after(&shown, "<time id=\"taken\"").split_once('>').expect("a time").1;
    assert!(taken.len() == "2026-11-29 08:42:37 UTC".len() && taken.ends_with(" UTC"), "{taken}");
    let (_, events) = shown.split_once("id=\"events\">").expect("events");
    assert!(events.split_once("<time").expect("an event").0.contains("times are UTC"), "{events}");
    assert!(after(&shown, "class=\"why\">").starts_with("connect: connection refused"), "{shown}");
    assert_eq!(after(&shown, "<td class=\"health\">").trim(), "up");
    assert!(shown.contains("<b>ejected</b>") && shown.contains("<b>3</b> client closed"), "{shown}");
    assert!(shown.contains("<b>1</b> connection refused"), "{shown}");
    let client = held.0.local_addr().expect("a socket");
    assert!(shown.contains(&format!("<td>{client}</td>")), "{client}: {shown}");
    // Without a token nothing can be done from it.
    assert!(!shown.contains("<button") && !shown.contains("<form"), "{shown}");
    drop(held);
    instance.end();
}

#[test]
fn nothing_in_it_is_from_elsewhere_or_inline() {
    let server = Server::echo();
    let (instance, at) = instance(&[&server]);
    let head = raw(at, format!("GET / HTTP/1.0\r\nHost: {at}\r\n\r\n").as_bytes());
    assert_eq!(status(&head), 200);
    let (head, page) = head.split_once("\r\n\r\n").expect("a body");
    let policy = "Content-Security-Policy: default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
                  connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'\r\n";
    for line in [
        policy,
        "X-Frame-Options: DENY\r\n",
        "X-Content-Type-Options: nosniff\r\n",
        "Cache-Control: no-store\r\n",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
    for never in ["http:", "https:", "style=", "<style", " onclick", " onload", "javascript:"] {
        assert!(!page.contains(never), "{never}: {page}");
    }
    assert_eq!(page.matches("<script").count(), 1);
    for (path, kind) in
        [("/page.css", "text/css"), ("/page.js", "text/javascript"), ("/icon.svg", "image/svg+xml")]
    {
        assert!(page.contains(&format!("\"{path}\"")), "{path}");
        let answer = raw(at, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes());
        assert!(answer.contains(&format!("Content-Type: {kind}")), "{path}: {answer}");
        assert!(answer.contains("Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n"));
    }
    instance.end();
}

#[test]
fn what_operators_and_peers_say_is_text_and_never_markup() {
    let refuses = Refusing::new();
    let (instance, at) = instance(&[&refuses]);
    let hostile = "disable <img/src=x/onerror=alert(1)>\"'&<script>";
    instance.ctl(hostile);
    let shown = eventually("the event is there", || {
        let page = page(at, "/");
        page.contains("commanded").then_some(page)
    });
    for never in ["<img", "onerror=alert(1)>", "<script>"] {
        assert!(!shown.contains(never), "{never}: {shown}");
    }
    assert!(shown.contains("&#60;img/src=x/onerror=alert(1)&#62;"), "{shown}");
    // What is asked for is not given back as it was.
    for path in ["/?service=%3Cscript%3E", "/?service=<script>"] {
        let (status, body) = get(at, path);
        assert_eq!((status, body.as_str()), (404, "no such service\n"), "{path}");
    }
    for path in ["/?sort=%22%3E%3Cscript%3E&order=x&sessions=%22%3E", "/?%00=%ff&&==&service="] {
        assert!(!page(at, path).contains("<script>"), "{path}");
    }
    instance.end();
}

#[test]
fn sessions_are_sorted_as_the_address_says() {
    let server = Server::echo();
    let (instance, at) = instance(&[&server]);
    let held: Vec<_> = [5, 50, 20]
        .into_iter()
        .map(|length| {
            let mut client = instance.connect();
            client.send(vec![b'x'; length]);
            client.recv(length);
            client
        })
        .collect();
    let order = |page: &str| -> Vec<String> {
        let rows = page.split("<tr id=\"c-").skip(1);
        rows.map(|row| {
            row.split("<td class=\"n\">")
                .nth(4)
                .and_then(|cell| cell.split('<').next())
                .unwrap_or_default()
                .to_owned()
        })
        .collect()
    };
    let sorted = |path: &str, wanted: [&str; 3]| {
        eventually(path, || (order(&page(at, path)) == wanted).then_some(()));
    };
    sorted("/?sort=sent", ["50", "20", "5"]);
    sorted("/?sort=sent&order=asc", ["5", "20", "50"]);
    let ids = |path: &str| -> Vec<u64> {
        let shown = page(at, path);
        let rows = shown.split("<tr id=\"c-").skip(1);
        rows.map(|row| row.split('"').next().and_then(|id| id.parse().ok()).expect("a number")).collect()
    };
    let (up, down) = (ids("/?sort=id"), ids("/?sort=id&order=desc"));
    assert!(up.len() == 3 && up.is_sorted() && down.iter().rev().eq(&up), "{up:?} {down:?}");
    let shown = page(at, "/?sort=sent");
    assert!(
        shown
            .contains("aria-sort=\"descending\" class=\"n\"><a href=\"/?sort=sent&#38;order=asc#sessions\">"),
        "{shown}"
    );
    drop(held);
    instance.end();
}

#[test]
fn each_service_has_a_page_of_its_own() {
    let (server, at) = (Server::echo(), own_address());
    let directory = Directory::new();
    let (one, other) = (own_address(), own_address());
    let text = format!(
        "one: -b {} {} {server}\nother: -b {} {} {server}\n",
        one.ip(),
        one.port(),
        other.ip(),
        other.port()
    );
    let file = directory.path().join("services");
    std::fs::write(&file, text).expect("written");
    let instance = Setup::listening(one).within(directory).start([
        "--http".to_owned(),
        at.to_string(),
        "--file".into(),
        file.display().to_string(),
    ]);
    let all = page(at, "/");
    assert!(all.contains("id=\"overview\"") && all.matches("class=\"service\"").count() == 2, "{all}");
    assert!(all.contains("<a href=\"/?service=other\">"), "{all}");
    let this = page(at, "/?service=other");
    assert_eq!(this.matches("class=\"service\"").count(), 1, "{this}");
    assert!(this.contains(&format!("<li class=\"listen\">{other}</li>")), "{this}");
    instance.end();
}

#[test]
fn services_of_one_name_that_drain_are_told_apart_and_none_is_left_out() {
    let server = Server::echo();
    let (keep, web, at) = (own_address(), own_address(), own_address());
    let directory = Directory::new();
    directory.file("token", TOKEN);
    let line =
        |name: &str, listen: SocketAddr| format!("{name}: -b {} {} {server}\n", listen.ip(), listen.port());
    let without = format!("* --http {at} --http-token-file {}/token\n", directory.path().display())
        + &line("keep", keep);
    let file = directory.file("services", &without);
    let instance =
        Setup::binding(keep).within(directory).start(["--file".to_owned(), file.display().to_string()]);
    let write = |text: &str| {
        instance.directory.file("services", text);
        instance.ctl("reload").code(0);
    };
    let sum = |family: &str| -> f64 {
        let all = metrics(at);
        let of_web = all.iter().filter(|(series, _)| series.starts_with(&format!("{family}{{service=\"web")));
        of_web.map(|(_, value)| value).sum()
    };
    let connections = |label: &str| {
        let series = format!("balance_service_connections{{service=\"{label}\"}}");
        metrics(at).get(&series).copied()
    };
    let mut held = Vec::new();
    for ended in 0..4 {
        write(&(without.clone() + &line("web", web)));
        for _ in 0..ended {
            ask(web, b"x");
        }
        let mut client = Client::connect(web);
        client.send(b"x");
        client.recv(1);
        held.push(client);
        // It was seen by that name before it drains beside another.
        eventually("it is counted", || connections("web").filter(|count| *count == 1.0));
        if ended < 3 {
            write(&without);
        }
    }
    // Six have come and gone, and each of the four services has one.
    eventually("all that has ended is counted", || (sum("balance_service_ends_total") == 6.0).then_some(()));
    let all = metrics(at);
    let of_all: f64 = all
        .iter()
        .filter(|(series, _)| series.starts_with("balance_service_connections{"))
        .map(|(_, n)| n)
        .sum();
    let services: serde_json::Value =
        serde_json::from_str(&instance.ctl("services json").stdout).expect("JSON");
    let listed = services["services"].as_array().expect("services");
    assert_eq!(listed.len(), 5, "{services}");
    assert_eq!(of_all, listed.iter().map(|one| one["connections"].as_f64().expect("a number")).sum::<f64>());
    let labels = ["web", "web (draining)", "web (draining 2)", "web (draining 3)"];
    assert_eq!(labels.map(connections), [Some(1.0); 4], "{all:#?}");
    assert_eq!(sum("balance_service_ready"), 1.0);
    // Each client is counted once, whatever its service was called meanwhile.
    assert_eq!(sum("balance_channel_connections_total"), 10.0, "{all:#?}");
    assert_eq!(sum("balance_channel_sent_bytes_total"), 10.0);
    let shown = eventually("each has its place on the page", || {
        let shown = page(at, "/");
        let is_there = |label: &str| shown.matches(&format!("</span>{label}</h2>")).count() == 1;
        let are_all = labels.into_iter().all(is_there) && shown.matches("class=\"service\"").count() == 5;
        // Sessions are looked at more seldom.
        (are_all && shown.contains("<td>web (draining 2)</td>")).then_some(shown)
    });
    assert_eq!(get(at, "/readyz"), (200, "ok\n".to_owned()));
    assert_eq!(get(at, "/readyz/web"), (200, "ok\n".to_owned()));
    assert_eq!(get(at, "/readyz/web%20(draining%202)"), (503, "web: draining\n".to_owned()));
    // What the page shows of it can be closed from there; and the others keep their names.
    let (_, row) = shown.split_once("<td>web (draining 2)</td>").expect("a session");
    let close = after(row, "data-command=\"").split('"').next().unwrap_or_default();
    let (status, _, answer) = post(at, "/api/v1/command?service=web+(draining+2)", &with_token(), close);
    assert!(status == 200 && answer.ends_with(" closed\n"), "{close}: {answer}");
    eventually("it has gone", || connections(labels[2]).is_none().then_some(()));
    let left = [labels[0], labels[1], labels[3]];
    assert_eq!(left.map(connections), [Some(1.0); 3]);
    drop(held);
    eventually("all have gone", || (left.map(connections) == [Some(0.0), None, None]).then_some(()));
    write(&without);
    instance.end();
}

#[test]
fn the_last_hour_has_begun_when_a_step_is_over() {
    let server = Server::echo();
    let (instance, at) = instance(&[&server]);
    ask(instance.addr, b"abc");
    let shown = eventually("a step is over", || {
        let page = page(at, "/");
        page.contains("<path class=\"line k1\" d=\"M").then_some(page)
    });
    assert!(shown.contains("Throughput, the last 10 minutes. to clients: now "), "{shown}");
    instance.end();
}

/// The token of [`commanded`].
const TOKEN: &str = "a-token-of-the-tests-0123";

/// An instance that takes commands by HTTP, and where.
fn commanded(args: &[&dyn std::fmt::Display]) -> (Instance, SocketAddr) {
    let (at, directory) = (own_address(), Directory::new());
    let token = directory.path().join("token");
    std::fs::write(&token, format!("{TOKEN}\n")).expect("written");
    let mut all = vec!["--http".to_owned(), at.to_string(), "--http-token-file".into()];
    all.extend([token.display().to_string(), "PORT".into()]);
    all.extend(args.iter().map(ToString::to_string));
    (Setup::new().within(directory).start(all), at)
}

/// What a POST with these lines gets: the status, the exit code if it says one, and the body.
fn post(at: SocketAddr, target: &str, lines: &str, body: &str) -> (u16, Option<u8>, String) {
    let length = body.len();
    let request = format!(
        "POST {target} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n{lines}Content-Length: {length}\r\n\r\n{body}"
    );
    let answer = raw(at, request.as_bytes());
    let (head, text) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let code = head.split("\r\n").find_map(|line| line.strip_prefix("Balance-Exit-Code: ")?.parse().ok());
    (status(&answer), code, text.to_owned())
}

fn with_token() -> String {
    format!("Authorization: Bearer {TOKEN}\r\n")
}

/// What the API answers to a command of somebody who has the token.
fn command(at: SocketAddr, command: &str) -> (u16, Option<u8>, String) {
    post(at, "/api/v1/command", &with_token(), command)
}

fn states(instance: &Instance) -> Vec<String> {
    instance.show().iter().map(|row| row.state.clone()).collect()
}

#[test]
fn commands_by_http_answer_as_those_by_the_socket() {
    let server = Server::echo();
    let (instance, at) = commanded(&[&server, &server]);
    let mut held = instance.connect();
    held.send(b"x");
    held.recv(1);
    for (said, status, code, text) in [
        ("disable 1", 200, 0, "channel 1 disabled\n"),
        ("disable 1\n", 200, 0, "channel 1 already disabled\n"),
        ("enable 1", 200, 0, "channel 1 enabled\n"),
        ("weight 1 7", 200, 0, "weight of channel 1 changed to 7\n"),
        ("maxc 1 3", 200, 0, ""),
        ("disable 9", 400, 65, "no such channel 9\n"),
        ("x", 400, 64, "syntax error\n"),
        ("weight 1", 400, 64, "usage: weight <channel> <weight>\n"),
        ("pause all", 200, 0, ""),
        ("resume all", 200, 0, ""),
        ("drain 1", 200, 0, ""),
        ("kick 0", 200, 0, "channel 0 kicked, 1 connection closed\n"),
        ("ready", 200, 0, ""),
    ] {
        let (was, had, answer) = command(at, said);
        assert_eq!((was, had), (status, Some(code)), "{said}: {answer}");
        assert!(text.is_empty() || answer == text, "{said}: {answer:?}");
    }
    let (_, _, shown) = command(at, "show");
    assert_eq!(shown, instance.ctl("show").stdout);
    let (_, _, json) = command(at, "services json");
    assert!(json.starts_with("{\"schema\":1,\"answer\":\"services\""), "{json}");
    let lines = with_token() + "Accept: application/json\r\n";
    let (_, _, json) = post(at, "/api/v1/command", &lines, "disable 9");
    assert_eq!(
        json,
        "{\"schema\":1,\"answer\":\"command\",\"text\":\"no such channel 9\\n\",\"exit_code\":65}\n"
    );
    let event = "event=commanded http=127.0.0.1 command=\"weight 1 7\"";
    assert!(instance.ctl("events 100").stdout.contains(event), "{}", instance.ctl("events 100"));
    for (target, status, part) in [
        ("/api/v1/command?service=nobody", 404, "no such service"),
        ("/api/v1/command?group=99999", 400, "no such group"),
        ("/api/v1/command?group=x", 400, "no such group"),
        ("/api/v1/command?group=1", 400, "no such channel 0"),
    ] {
        let (was, _, answer) = post(at, target, &with_token(), "disable 0");
        assert!(was == status && answer.contains(part), "{target}: {was} {answer}");
    }
    drop(held);
    instance.end();
}

#[test]
fn nobody_commands_without_the_token_or_from_another_site() {
    let server = Server::echo();
    let (instance, at) = commanded(&[&server]);
    let port = at.port();
    let disable = |lines: &str| post(at, "/api/v1/command", lines, "disable 0");
    for lines in [
        String::new(),
        "Authorization: Bearer\r\n".into(),
        "Authorization: Bearer \r\n".into(),
        format!("Authorization: Basic {TOKEN}\r\n"),
        format!("Authorization: Bearer {}\r\n", &TOKEN[1..]),
        format!("Authorization: Bearer {TOKEN}x\r\n"),
        format!("Authorization: Bearer {}\r\n", TOKEN.to_uppercase()),
        format!("Cookie: token={TOKEN}\r\n"),
    ] {
        let (status, code, answer) = disable(&lines);
        assert_eq!((status, code), (401, Some(77)), "{lines}: {answer}");
        assert!(!answer.contains("0123"), "{answer}");
    }
    // The token of a form is in its body.
    for body in ["command=disable+0", "token=&command=disable+0", "token=x&command=disable+0"] {
        assert_eq!(post(at, "/command", &with_token(), body).0, 401, "{body}");
    }
    for origin in [
        "Origin: http://evil.example\r\n".to_owned(),
        "Origin: null\r\n".into(),
        format!("Origin: http://127.0.0.1:{}\r\n", port ^ 1),
        format!("Origin: http://{at}.evil.example\r\n"),
        format!("Origin: ftp://{at}\r\n"),
        "Sec-Fetch-Site: cross-site\r\n".into(),
        "Sec-Fetch-Site: same-site\r\n".into(),
    ] {
        let (status, code, _) = disable(&(origin.clone() + &with_token()));
        assert_eq!((status, code), (403, Some(77)), "{origin}");
        let form = format!("token={TOKEN}&command=disable+0");
        assert_eq!(post(at, "/command", &origin, &form).0, 403, "{origin}");
    }
    // A name that a stranger has pointed here (DNS rebinding).
    let rebound = format!(
        "POST /api/v1/command HTTP/1.1\r\nHost: evil.example:{port}\r\n{}Content-Length: 9\r\n\r\ndisable 0",
        with_token()
    );
    assert_eq!(status(&raw(at, rebound.as_bytes())), 421);
    assert_eq!(states(&instance), ["ENA"]);
    let told = instance.ctl("events 100").stdout;
    assert!(
        told.contains(" warning event=wrong_token http=127.")
            && !told.contains("commanded")
            && !told.contains("0123"),
        "{told}"
    );
    // Our own page may.
    let ours = format!("Origin: http://{at}\r\nSec-Fetch-Site: same-origin\r\n{}", with_token());
    assert_eq!(disable(&ours).0, 200);
    assert_eq!(states(&instance), ["dis"]);
    let form = format!("token={TOKEN}&group=0&command=enable+0%3Cb%3E");
    let (status, _, answer) = post(at, "/command", "", &form);
    assert!(status == 400 && answer.contains("enable 0&#60;b&#62;") && !answer.contains("<b>"), "{answer}");
    assert_eq!(post(at, "/command", "", &format!("token={TOKEN}&command=enable+0")).0, 200);
    assert_eq!(states(&instance), ["ENA"]);
    instance.end();
}

#[test]
fn wrong_tokens_from_everywhere_push_nothing_out_of_the_events() {
    const STRANGERS: usize = 1_100;
    let server = Server::echo();
    let (instance, at) = commanded(&[&server]);
    instance.ctl("disable 0").code(0);
    instance.ctl("enable 0").code(0);
    let start = Instant::now();
    let request = format!(
        "POST /api/v1/command HTTP/1.0\r\nHost: {at}\r\nAuthorization: Bearer {}\r\nContent-Length: 7\r\n\r\nversion",
        "x".repeat(20)
    );
    for stranger in 0..STRANGERS {
        let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 77, 0, 1)) + stranger as u32);
        let mut client = Client::connect_from(from, at);
        client.send(request.as_bytes());
        let answer = String::from_utf8_lossy(&client.recv_all()).into_owned();
        assert_eq!(status(&answer), 401, "{answer}");
    }
    let told = instance.ctl("events 1000").stdout;
    for kept in ["event=started", "command=\"disable 0\"", "command=\"enable 0\""] {
        assert!(told.contains(kept), "{kept}: {told}");
    }
    // One in ten seconds, whoever it is.
    let most = 2 + start.elapsed().as_secs() as usize / 10;
    let wrong = told.lines().filter(|line| line.contains("event=wrong_token")).count();
    assert!((1..=most).contains(&wrong), "{wrong} of at most {most}: {told}");
    assert!(instance.told("wrong_token").len() <= most + 1, "{told}");
    instance.end();
}

#[test]
fn help_says_what_http_takes() {
    let server = Server::echo();
    let (instance, at) = commanded(&[&server]);
    let (status, code, help) = command(at, "help");
    assert_eq!((status, code), (200, Some(0)), "{help}");
    let words: Vec<&str> =
        help.lines().filter_map(|line| line.strip_prefix("  ")?.split([' ', '[']).next()).collect();
    assert!(words.len() > 15 && words.contains(&"disable"), "{help}");
    for word in words {
        // With arguments or without, it is not one that HTTP refuses.
        let (status, _, answer) = command(at, word);
        assert_ne!(status, 403, "{word}: {answer}");
    }
    let (status, nothing) = get(at, "/nothing");
    assert!(status == 404 && nothing.contains("\n/api/v1/command "), "{nothing}");
    instance.end();
    let (instance, at) = self::instance(&[&server]);
    assert!(!get(at, "/nothing").1.contains("command"));
    instance.end();
}

#[test]
fn only_one_command_at_a_time_and_only_those_for_operators() {
    let server = Server::echo();
    let (instance, at) = commanded(&[&server]);
    for refused in [
        "kill",
        "quit",
        "upgrade",
        "upgrade /bin/sh",
        "reload",
        "create localhost 9",
        "assign 0 localhost 9",
        "remove 0",
        "wait 0",
        "use x",
        "save",
        "group 1",
        "reset 0",
        "hash",
        "policy rr",
        "debug on",
        "tap 1",
        "k",
    ] {
        let (status, code, answer) = command(at, refused);
        assert_eq!((status, code), (403, Some(77)), "{refused}: {answer}");
    }
    for several in ["disable 0; kill", "disable 0;disable 0", "disable 0\nkill", "", ";", "\n"] {
        let (status, code, answer) = command(at, several);
        assert_eq!((status, code), (400, Some(64)), "{several:?}: {answer}");
    }
    assert_eq!(states(&instance), ["ENA"]);
    instance.end();
}

#[test]
fn bodies_that_are_long_slow_or_in_doubt_are_refused_and_harm_nobody() {
    let server = Server::echo();
    let (instance, at) = commanded(&[&server]);
    let head =
        |lines: &str| format!("POST /api/v1/command HTTP/1.1\r\nHost: {at}\r\n{}{lines}\r\n", with_token());
    for (lines, wanted) in [
        ("", 411),
        ("Transfer-Encoding: chunked\r\n", 411),
        ("Transfer-Encoding: chunked\r\nContent-Length: 9\r\n", 400),
        ("Content-Length: 9\r\nContent-Length: 9\r\n", 400),
        ("Content-Length: -1\r\n", 400),
        ("Content-Length: +9\r\n", 400),
        ("Content-Length: 9x\r\n", 400),
        ("Content-Length: \r\n", 400),
        ("Content-Length: 4097\r\n", 413),
        ("Content-Length: 99999999999999999999999999\r\n", 413),
    ] {
        let answer = raw(at, (head(lines) + "disable 0").as_bytes());
        assert_eq!(status(&answer), wanted, "{lines:?}: {answer}");
    }
    let large = head("Content-Length: 104857600\r\n") + &"x".repeat(300_000);
    assert_eq!(status(&raw(at, large.as_bytes())), 413);
    for (method, path, wanted, allow) in [
        ("GET", "/api/v1/command", 405, "Allow: POST\r\n"),
        ("HEAD", "/command", 405, "Allow: POST\r\n"),
        ("POST", "/", 405, "Allow: GET, HEAD\r\n"),
        ("PUT", "/api/v1/command", 405, "Allow: POST\r\n"),
        ("DELETE", "/", 405, "Allow: GET, HEAD\r\n"),
        ("OPTIONS", "/api/v1/command", 405, "Allow: POST\r\n"),
    ] {
        let answer = raw(
            at,
            format!("{method} {path} HTTP/1.1\r\nHost: {at}\r\nContent-Length: 0\r\n\r\n").as_bytes(),
        );
        assert!(status(&answer) == wanted && answer.contains(allow), "{method} {path}: {answer}");
        assert_eq!(answer.ends_with("\r\n\r\n"), method == "HEAD", "{method} {path}: {answer}");
    }
    // A body that is held back until it is wanted is asked for, once.
    let mut patient = TcpStream::connect(at).expect("it listens");
    patient.set_read_timeout(Some(DEADLINE)).expect("set");
    patient
        .write_all(head("Expect: 100-continue\r\nContent-Length: 7\r\nConnection: close\r\n").as_bytes())
        .expect("sent");
    let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut first = [0; 25];
    patient.read_exact(&mut first).expect("it is asked for");
    assert_eq!(&first, go_on);
    for piece in ["ver", "sion"] {
        patient.write_all(piece.as_bytes()).expect("sent");
    }
    let mut answer = String::new();
    patient.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("100 Continue"), "{answer}");
    // A body that does not come keeps nobody waiting, and is given up.
    let mut slow = TcpStream::connect(at).expect("it listens");
    slow.set_read_timeout(Some(DEADLINE)).expect("set");
    slow.write_all((head("Content-Length: 9\r\n") + "disable").as_bytes()).expect("sent");
    assert_eq!(command(at, "version").0, 200);
    let mut answer = String::new();
    slow.read_to_string(&mut answer).expect("an answer");
    assert_eq!(status(&answer), 408);
    // In any pieces it is the same command, and the next request stands behind it.
    let mut stream = TcpStream::connect(at).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("set");
    stream.set_nodelay(true).expect("set");
    let both = head("Content-Length: 9\r\n")
        + "disable 0"
        + &format!("GET /healthz HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    for piece in both.as_bytes().chunks(7) {
        stream.write_all(piece).expect("sent");
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    assert!(answer.contains("channel 0 disabled\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
    assert_eq!(states(&instance), ["dis"]);
    instance.end();
}

#[test]
fn the_token_is_read_anew_and_without_it_all_is_read_only() {
    let server = Server::echo();
    let (instance, at) = commanded(&[&server]);
    let file = instance.directory.path().join("token");
    assert!(page(at, "/").contains("data-command=\"disable 0\""));
    std::fs::write(&file, "another-token-01234567").expect("written");
    assert_eq!(command(at, "disable 0").0, 401);
    assert_eq!(
        post(at, "/api/v1/command", "Authorization: bearer another-token-01234567\r\n", "version").0,
        200
    );
    for text in ["", "short", "with blanks in it, but long"] {
        std::fs::write(&file, text).expect("written");
        assert_eq!(
            post(at, "/api/v1/command", &format!("Authorization: Bearer {text}\r\n"), "disable 0").0,
            503,
            "{text}"
        );
    }
    std::fs::remove_file(&file).expect("gone");
    assert_eq!(command(at, "disable 0").0, 503);
    assert_eq!(states(&instance), ["ENA"]);
    instance.end();
    let (instance, at) = self::instance(&[&server]);
    assert_eq!(command(at, "disable 0").0, 403);
    assert_eq!(post(at, "/command", "", &format!("token={TOKEN}&command=disable+0")).0, 403);
    assert_eq!(states(&instance), ["ENA"]);
    instance.end();
}

#[test]
fn a_start_says_what_is_wrong_with_the_token_file() {
    let directory = Directory::new();
    let path = directory.path().join("token");
    let start = || {
        let path = path.display().to_string();
        let at = own_address();
        Run::balance(&directory)
            .args([
                "-f",
                "-b",
                &at.ip().to_string(),
                "--http",
                &at.to_string(),
                "--http-token-file",
                &path,
                "1",
                "127.0.0.1:9",
            ])
            .finish()
    };
    start().code(65).err("cannot read it: No such file or directory");
    std::fs::write(&path, "too-short\n").expect("written");
    start().code(65).err("it does not hold a token: give it 16 to 1024 printable");
    Run::balance(&directory)
        .args(["--http-token-file", "x", "1", "127.0.0.1:9"])
        .finish()
        .code(64)
        .err("--http-token-file needs --http; say where to listen, such as --http 7780");
}

#[test]
fn a_click_in_a_browser_disables_a_channel() {
    if !has("chromium") || !has("chromedriver") {
        return;
    }
    let server = Server::echo();
    let (instance, at) = commanded(&[&server, &server]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/page/browser.py");
    let show = instance.bind_option().join(" ");
    let port = instance.port();
    let line = format!("exec python3 -B '{script}' http://{at} {TOKEN} '' balance {show} -c show {port}");
    Run::script(&instance.directory, &line).within(DEADLINE * 6).finish().code(0).out("ok\n");
    // The browser has seen in `show` that it is disabled. Last came a form without a script, which has enabled it again.
    let rows = instance.show();
    assert_eq!(rows[1].state, "ENA");
    let told = instance.ctl("events 100").stdout;
    let commands: Vec<&str> =
        told.lines().filter_map(|line| line.split_once(" command=")).map(|(_, one)| one).collect();
    assert_eq!(
        commands,
        ["\"disable 1\"", "\"weight 1 9\"", "\"weight 1 7\"", "\"maxc 1 55\"", "\"enable 1\""],
        "{told}"
    );
    instance.end();
}
