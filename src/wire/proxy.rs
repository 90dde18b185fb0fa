//! The PROXY protocol: a header in front of a connection's bytes that says who the client is.
//!
//! Knows: what reading and writing have in common. Never: sockets, which sender is trusted.
//! Source: haproxy's doc/proxy-protocol.txt, versions 1 and 2.

pub(crate) mod decode;
pub(crate) mod encode;

/// The first bytes of every version 2 header.
pub(crate) const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Length of the fixed part of a version 2 header in bytes, which its length field does not count.
pub(crate) const FIXED_BYTES: usize = 16;
/// Maximum length of a version 1 header in bytes, including its line end.
pub(crate) const V1_BYTES: usize = 107;
/// The TLV type of the header's checksum (`PP2_TYPE_CRC32C`).
pub(crate) const TLV_CRC32C: u8 = 0x03;
/// The TLV type of padding (`PP2_TYPE_NOOP`).
pub(crate) const TLV_NOOP: u8 = 0x04;
/// The TLV type of the connection's unique name (`PP2_TYPE_UNIQUE_ID`).
pub(crate) const TLV_UNIQUE_ID: u8 = 0x05;
