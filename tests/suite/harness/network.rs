//! A network namespace for a test.

/// Runs a test in a network namespace of its own: only loopback, all ports free, all settings changeable.
/// Threads and programs that the test starts are in it, too. Without root the test is skipped.
pub(crate) fn private_network(why: &str, test: impl FnOnce() + Send) {
    if super::needs_root(why) {
        return;
    }
    let ran = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may have a network");
            super::Run::new("ip").args(["link", "set", "lo", "up"]).finish().code(0);
            test();
        });
        thread.join()
    });
    if let Err(panic) = ran {
        std::panic::resume_unwind(panic);
    }
}

/// Sets the range of ports that this network gives to outgoing connections.
pub(crate) fn port_range(first: u16, last: u16) {
    let range = format!("{first} {last}");
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).expect("a setting of our own network");
}
