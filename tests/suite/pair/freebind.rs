//! `--freebind`: an address that comes and goes.
//!
//! Source: docs/pair.md.

use std::net::SocketAddr;

use crate::harness::{Client, Directory, Run, Server, Setup, eventually, private_network};

use super::nodes::host;

#[test]
fn an_instance_listens_on_an_address_that_comes_and_goes() {
    private_network("addresses that come and go", || {
        for (address, shown) in [("192.0.2.10", "192.0.2.10:80"), ("2001:db8::10", "[2001:db8::10]:80")] {
            let server = Server::named("a");
            let to: SocketAddr = shown.parse().expect("an address");
            // Without the option the cause is told, and the cure.
            let refused = Run::balance(&Directory::new())
                .args(["-f", "-b", address, "80", "127.0.0.1:9"])
                .finish()
                .code(71);
            let words = format!("bind(): Cannot assign requested address ({shown})");
            let refused = refused.err(&words);
            assert!(refused.stderr.contains("--freebind"), "{refused}");

            let setup = Setup::binding(to);
            let file = setup.directory().file(
                "services",
                &format!("web: --freebind -b {address} 80 {server_addr}\n", server_addr = server.addr),
            );
            let mut instance = setup.start(["--file".to_owned(), file.display().to_string()]);
            for _ in 0..2 {
                host(&format!("ip addr add {address} dev lo"));
                // An address of IPv6 is asked for first whether anybody else has it.
                let (mut client, _) = eventually("an address", || {
                    std::net::TcpStream::connect(to).ok().map(|stream| (Client::of(stream), ()))
                });
                assert_eq!(client.recv(1), b"a");
                drop(client);
                host(&format!("ip addr del {address} dev lo"));
                assert!(std::net::TcpStream::connect(to).is_err(), "nobody has it");
                // Neither a reload nor an upgrade needs the address.
                instance.ctl("reload").code(0).out("nothing has changed\n");
                instance.upgrade();
            }
            assert!(instance.ctl("save").code(0).stdout.contains("--freebind"));
            // Nor does what a reload brings.
            for (ports, last) in [("81", 81), ("81-83", 83)] {
                let lines = format!(
                    "more: --freebind -b {address} {ports} {0}\nweb: --freebind -b {address} 80 {0}\n",
                    server.addr
                );
                instance.directory.file("services", &lines);
                instance.ctl("reload").code(0);
                host(&format!("ip addr add {address} dev lo"));
                let last = SocketAddr::new(to.ip(), last);
                let mut client =
                    eventually("an address", || std::net::TcpStream::connect(last).ok().map(Client::of));
                assert_eq!(client.recv(1), b"a");
                drop(client);
                host(&format!("ip addr del {address} dev lo"));
            }
            instance.terminate();
        }
    });
}
