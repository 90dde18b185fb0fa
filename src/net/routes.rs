//! Which groups serve a client, by what it asks for.
//!
//! Knows: which of several matching sections is used. Never: how the request was read, channels.
//! Source: docs/routing.md.

use std::collections::HashMap;

use crate::sched::GroupRange;
use crate::spec::{RouteName, Section};
use crate::wire::hello::Asks;

/// The groups of a service by what clients ask for.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    names: HashMap<String, GroupRange>,
    under: HashMap<String, GroupRange>,
    protocols: Vec<(Vec<u8>, GroupRange)>,
    tls: Option<GroupRange>,
    http: Option<GroupRange>,
    ssh: Option<GroupRange>,
    others: Option<GroupRange>,
}

impl Routes {
    /// The routes of these sections. `None`: all groups serve everyone.
    pub fn new(sections: &[Section]) -> Option<Self> {
        if sections.is_empty() {
            return None;
        }
        let mut routes = Self::default();
        for (number, section) in sections.iter().enumerate() {
            let next = sections.get(number + 1).map(|next| next.group);
            let Some(range) = GroupRange::new(section.group, next) else { continue };
            for asked in &section.asked {
                match asked {
                    RouteName::Name(name) => _ = routes.names.insert(name.clone(), range),
                    RouteName::Under(name) => _ = routes.under.insert(name.clone(), range),
                    RouteName::Alpn(name) => routes.protocols.push((name.clone().into_bytes(), range)),
                    RouteName::Tls => routes.tls = Some(range),
                    RouteName::Http => routes.http = Some(range),
                    RouteName::Ssh => routes.ssh = Some(range),
                    RouteName::Else => routes.others = Some(range),
                }
            }
        }
        Some(routes)
    }

    /// The groups for a client that asks for this. For TLS, the first match of: its server name, the longest
    /// parent domain, its preferred protocol, any TLS. For HTTP or SSH, the groups for that. If nothing
    /// matches, the groups for everything else; `None` if there are none.
    pub(super) fn find(&self, asks: &Asks) -> Option<GroupRange> {
        let found = match asks {
            Asks::Tls { name, protocols } => {
                let name = name.as_deref().and_then(|name| self.by_name(name));
                let protocol = || {
                    let mut all = protocols.iter();
                    all.find_map(|one| self.protocols.iter().find(|(name, _)| name == one))
                        .map(|&(_, range)| range)
                };
                name.or_else(protocol).or(self.tls)
            }
            Asks::Http => self.http,
            Asks::Ssh => self.ssh,
            Asks::Else => None,
        };
        found.or(self.others)
    }

    fn by_name(&self, name: &str) -> Option<GroupRange> {
        let above = || {
            let mut rest = name;
            std::iter::from_fn(move || {
                rest = rest.split_once('.')?.1;
                Some(rest)
            })
        };
        self.names.get(name).copied().or_else(|| above().find_map(|name| self.under.get(name).copied()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_names_come_first_then_the_longest_above_then_what_is_less() {
        let section = |group: usize, asked: &[RouteName]| Section { group, asked: asked.to_vec() };
        let name = |name: &str| RouteName::Name(name.to_owned());
        let under = |name: &str| RouteName::Under(name.to_owned());
        let sections = [
            section(0, &[name("a.example.com"), name("b.example.com")]),
            section(2, &[under("example.com")]),
            section(3, &[under("mail.example.com")]),
            section(4, &[RouteName::Alpn("h2".to_owned())]),
            section(5, &[RouteName::Tls]),
            section(6, &[RouteName::Http]),
            section(7, &[RouteName::Ssh]),
            section(9, &[RouteName::Else]),
        ];
        let tls = |name: Option<&str>, protocols: &[&[u8]]| Asks::Tls {
            name: name.map(str::to_owned),
            protocols: protocols.iter().map(|one| one.to_vec()).collect(),
        };
        let routes = Routes::new(&sections).expect("there are some");
        let range = |first, next| GroupRange::new(first, next).expect("small");
        for (asks, expected) in [
            (tls(Some("a.example.com"), &[b"h2"]), range(0, Some(2))),
            (tls(Some("b.example.com"), &[]), range(0, Some(2))),
            (tls(Some("c.example.com"), &[]), range(2, Some(3))),
            (tls(Some("x.a.example.com"), &[]), range(2, Some(3))),
            (tls(Some("x.mail.example.com"), &[]), range(3, Some(4))),
            (tls(Some("mail.example.com"), &[]), range(2, Some(3))),
            (tls(Some("example.com"), &[b"h2"]), range(4, Some(5))),
            (tls(None, &[b"http/1.1", b"h2"]), range(4, Some(5))),
            (tls(None, &[b"http/1.1"]), range(5, Some(6))),
            (tls(Some("other.example"), &[]), range(5, Some(6))),
            (Asks::Http, range(6, Some(7))),
            (Asks::Ssh, range(7, Some(9))),
            (Asks::Else, range(9, None)),
        ] {
            assert_eq!(routes.find(&asks), Some(expected), "{asks:?}");
        }
        let few = Routes::new(&sections[..1]).expect("there is one");
        for asks in [tls(Some("c.example.com"), &[]), tls(None, &[]), Asks::Http, Asks::Ssh, Asks::Else] {
            assert_eq!(few.find(&asks), None, "{asks:?}");
        }
        assert!(Routes::new(&[]).is_none());
    }
}
