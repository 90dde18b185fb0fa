//! How a message stands in bytes: a head of fixed size, then the message as JSON, then bytes that it speaks of.
//!
//! Knows: lengths, their bounds. Never: what a message means, where the bytes go.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of a head.
pub const HEAD: usize = 16;
/// The first bytes of each head. A peer that sends other bytes does not speak this protocol.
const MAGIC: [u8; 4] = *b"bal\n";
/// A message has this many bytes at most: all there is to say of the largest table there can be.
const MOST: u32 = 1 << 30;
/// Descriptors that go at a time at most: what the kernel takes with one call. More are sent in loads, of which each but the
/// first rides on a byte of its own behind the frame.
pub const MOST_DESCRIPTORS: usize = 250;

/// What a head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the message.
    pub message: usize,
    /// Bytes behind it.
    pub attached: usize,
    /// Descriptors that come with it.
    pub descriptors: usize,
}

impl Head {
    /// Reads a head.
    ///
    /// # Errors
    /// It is none of ours.
    pub fn read(bytes: [u8; HEAD]) -> io::Result<Self> {
        let wrong = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why.to_owned()));
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..4] != MAGIC {
            return wrong("the other end does not speak balance's protocol");
        }
        let (message, attached, descriptors) = (number(4), number(8), number(12));
        if message > MOST || attached > MOST || descriptors as usize > 1 << 20 {
            return wrong("a message is too long");
        }
        Ok(Self { message: message as usize, attached: attached as usize, descriptors: descriptors as usize })
    }

    /// Bytes behind the frame that mean nothing: one for each load of descriptors after the first.
    pub const fn trailer(self) -> usize {
        self.descriptors.div_ceil(MOST_DESCRIPTORS).saturating_sub(1)
    }
}

/// A message in bytes, with what is attached to it, and descriptors that come with it.
///
/// # Errors
/// It is too long.
pub fn write(message: &impl Serialize, attached: &[u8], descriptors: usize) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec(message)?;
    let length = |bytes: usize| {
        let length = u32::try_from(bytes).ok().filter(|&length| length <= MOST);
        length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a message is too long"))
    };
    let mut frame = Vec::with_capacity(HEAD + text.len() + attached.len());
    frame.extend(MAGIC);
    for number in [text.len(), attached.len(), descriptors] {
        frame.extend(length(number)?.to_le_bytes());
    }
    frame.extend(text);
    frame.extend(attached);
    Ok(frame)
}

/// Reads a message of this type.
///
/// # Errors
/// It is none.
pub fn read<M: DeserializeOwned>(text: &[u8]) -> io::Result<M> {
    Ok(serde_json::from_slice(text)?)
}
