//! A command with its arguments, as values.
//!
//! Knows: every command and what it says. Never: how a command is spelled, what exists, what it does.
//! Source: docs/control.md, "Commands".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;

use crate::control::argument::{HostPort, Number};
use crate::control::tapping::TapWanted;
use crate::sched::Policy;
use crate::spec::ChannelManner;

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitGoal {
    /// The channel has no connections.
    Idle,
    /// The channel is up, and a check or a connect that began after the command has succeeded.
    Up,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Text for people, and for scripts that cut columns.
    Text,
    /// One line of JSON.
    Json,
}

/// A parsed command with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// End the session.
    Quit,
    /// Show all channels of all groups.
    Show(Form),
    /// `status`
    Status(Form),
    /// Print the list of commands.
    Help,
    /// Stop the service. Its connections are closed after this time; `None`: they may stay as long as they
    /// like.
    Kill(Option<Duration>),
    /// Send no new connections to a channel; `hard` also closes the existing ones.
    Disable {
        /// Its number in the current group.
        channel: Number,
        /// Close its connections.
        hard: bool,
    },
    /// Change the current group.
    Group(Number),
    /// Set a channel's counters to zero.
    Reset(Number),
    /// Send new connections to a channel again.
    Enable(Number),
    /// Create a channel, disabled.
    Create {
        /// The address; `None` if what was typed cannot be one.
        target: Option<HostPort>,
        /// The options typed after the address, or what is wrong with them.
        manner: Result<ChannelManner, String>,
    },
    /// Give a disabled channel a new address.
    Assign {
        /// Its number in the current group.
        channel: Number,
        /// The address; `None` if what was typed cannot be one. The answer reports that only after the checks
        /// that come first.
        target: Option<HostPort>,
    },
    /// Set the connection limit of a channel.
    Maxc {
        /// Its number in the current group.
        channel: Number,
        /// The limit; `None` = no limit (typed as 0).
        maxc: Option<NonZeroU32>,
    },
    /// Print the byte counters of a channel for MRTG.
    MrtgBytes {
        /// Its group.
        group: Number,
        /// Its number in the group.
        channel: Number,
    },
    /// Print the connection counter of a channel for MRTG.
    MrtgConns {
        /// Its group.
        group: Number,
        /// Its number in the group.
        channel: Number,
    },
    /// Print version and limits.
    Version,
    /// Set the policy of the current group by its 3.57 command.
    SetPolicy(Policy),
    /// Disable a channel and say how many connections are left.
    Drain(Number),
    /// Answer when a channel has no connections left, or when it works, or when the time is over.
    Wait {
        /// Its number in the current group.
        channel: Number,
        /// What to wait for.
        until: WaitGoal,
        /// How long to wait; `None` = without a limit.
        patience: Option<Duration>,
    },
    /// Close a channel's connections.
    Kick(Number),
    /// Remove a channel.
    Remove(Number),
    /// Set a channel's share of clients.
    Weight {
        /// Its number in the current group.
        channel: Number,
        /// The weight as typed.
        weight: Number,
    },
    /// Set the policy of the current group; `None` = the name that was typed is no policy.
    Policy(Option<Policy>),
    /// List all connections, or those of a channel of the current group.
    Sessions(Option<Number>, Form),
    /// Close one connection.
    Close(Number),
    /// Print the command line of the instance as it is now.
    Save,
    /// Show all services of the process.
    Services(Form),
    /// Change the current service to the one that this word names.
    Use(String),
    /// Open the file of the access log again.
    Reopen,
    /// Read the files of services again.
    Reload {
        /// Also drop what operators have changed by hand.
        clean: bool,
    },
    /// Make new clients wait for a channel of the current group, or (`None`) for all channels of the service.
    Pause(Option<Number>),
    /// End a pause; the argument is as for `Pause`.
    Resume(Option<Number>),
    /// Hand everything over to a new process that runs the program at this path; `None`: our own program.
    Upgrade(Option<Vec<u8>>),
    /// Say whether the current service has a usable channel.
    Ready {
        /// Ask this for each service of the process.
        all: bool,
    },
    /// Look for common problems in all services, or in the one that this word names.
    Doctor(Option<String>, Form),
    /// Show this many of the last events.
    Events(usize, Form),
    /// Show this many of the connections that ended last.
    Ended(usize, Form),
    /// Switch debug messages on or off; `None`: show the setting.
    Debug(Option<bool>),
    /// Refuse clients from a network.
    Deny {
        /// The network, or what is wrong with it.
        net: Result<IpNet, String>,
        /// For how long; `None`: until `undeny`.
        time: Option<Duration>,
        /// Also close the connections that come from there.
        kick: bool,
        /// Do this in all services of the process.
        all: bool,
    },
    /// End a `deny`.
    Undeny {
        /// The network, or what is wrong with it.
        net: Result<IpNet, String>,
        /// Do this in all services of the process.
        all: bool,
    },
    /// Show what is denied.
    Denied {
        /// Show it for all services of the process.
        all: bool,
        /// How it is told.
        form: Form,
    },
    /// Look up the names of all channels of the service, or of one channel of the current group.
    Resolve(Option<Number>),
    /// Show what a connection carries.
    Tap(TapWanted),
    /// Show the instance live. The program that asks draws it; the instance itself cannot.
    Top,
}
