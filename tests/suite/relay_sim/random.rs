//! Reproducible random numbers: one generator per connection, and payload as a keyed stream.
//!
//! Knows: numbers. Never: what they decide.

/// splitmix64.
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A generator: the same key, the same numbers.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(key: u64) -> Self {
        Self(mix(key))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// From 0 to `n` - 1.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// From 1 to `n`.
    pub(crate) fn up_to(&mut self, n: u64) -> u64 {
        1 + self.below(n)
    }

    /// True so many times in a thousand.
    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// A number of any magnitude below 2^bits, small ones as often as large ones.
    pub(crate) fn magnitude(&mut self, bits: u64) -> u64 {
        let top = 1 << self.below(bits);
        top + self.below(top)
    }
}

/// What one side sends: byte `i` depends on the key and on `i` and on nothing else.
#[derive(Debug)]
pub(crate) struct Stream {
    key: u64,
    bytes: Vec<u8>,
}

impl Stream {
    pub(crate) fn new(key: u64) -> Self {
        Self { key, bytes: Vec::new() }
    }

    /// The bytes from `at` on.
    pub(crate) fn bytes(&mut self, at: u64, length: usize) -> &[u8] {
        let at = usize::try_from(at).expect("streams here are short");
        while self.bytes.len() < at + length {
            let word = mix(self.key ^ (self.bytes.len() as u64).wrapping_mul(0xd6e8_feb8_6659_fd93));
            self.bytes.extend_from_slice(&word.to_le_bytes());
        }
        &self.bytes[at..at + length]
    }

    /// Where in the stream this sample is found, if anywhere up to `end`.
    pub(crate) fn find(&mut self, sample: &[u8], end: u64) -> Option<usize> {
        let length = usize::try_from(end).expect("streams here are short");
        self.bytes(0, length).windows(sample.len().max(1)).position(|window| window == sample)
    }
}
