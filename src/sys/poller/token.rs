//! What a watch is called by, in the 64 bits that a poller keeps for it.
//!
//! Knows: how the parts are packed. Never: what a key is a key of.

use crate::wire::relay::Side;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The waker of another thread.
    Waker = 0,
    /// A socket that listens.
    Listener = 1,
    /// A socket of a connection.
    Socket = 2,
}

/// The name of one watch. Keys are given out again, and one batch of events may hold news of a socket that was closed while
/// the batch was worked off: the generation tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    /// What is watched.
    pub(crate) kind: Kind,
    /// Which one.
    pub(crate) key: u32,
    /// Which of its two sockets.
    pub(crate) side: Side,
    /// Which socket it was that had this key and side.
    pub(crate) generation: u16,
}

impl Token {
    /// The waker's. There is one for each poller.
    pub(crate) const WAKER: Self = Self { kind: Kind::Waker, key: 0, side: Side::Client, generation: 0 };

    /// As one number.
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.key)
            | u64::from(self.generation) << 32
            | (self.side as u64) << 48
            | (self.kind as u64) << 49
    }

    /// From the number that [`Token::pack`] made.
    pub(crate) fn unpack(number: u64) -> Self {
        Self {
            kind: match number >> 49 {
                0 => Kind::Waker,
                1 => Kind::Listener,
                _ => Kind::Socket,
            },
            key: number as u32,
            side: if number >> 48 & 1 == 0 { Side::Client } else { Side::Server },
            generation: (number >> 32) as u16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_from_its_number() {
        for kind in [Kind::Waker, Kind::Listener, Kind::Socket] {
            for side in [Side::Client, Side::Server] {
                for (key, generation) in [(0, 0), (u32::MAX, 0), (0, u16::MAX), (7, 8), (u32::MAX, u16::MAX)]
                {
                    let token = Token { kind, key, side, generation };
                    assert_eq!(Token::unpack(token.pack()), token);
                }
            }
        }
    }
}
