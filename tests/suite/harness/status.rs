//! Reads `status`.

use super::{Instance, eventually};

/// One line of `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) address: String,
    pub(crate) state: String,
    pub(crate) health: String,
    /// Waiting clients that it could serve.
    pub(crate) queue: u64,
    pub(crate) totalc: u64,
    pub(crate) failed: u64,
    pub(crate) p50: String,
    /// How many of its addresses are up, and how many it has.
    pub(crate) addrs: String,
    pub(crate) used: String,
    /// How balance speaks to it.
    pub(crate) options: String,
    pub(crate) why: String,
}

impl Status {
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split_whitespace().collect();
        let [
            _,
            _,
            address,
            state,
            health,
            _,
            _,
            _,
            queue,
            totalc,
            failed,
            p50,
            _,
            addrs,
            used,
            options,
            why @ ..,
        ] = &words[..]
        else {
            return None;
        };
        Some(Self {
            address: (*address).into(),
            state: (*state).into(),
            health: (*health).into(),
            queue: queue.parse().ok()?,
            totalc: totalc.parse().ok()?,
            failed: failed.parse().ok()?,
            p50: (*p50).into(),
            addrs: (*addrs).into(),
            used: (*used).into(),
            options: (*options).into(),
            why: why.join(" "),
        })
    }
}

impl Instance {
    #[track_caller]
    pub(crate) fn status(&self) -> Vec<Status> {
        let table = self.ctl("status").code(0).stdout;
        let is_more = |line: &str| {
            ["lost clients: ", "ended: ", "from process ", "changed by hand: ", "names: "]
                .iter()
                .any(|more| line.starts_with(more))
        };
        let rows = table.lines().skip(1).filter(|line| !is_more(line));
        rows.map(|line| Status::parse(line).unwrap_or_else(|| panic!("no status: {line:?}"))).collect()
    }

    /// What `status` says about lost clients: all of them, and why; empty if there are none.
    #[track_caller]
    pub(crate) fn losses(&self) -> String {
        let text = self.ctl("status").code(0).stdout;
        text.lines().find_map(|line| line.strip_prefix("lost clients: ")).unwrap_or("").to_owned()
    }

    /// How many connections `sessions` shows as half-closed.
    #[track_caller]
    pub(crate) fn half_closed(&self) -> usize {
        self.ctl("sessions").code(0).stdout.matches(" half-closed:").count()
    }

    /// The health of all channels, such as `up ejected`.
    #[track_caller]
    pub(crate) fn health(&self) -> String {
        self.status().iter().map(|row| &row.health[..]).collect::<Vec<_>>().join(" ")
    }

    /// Waits until the channel on this line has this health.
    #[track_caller]
    pub(crate) fn await_health(&self, line: usize, health: &str) -> Status {
        let mut last = Vec::new();
        eventually(&format!("line {line} is {health}"), || {
            last = self.status();
            last.get(line).filter(|row| row.health == health).cloned()
        })
    }

    /// Waits until clients were lost for these reasons, and for no others: they are counted when they are closed.
    #[track_caller]
    pub(crate) fn await_losses(&self, losses: &str) {
        let mut last = String::new();
        let end = std::time::Instant::now() + super::DEADLINE;
        while std::time::Instant::now() < end {
            last = self.losses();
            if last == losses {
                return;
            }
            super::pause();
        }
        assert_eq!(last, losses, "lost clients");
    }

    /// Waits until each of these events was told so often, and then it was not more often. What has happened is told behind the deed.
    #[track_caller]
    pub(crate) fn await_told<const N: usize>(&self, counts: [(&str, usize); N]) {
        let told = || counts.map(|(event, _)| (event, self.told(event).len()));
        eventually(&format!("they are told so often: {counts:?}"), || {
            told().iter().zip(counts).all(|(told, wanted)| told.1 >= wanted.1).then_some(())
        });
        assert_eq!(told(), counts, "{}", self.stderr());
    }

    /// The log lines of this event so far.
    pub(crate) fn told(&self, event: &str) -> Vec<String> {
        let name = format!("event={event}");
        let stderr = self.stderr();
        let is_it = |line: &&str| line.split_whitespace().any(|word| word == name);
        stderr.lines().filter(is_it).map(str::to_owned).collect()
    }
}
