//! The byte format of a message: a head of fixed size, the message as JSON, and then the bytes that belong to
//! it.
//!
//! Knows: lengths and their limits. Never: what a message means, where the bytes go.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The length of a head in bytes: the magic and three numbers of 32 bits, little-endian.
pub const HEAD: usize = 16;
/// The first bytes of each head. A peer that sends other bytes does not speak this protocol.
const MAGIC: [u8; 4] = *b"bal\n";
/// The most bytes of a message, and of the bytes behind it. The largest possible table fits.
const MOST: u32 = 1 << 30;
/// The most descriptors that are sent with one call; the kernel takes at most 253 (SCM_MAX_FD). Further ones
/// are sent in more calls, each with one byte behind the frame.
pub const MOST_DESCRIPTORS: usize = 250;

/// The contents of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The length of the message in bytes.
    pub message: usize,
    /// How many bytes follow the message.
    pub attached: usize,
    /// How many descriptors come with it.
    pub descriptors: usize,
}

impl Head {
    /// Reads a head.
    ///
    /// # Errors
    /// `InvalidData`: the bytes are not a head, or a length is above its limit.
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

    /// How many bytes without meaning follow the frame: one for each call with descriptors after the first.
    pub const fn trailer(self) -> usize {
        self.descriptors.div_ceil(MOST_DESCRIPTORS).saturating_sub(1)
    }
}

/// Writes a message and the attached bytes, with the number of descriptors that go with them.
///
/// # Errors
/// `InvalidInput`: the message or the attached bytes are too long.
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

/// Reads the JSON of a message.
///
/// # Errors
/// The text is not a message of this type.
pub fn read<M: DeserializeOwned>(text: &[u8]) -> io::Result<M> {
    Ok(serde_json::from_slice(text)?)
}
