//! Whether a service is ready, and what `services` says of it, when its socket is lost.

use std::net::SocketAddr;
use std::sync::Arc;

use super::instance::service;
use crate::control::execute::Reply;
use crate::control::ready::ReadyState;
use crate::control::render;
use crate::control::services::ListeningSocket;
use crate::spec::{ListenSpan, LostSocket, SocketAccess, UnixName};

#[test]
fn a_service_that_has_lost_its_port_is_not_ready_and_does_not_serve() {
    let service = service();
    let place: ListenSpan = SocketAddr::from(([0, 0, 0, 0], 80)).into();
    let told = || render::text(&Reply::Services(vec![service.snapshot()]));
    service.set_listen(Vec::new(), place, &[place]);
    assert!(told().contains(" not-listening "), "{}", told());
    assert_eq!(ReadyState::of(&service).why_not.as_deref(), Some("not listening on 0.0.0.0:80"));
    assert!(!service.is_ready());
    // One refused socket of several makes the service not ready, though the others serve.
    service.set_listen(vec![place], place, &[SocketAddr::from(([0, 0, 0, 0], 81)).into()]);
    assert!(!service.is_ready() && told().contains(" serving "));
    service.set_listen(vec![place], place, &[]);
    assert!(service.is_ready() && ReadyState::of(&service).why_not.is_none());
}

/// A Unix socket of which this is known.
#[derive(Debug)]
struct KnownSocket(Option<LostSocket>);

impl ListeningSocket for KnownSocket {
    fn lost(&self) -> Option<LostSocket> {
        self.0
    }

    fn access(&self) -> Option<SocketAccess> {
        None
    }

    fn has_foreign_file(&self) -> bool {
        false
    }
}

#[test]
fn a_service_whose_unix_socket_nobody_finds_is_not_ready_and_does_not_serve() {
    let service = service();
    let place: ListenSpan = UnixName::path(b"/run/x").expect("a short one").into();
    service.set_listen(vec![place], place, &[]);
    let services = || render::text(&Reply::Services(vec![service.snapshot()]));
    let becomes = |lost| *service.socket.write().expect("not poisoned") = Some(Arc::new(KnownSocket(lost)));
    becomes(None);
    assert!(service.is_ready() && services().contains(" serving "));
    for (is_replaced, why) in [(false, "its file is gone"), (true, "another file is at its path")] {
        becomes(Some(LostSocket { is_replaced, is_passed: false }));
        let why = format!("no client finds unix:/run/x: {why}");
        assert_eq!(ReadyState::of(&service).why_not, Some(why));
        assert!(!service.is_ready() && services().contains(" not-listening "), "{}", services());
    }
    becomes(None);
    assert!(service.is_ready());
}
