//! Several services of one process.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};

use super::instance::{all, answer, idle_plane, rest, service};
use crate::control::client::{AskError, Client};
use crate::control::endpoint::{Endpoint, EndpointOptions, Names};
use crate::control::find::{self, FindError, Wanted, Which};
use crate::control::scratch::Scratch;
use crate::control::services::{ManagedService, Plane};
use crate::control::socket::{Control, serve};

/// Two services of one process: `web` on port 80, and one without a name on port 25. Also how often each was
/// killed, and how many connections `web` has.
fn two_services() -> (Scratch, Control, [Arc<AtomicU32>; 2], Arc<AtomicUsize>) {
    let kills = [(); 2].map(|()| Arc::new(AtomicU32::new(0)));
    let connections = Arc::new(AtomicUsize::new(0));
    let made = |name: Option<&str>, port: u16, kills: &Arc<AtomicU32>| {
        let count = Arc::clone(kills);
        let connected = Arc::clone(&connections);
        let connected = move || if port == 80 { connected.load(Ordering::SeqCst) } else { 0 };
        ManagedService {
            name: RwLock::new(name.map(str::to_owned)),
            listen: RwLock::new(vec![SocketAddr::from(([0, 0, 0, 0], port)).into()]),
            kill: Arc::new(move || {
                count.fetch_add(1, Ordering::SeqCst);
                true
            }),
            plane: Plane { connections: Arc::new(connected), ..idle_plane() },
            ..service()
        }
    };
    let services = vec![made(Some("web"), 80, &kills[0]), made(None, 25, &kills[1])];
    let names = services.iter().map(|one| Names { listen: one.listen(), name: one.name() });
    let scratch = Scratch::new();
    let options =
        EndpointOptions { directories: vec![scratch.shared()], services: names.collect(), group: None };
    let endpoint = Endpoint::bind(&options).expect("bound");
    let control = serve(endpoint, all(services)).expect("serving");
    (scratch, control, kills, connections)
}

fn find(scratch: &Scratch, service: Which) -> Result<Client, FindError> {
    find::find(&Wanted { directories: vec![scratch.shared()], service }, false)
}

fn by_port(port: u16) -> Which {
    Which::Port { port, addresses: None, ipv6: false }
}

#[test]
fn a_client_is_at_the_service_that_it_asked_for() {
    let (scratch, _control, ..) = two_services();
    let mut web = find(&scratch, Which::Name { name: "web".into(), port: None }).expect("found");
    let mut mail = find(&scratch, by_port(25)).expect("found");
    assert_eq!((web.service(), mail.service()), (Some("web"), Some("0.0.0.0:25")));
    assert!(matches!(
        find(&scratch, Which::Name { name: "mail".into(), port: None }),
        Err(FindError::NoService { .. })
    ));
    // A change of one service does not change the other.
    assert_eq!(answer(&mut web, "disable 0").0, 0);
    assert!(answer(&mut web, "show").1.contains("dis"));
    assert!(answer(&mut mail, "show").1.contains("ENA"));
    let list = "\
name             listen                 up/channels connections state    file
web              0.0.0.0:80                     0/1           0 serving  -
-                0.0.0.0:25                     1/1           0 serving  -
";
    assert_eq!(answer(&mut mail, "services"), (0, list.into()));
    for (word, code, text) in [
        ("web", 0, "using service web\n"),
        ("25", 0, "using service 0.0.0.0:25\n"),
        ("0.0.0.0:80", 0, "using service web\n"),
        ("[::ffff:0.0.0.0]:80", 0, "using service web\n"),
        ("443", 65, "no such service 443\n"),
        ("mail", 65, "no such service mail\n"),
    ] {
        assert_eq!(answer(&mut mail, &format!("use {word}")), (code, text.into()));
    }
    // The commands that follow are meant for a service that does not exist.
    let rest = "no such service mial\nthe rest of the line was not carried out\n";
    for line in ["use mial; kill", "use mial; disable 0; use web"] {
        assert_eq!(answer(&mut mail, line), (65, rest.into()), "{line}");
    }
    assert_eq!(answer(&mut mail, "use mial;"), (65, "no such service mial\n".into()));
    assert_eq!(answer(&mut mail, "services"), (0, list.into()), "nothing has changed");
}

#[test]
fn kill_ends_the_current_service_and_the_end_of_the_last_one_all_sessions() {
    let (scratch, control, kills, connections) = two_services();
    let count = || [0, 1].map(|i| kills[i].load(Ordering::SeqCst));
    connections.store(1, Ordering::SeqCst);
    let mut stays = find(&scratch, by_port(25)).expect("found");
    let mut web = find(&scratch, by_port(80)).expect("found");
    assert_eq!(answer(&mut web, "kill"), (0, "shutdown complete, exiting.\n".into()));
    assert_eq!(count(), [1, 0]);
    // Its name stays, so that commands for it do not reach another service.
    assert_eq!(scratch.names(), ["balance.25.0.0.0.0", "service.web"]);
    assert!(matches!(find(&scratch, by_port(80)), Err(FindError::None)));
    let by_name = || find(&scratch, Which::Name { name: "web".into(), port: None });
    assert!(matches!(by_name(), Err(FindError::NoService { .. })), "it is draining");
    // The service is listed until its last client has left, but no session begins with it.
    assert!(answer(&mut stays, "services").1.contains("1 draining -\n"));
    assert_eq!(answer(&mut stays, "use web; show").0, 0);
    let mut begun = UnixStream::connect(scratch.path().join("balance.25.0.0.0.0")).expect("connected");
    begun.write_all(b"group 0\nquit\n").expect("written");
    let said = rest(&mut begun);
    assert!(said.contains(" services 2 ") && said.contains(". 0 0 in 0.0.0.0:25\n"), "{said}");
    connections.store(0, Ordering::SeqCst);
    let (code, list) = answer(&mut stays, "services; use web");
    assert!(code == 65 && list.ends_with("0 serving  -\nno such service web\n"), "{list}");
    assert_eq!(list.lines().count(), 3, "{list}");
    assert!(matches!(by_name(), Err(FindError::NoService { .. })), "it is gone");
    let mut other = find(&scratch, by_port(25)).expect("found");
    assert_eq!(answer(&mut other, "kill").0, 0);
    assert_eq!(count(), [1, 1]);
    assert!(scratch.names().is_empty(), "nobody has connections left");
    assert_eq!(answer(&mut stays, "version").0, 0);
    drop(control);
    assert!(matches!(stays.ask(b"version", |_| ()), Err(AskError::Unheard)));
}
