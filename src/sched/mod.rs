//! Which channel does a client get? Groups, policies, hashing, limits, health, failover, the wait queue.
//!
//! Pure: no socket, no file, no clock, no environment, no randomness except from a seed. Everything here can
//! be tested without a thread; time is an argument. Reading order: `key`, `addresses`, `peers`, `rules`;
//! `health`, `reach`, `naming`, `end`, `cause`, `tally` (with `histogram`), `lease`, `membership`, `channel`;
//! `group` (with `bits`, `stride`, `loads`, `totals`, `ramps`, `news` and `rendezvous` by `seat`), `pick`,
//! `route`; `line`, `changes`; `table` (with `agenda`), and what else is done with it: `serving`, `attempts`,
//! `probing`, `edits`, `moving`, `family`, `survey`, `shared`; `rule_set`, `denials`, `client_limits` and
//! `gate`: who is let in; `record` and `held` for a process that takes over from another one.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod addresses;
mod agenda;
mod attempts;
mod bits;
mod cause;
mod changes;
mod channel;
mod client_limits;
mod connect_times;
mod denials;
mod early;
mod edits;
mod end;
mod family;
mod gate;
mod group;
mod health;
mod held;
mod histogram;
mod key;
mod lease;
mod line;
mod loads;
mod losses;
mod membership;
mod moving;
mod naming;
mod news;
mod outage;
mod pause;
mod peers;
mod pick;
mod probing;
mod ramps;
mod random;
mod reach;
mod record;
mod rendezvous;
mod route;
mod rule_set;
mod rules;
mod seat;
mod serving;
mod shared;
mod snapshot;
mod stride;
mod survey;
mod table;
mod tally;
mod totals;
mod transition;
mod turn;

pub use addresses::{Addresses, ClientAddr, FoundMember, ShownAddress};
pub use cause::DialCause;
pub use client_limits::{ClientPlace, ClientRates};
pub use denials::{Denial, TooManyDenials, Until};
pub use end::{End, OwnFault, Rule};
pub use family::FamilyMoved;
pub use gate::{ClientLimits, Gate, Lists};
pub use health::{CheckRules, HealthRules, HealthSnapshot, HealthState, ProbeResult, Purpose};
pub use held::HeldSlots;
pub use histogram::Distribution;
pub use key::{ChannelId, ChannelKey, GroupId, GroupRange, MAX_CHANNELS, MAX_GROUPS};
pub use lease::{FirstByte, Lease, Slot};
pub use line::Ticket;
pub use losses::{BadGreeting, Loss, NoChannel};
pub use moving::AddressesMoved;
pub use naming::NameSnapshot;
pub use outage::ToldOutage;
pub use peers::{Announced, Peers};
pub use probing::Probe;
pub use record::{ChannelCounts, ChannelFault, RestoreError};
pub use route::Route;
pub use rule_set::{RuleSet, Ruling};
pub use rules::Rules;
pub use seat::is_name;
pub use shared::SharedTable;
pub use snapshot::{
    ChannelSnapshot, DecidedMember, EndedSnapshot, FamilySnapshot, GroupSnapshot, Membership,
    SessionSnapshot, Snapshot, Survey,
};
pub use table::{DialFailure, EditError, Table};
pub use tally::{ClientCounts, Ended};
pub use transition::{Happened, Transition};
pub use turn::{Grant, Turn};

pub use crate::spec::{Address, AdminState, ClientSource, ListenSpan, Policy, UnixName, Weight};
