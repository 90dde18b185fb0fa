//! How a client's connection ended, in one closed list, so that the log and whoever counts say the same words.
//!
//! Knows: the words. Never: what decides an end.

use std::fmt;

use crate::sched::Loss;

/// How a client's connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client closed first, and then the channel.
    ClientClosed,
    /// The channel closed first, and then the client.
    ChannelClosed,
    /// The client sent a reset, or was found gone.
    ClientReset,
    /// The channel sent a reset, or was found gone.
    ChannelReset,
    /// No byte moved for too long.
    Idle,
    /// One side had ended, and no byte moved for too long.
    HalfClosed,
    /// It has lived for long enough.
    Lifetime,
    /// There was no channel for it.
    Lost(Loss),
    /// An operator closed it, or its channel went down.
    Kicked,
    /// The process ends.
    ShutDown,
    /// By an error of our own.
    Ours,
    /// By a bug of ours.
    Panic,
}

impl End {
    /// Why a client is lost that ends like this before it has a channel; `None` if it is as things are to be.
    pub fn loss(self) -> Option<Loss> {
        match self {
            Self::Lost(why) => Some(why),
            Self::ClientClosed | Self::ClientReset => Some(Loss::Left),
            Self::ChannelClosed
            | Self::ChannelReset
            | Self::Idle
            | Self::HalfClosed
            | Self::Lifetime
            | Self::Ours
            | Self::Panic => Some(Loss::Ours),
            Self::Kicked | Self::ShutDown => None,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClientClosed => "client closed",
            Self::ChannelClosed => "channel closed",
            Self::ClientReset => "client reset",
            Self::ChannelReset => "channel reset",
            Self::Idle => "idle",
            Self::HalfClosed => "half-closed",
            Self::Lifetime => "lifetime",
            Self::Lost(why) => return why.fmt(f),
            Self::Kicked => "closed by the operator",
            Self::ShutDown => "shut down",
            Self::Ours => "internal error",
            Self::Panic => "panic",
        })
    }
}
