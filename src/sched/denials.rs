//! Networks that operators have denied at run time, each for a while or for good.
//!
//! Knows: networks, until when each is denied. Never: clocks, lists of files.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::Bound;
use std::time::Duration;

use ipnet::IpNet;

/// When a denial ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Until {
    /// By the instance's clock.
    pub at: Duration,
    /// The same moment in seconds since 1970, for another instance.
    pub since_1970: u64,
}

/// A denied network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denial {
    /// Its addresses.
    pub net: IpNet,
    /// When the denial ends. `None`: never.
    pub until: Option<Until>,
}

/// This many networks are already denied, which is the maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyDenials(pub usize);

/// All denied networks.
#[derive(Debug, Default)]
pub(super) struct Denials {
    nets: HashMap<IpNet, Option<Until>>,
    /// The same networks in order, to read them piece by piece.
    order: BTreeSet<IpNet>,
    /// How many networks there are of each prefix length, longest first; only lengths that occur.
    lengths: Vec<(u8, usize)>,
    /// How many networks were left when ended denials were last removed.
    swept: usize,
}

impl Denials {
    /// Maximum number of denied networks. Longer lists belong into a file.
    pub(super) const MOST: usize = 100_000;

    pub(super) fn is_empty(&self) -> bool {
        self.nets.is_empty()
    }

    /// Denies a network; replaces an earlier denial of it.
    ///
    /// # Errors
    /// The maximum is reached.
    pub(super) fn deny(&mut self, denial: Denial, now: Duration) -> Result<(), TooManyDenials> {
        if self.nets.len() >= Self::MOST || self.nets.len() > 2 * self.swept + 64 {
            self.sweep(now);
        }
        if self.nets.len() >= Self::MOST && !self.nets.contains_key(&denial.net) {
            return Err(TooManyDenials(self.nets.len()));
        }
        if self.nets.insert(denial.net, denial.until).is_none() {
            self.count(denial.net.prefix_len());
            self.order.insert(denial.net);
        }
        Ok(())
    }

    /// Ends a denial. `false` if the network was not denied.
    pub(super) fn lift(&mut self, net: IpNet, now: Duration) -> bool {
        let was = self.nets.remove(&net);
        if was.is_some() {
            self.uncount(net.prefix_len());
            self.order.remove(&net);
        }
        was.is_some_and(|until| holds(until, now))
    }

    /// Looks at the next `most` networks after `behind`, or at the first ones, and adds those still denied to
    /// `all`. Returns the last network looked at; `None` at the end.
    pub(super) fn piece(
        &self,
        behind: Option<IpNet>,
        most: usize,
        now: Duration,
        all: &mut Vec<Denial>,
    ) -> Option<IpNet> {
        let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut last, mut count) = (None, 0);
        for &net in self.order.range((from, Bound::Unbounded)).take(most) {
            let until = self.nets.get(&net).copied().filter(|&until| holds(until, now));
            all.extend(until.map(|until| Denial { net, until }));
            (last, count) = (Some(net), count + 1);
        }
        last.filter(|_| count == most)
    }

    /// How many networks are denied now.
    pub(super) fn count_all(&self, now: Duration) -> usize {
        self.nets.values().filter(|&&until| holds(until, now)).count()
    }

    /// The prefix length of the longest denied network that contains an address; `None` if there is none.
    pub(super) fn longest(&self, client: IpAddr, now: Duration) -> Option<u8> {
        let client = client.to_canonical();
        self.lengths.iter().map(|&(length, _)| length).find(|&length| {
            let net = IpNet::new(client, length).ok().map(|net| net.trunc());
            net.and_then(|net| self.nets.get(&net)).is_some_and(|&until| holds(until, now))
        })
    }

    /// Removes denials that have ended.
    pub(super) fn sweep(&mut self, now: Duration) {
        self.nets.retain(|_, until| holds(*until, now));
        self.order.retain(|net| self.nets.contains_key(net));
        self.lengths.clear();
        for length in self.nets.keys().map(IpNet::prefix_len).collect::<Vec<_>>() {
            self.count(length);
        }
        self.swept = self.nets.len();
    }

    fn count(&mut self, length: u8) {
        match self.lengths.binary_search_by(|(known, _)| length.cmp(known)) {
            Ok(found) => self.lengths[found].1 += 1,
            Err(place) => self.lengths.insert(place, (length, 1)),
        }
    }

    fn uncount(&mut self, length: u8) {
        if let Ok(found) = self.lengths.binary_search_by(|(known, _)| length.cmp(known)) {
            self.lengths[found].1 -= 1;
            if self.lengths[found].1 == 0 {
                self.lengths.remove(found);
            }
        }
    }
}

