//! Payload that cannot be confused: a keyed stream of bytes, different for each connection and direction. A
//! byte that is lost, repeated, moved or from another stream is detected.

/// The direction of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Sent,
    Rcvd,
}

/// The bytes of one direction of one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stream(u64);

impl Stream {
    pub(crate) fn new(connection: u64, direction: Direction) -> Self {
        Self(mix(connection * 2 + u64::from(direction == Direction::Rcvd)))
    }

    /// The bytes from `offset` on.
    pub(crate) fn bytes(self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 16);
        let mut word = offset / 8;
        while bytes.len() < length + 8 {
            bytes.extend_from_slice(&mix(self.0 ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes());
            word += 1;
        }
        bytes.drain(..(offset % 8) as usize);
        bytes.truncate(length);
        bytes
    }

    /// Panics if `got` is not what the stream has from `offset` on, and says how it differs.
    #[track_caller]
    pub(crate) fn check(self, offset: u64, got: &[u8]) {
        let want = self.bytes(offset, got.len());
        let Some(bad) = (0..got.len()).find(|&i| got[i] != want[i]) else { return };
        let sample = &got[bad..got.len().min(bad + 16)];
        let at = offset + bad as u64;
        let from = at.saturating_sub(4 << 20);
        let near = self.bytes(from, 8 << 20);
        let what =
            match near.windows(sample.len()).position(|window| window == sample).map(|p| from + p as u64) {
                Some(found) if found > at => format!("{} bytes lost", found - at),
                Some(found) => format!("doubled or moved: belongs to offset {found}"),
                None => "foreign or corrupt".to_owned(),
            };
        panic!("wrong byte at offset {at}: {what} (got {sample:02x?})");
    }
}

/// splitmix64.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[test]
fn a_stream_is_the_same_however_it_is_cut() {
    let stream = Stream::new(7, Direction::Sent);
    let whole = stream.bytes(0, 100);
    for offset in 0..40 {
        assert_eq!(stream.bytes(offset as u64, 50), whole[offset..offset + 50]);
    }
    assert_ne!(whole, Stream::new(7, Direction::Rcvd).bytes(0, 100));
    assert_ne!(whole, Stream::new(8, Direction::Sent).bytes(0, 100));
}
