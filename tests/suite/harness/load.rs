//! Clients that connect one after another from several threads, until the test has seen enough.

use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::{Client, eventually, pause};

/// What one client got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Got {
    /// The first byte, which is the channel's name.
    Name(char),
    /// An end or a reset before any byte.
    Closed,
    /// No connection at all.
    Refused,
}

/// One client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visit {
    /// Its own address; `None` if it was refused, or reset at once.
    pub(crate) from: Option<SocketAddr>,
    pub(crate) got: Got,
}

/// The clients.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    visits: Arc<Mutex<Vec<Visit>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts clients from `threads` threads to this address.
    pub(crate) fn on(to: SocketAddr, threads: usize) -> Self {
        let (stop, visits) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let thread = |_| {
            let (stop, visits) = (Arc::clone(&stop), Arc::clone(&visits));
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let visit = visit(to);
                    visits.lock().expect("no client panics with it").push(visit);
                    pause();
                }
            })
        };
        let threads = (0..threads).map(thread).collect();
        Self { stop, visits, threads }
    }

    /// The number of clients so far.
    pub(crate) fn count(&self) -> usize {
        self.visits.lock().expect("no client panics with it").len()
    }

    /// Waits for `n` more clients.
    #[track_caller]
    pub(crate) fn await_more(&self, n: usize) {
        let enough = self.count() + n;
        eventually("more clients", || (self.count() >= enough).then_some(()));
    }

    /// Waits for the last clients; returns what all of them got.
    #[track_caller]
    pub(crate) fn finish(self) -> Vec<Visit> {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("a client thread");
        }
        std::mem::take(&mut *self.visits.lock().expect("no client panics with it"))
    }
}

/// One client: connects and waits for a name.
pub(crate) fn visit(to: SocketAddr) -> Visit {
    let mut client = match Client::try_connect(to, None, None) {
        Ok(client) => client,
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => return Visit { from: None, got: Got::Refused },
        Err(e) if e.kind() == ErrorKind::ConnectionReset => return Visit { from: None, got: Got::Closed },
        Err(e) => panic!("connect to {to}: {e}"),
    };
    let from = client.0.local_addr().ok();
    let mut byte = [0];
    let got = match client.0.read_exact(&mut byte) {
        Ok(()) => Got::Name(char::from(byte[0])),
        Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) => Got::Closed,
        Err(e) => panic!("waiting for a name from {to}: {e}"),
    };
    Visit { from, got }
}