fn holds(until: Option<Until>, now: Duration) -> bool {
    until.is_none_or(|until| until.at > now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(net: &str, seconds: Option<u64>) -> Denial {
        let until = seconds.map(|s| Until { at: Duration::from_secs(s), since_1970: 1_000 + s });
        Denial { net: net.parse().expect(net), until }
    }

    #[test]
    fn a_network_is_denied_until_its_time_is_over_or_somebody_lifts_it() {
        let mut denials = Denials::default();
        let at = Duration::from_secs;
        let longest =
            |denials: &Denials, client: &str, now| denials.longest(client.parse().expect(client), at(now));
        for one in
            [denial("192.0.2.0/24", Some(10)), denial("192.0.2.7/32", Some(5)), denial("2001:db8::/64", None)]
        {
            denials.deny(one, at(0)).expect("few");
        }
        assert_eq!(longest(&denials, "192.0.2.7", 4), Some(32));
        assert_eq!(longest(&denials, "::ffff:192.0.2.7", 4), Some(32));
        assert_eq!(longest(&denials, "192.0.2.7", 5), Some(24), "the shorter one holds on");
        assert_eq!(longest(&denials, "192.0.2.7", 10), None);
        assert_eq!(longest(&denials, "2001:db8::9", 99), Some(64));
        assert_eq!(longest(&denials, "2001:db8:0:1::", 99), None);
        denials.deny(denial("192.0.2.7/32", Some(50)), at(6)).expect("few");
        assert_eq!(longest(&denials, "192.0.2.7", 20), Some(32), "what is said last holds");
        let mut all = Vec::new();
        let next = denials.piece(None, 2, at(20), &mut all).expect("there are more");
        assert_eq!(denials.piece(Some(next), 2, at(20), &mut all), None);
        assert_eq!(all, [denial("192.0.2.7/32", Some(50)), denial("2001:db8::/64", None)]);
        assert!(!denials.lift("192.0.2.0/24".parse().expect("a network"), at(20)), "it was over");
        assert!(denials.lift("192.0.2.7/32".parse().expect("a network"), at(20)));
        assert!(!denials.lift("192.0.2.7/32".parse().expect("a network"), at(20)));
        denials.sweep(at(20));
        assert_eq!((&denials.lengths[..], denials.order.len()), (&[(64, 1)][..], 1));
    }

    #[test]
    fn there_is_an_end_to_it_and_those_that_are_over_make_room() {
        let mut denials = Denials::default();
        let net = |n: u32| IpNet::from(IpAddr::from(n.to_be_bytes()));
        let until = Some(Until { at: Duration::from_secs(9), since_1970: 9 });
        for n in 0..u32::try_from(Denials::MOST).expect("small") {
            denials.deny(Denial { net: net(n), until }, Duration::ZERO).expect("room");
        }
        let one_more = Denial { net: net(u32::MAX), until: None };
        assert_eq!(denials.deny(one_more, Duration::ZERO), Err(TooManyDenials(Denials::MOST)));
        assert_eq!(
            denials.deny(Denial { net: net(7), until: None }, Duration::ZERO),
            Ok(()),
            "it is there already"
        );
        assert_eq!(denials.deny(one_more, Duration::from_secs(9)), Ok(()));
        assert_eq!((denials.nets.len(), &denials.lengths[..]), (2, &[(32, 2)][..]));
    }
}
