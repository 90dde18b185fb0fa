//! The PROXY protocol: a header in front of a connection's bytes that says who the client is.
//!
//! Knows: what both sides of the protocol have in common. Never: sockets, who is to be believed.
//! Source: haproxy's doc/proxy-protocol.txt, versions 1 and 2.

pub(crate) mod decode;
pub(crate) mod encode;

/// What every header of version 2 begins with.
pub(crate) const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The length of a header of version 2 without what its length field counts.
pub(crate) const FIXED_BYTES: usize = 16;
/// The longest header of version 1, its line end included.
pub(crate) const V1_BYTES: usize = 107;
/// The value that is the checksum of the header.
pub(crate) const TLV_CRC32C: u8 = 0x03;
/// The value that only fills.
pub(crate) const TLV_NOOP: u8 = 0x04;
/// The value that names the connection.
pub(crate) const TLV_UNIQUE_ID: u8 = 0x05;
