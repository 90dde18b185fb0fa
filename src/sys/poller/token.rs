//! The identity of a watch, in the 64 bits that a poller keeps for it.
//!
//! Knows: how the parts are packed. Never: what a key refers to.

use crate::wire::relay::Side;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The waker of another thread.
    Waker = 0,
    /// A listening socket.
    Listener = 1,
    /// The socket of a connection.
    Socket = 2,
}

/// The identity of one watch. Keys are reused, and one batch of events may contain an event of a socket that
/// was closed while the batch was handled: the generation tells the two sockets apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    /// What is watched.
    pub(crate) kind: Kind,
    /// Which listener or connection.
    pub(crate) key: u32,
    /// Which of the connection's two sockets.
    pub(crate) side: Side,
    /// Distinguishes sockets that had the same key and side one after another.
    pub(crate) generation: u16,
}

impl Token {
    /// The token of a poller's waker; each poller has one.
    pub(crate) const WAKER: Self = Self { kind: Kind::Waker, key: 0, side: Side::Client, generation: 0 };

    /// The token as one number.
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.key)
            | u64::from(self.generation) << 32
            | (self.side as u64) << 48
            | (self.kind as u64) << 49
    }

    /// The token of a number that [`Token::pack`] made.
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
