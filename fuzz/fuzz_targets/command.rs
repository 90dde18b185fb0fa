//! Any bytes as a line of the command language: balance answers without a panic, and the answer is whole
//! lines.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use balance::control::HostPort;
use balance::control::command::parse_line;
use balance::control::execute::{Reply, Session, apply, prepare};
use balance::control::render;
use balance::sched::{AdminState, Addresses, GroupId, Rules, Table};
use libfuzzer_sys::fuzz_target;

fn lookup(target: &HostPort) -> Result<Addresses, String> {
    let ip: IpAddr = target.host.parse().map_err(|_| "no name is known here".to_owned())?;
    Ok(SocketAddr::new(ip, 80).into())
}

fuzz_target!(|line: &[u8]| {
    let mut table = Table::new(Rules { hash_failover: true, autodisable: true, ..Rules::CLASSIC });
    for port in 1..4 {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        table.create(GroupId::FIRST, address.into(), None, AdminState::Enabled).expect("a slot");
    }
    let mut session = Session::default();
    for command in parse_line(line) {
        let reply = match command {
            Ok(command) => apply(prepare(command, lookup), &mut session, &mut table),
            Err(error) => Reply::NoCommand(error),
        };
        let text = render::text(&reply);
        assert!(text.is_empty() || text.ends_with('\n'));
        assert!(matches!(render::exit_code(&reply), 0 | 64 | 65 | 69));
    }
});
