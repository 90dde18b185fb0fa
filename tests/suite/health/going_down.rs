//! What happens to the connections of a channel that checks find down.

use crate::harness::{Client, Instance, Received, Revivable, Server, own_address};

/// Echo servers that are checked on a port whose server can be stopped.
struct Checked {
    door: Revivable,
    server: Server,
    other: Server,
}

impl Checked {
    fn new() -> Self {
        let door = Revivable::new("d");
        let server = Server::on(door.addr.ip(), |stream, _| crate::harness::echo(stream));
        // Nothing listens on that port of this one's address: it is down, and used for want of another.
        let other = Server::on(own_address().ip(), |stream, _| crate::harness::echo(stream));
        Self { door, server, other }
    }

    fn start(&self, on_down: &[&str]) -> Instance {
        let port = self.door.addr.port().to_string();
        let args = ["--check", "tcp", "--check-interval", "20ms", "--check-fall", "2", "--check-port", &port];
        let args = args.into_iter().chain(on_down.iter().copied()).map(String::from);
        Instance::start(args.chain([
            "PORT".into(),
            self.server.to_string(),
            "!".into(),
            self.other.to_string(),
        ]))
    }
}

fn talk(client: &mut Client) {
    client.send("x");
    assert_eq!(client.recv(1), b"x");
}

#[test]
fn connections_of_a_channel_that_goes_down_live_on() {
    for on_down in [&[][..], &["--on-down", "keep"]] {
        let mut checked = Checked::new();
        let instance = checked.start(on_down);
        instance.await_health(0, "up");
        let mut client = instance.connect();
        talk(&mut client);
        checked.door.stop();
        instance.await_health(0, "down");
        talk(&mut client);
        assert_eq!(instance.show()[0].c, 1);
        drop(client);
        instance.end();
    }
}

#[test]
fn connections_of_a_channel_that_goes_down_are_closed_if_it_is_to_be() {
    let mut checked = Checked::new();
    let instance = checked.start(&["--on-down", "kick"]);
    instance.await_health(0, "up");
    let mut clients: Vec<_> = (0..20).map(|_| instance.connect()).collect();
    clients.iter_mut().for_each(talk);
    instance.await_health(1, "down");
    instance.ctl("disable 0").code(0);
    let mut elsewhere = instance.connect();
    talk(&mut elsewhere);
    instance.ctl("enable 0").code(0);
    checked.door.stop();
    for client in &mut clients {
        assert_eq!(client.ending(), Received::End, "nothing was under way");
    }
    instance.await_show("they are gone", |rows| rows[0].c == 0);
    talk(&mut elsewhere);
    // It may still be used, since there is no other; and whoever gets it keeps it, for it does not go down again.
    instance.ctl("group 1; disable 0").code(0);
    let mut late = instance.connect();
    talk(&mut late);
    assert_eq!(instance.show()[0].c, 1);
    drop((late, elsewhere));
    instance.end();
}
