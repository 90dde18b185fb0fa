//! The numbers of groups and channels.
//!
//! Knows: which numbers are possible. Never: which are in use.

/// Groups are numbered 0..MAX_GROUPS.
pub const MAX_GROUPS: usize = 65_535;
/// Channels of one group are numbered 0..MAX_CHANNELS.
pub const MAX_CHANNELS: usize = 65_535;

/// The number of a group, below [`MAX_GROUPS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(u16);

impl GroupId {
    /// The group that is tried first.
    pub const FIRST: Self = Self(0);
    /// The greatest number.
    const LAST: Self = Self(MAX_GROUPS as u16 - 1);
    /// `None` if `n` is not below [`MAX_GROUPS`].
    pub fn new(n: usize) -> Option<Self> {
        if n < MAX_GROUPS { u16::try_from(n).ok().map(Self) } else { None }
    }
    /// The number.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// At least one consecutive group: where a client may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupRange {
    /// The group that is tried first.
    pub(super) first: GroupId,
    /// The group that is tried last.
    pub(super) last: GroupId,
}

impl GroupRange {
    /// All possible groups.
    pub const ALL: Self = Self { first: GroupId::FIRST, last: GroupId::LAST };

    /// From the group `first` up to the one before `next`, or to the last. `None` if the range would be empty
    /// or a number is impossible.
    pub fn new(first: usize, next: Option<usize>) -> Option<Self> {
        let last = match next {
            Some(next) => GroupId::new(next.checked_sub(1)?)?,
            None => GroupId::LAST,
        };
        let first = GroupId::new(first).filter(|first| *first <= last)?;
        Some(Self { first, last })
    }

    /// Is this group in the range?
    pub fn contains(self, group: GroupId) -> bool {
        self.first <= group && group <= self.last
    }
}

/// The number of a channel inside its group, below [`MAX_CHANNELS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(u16);

impl ChannelId {
    /// `None` if `n` is not below [`MAX_CHANNELS`].
    pub fn new(n: usize) -> Option<Self> {
        if n < MAX_CHANNELS { u16::try_from(n).ok().map(Self) } else { None }
    }
    /// The number.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A group and a channel in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelKey {
    /// The group.
    pub group: GroupId,
    /// The channel's number in the group.
    pub channel: ChannelId,
}

impl ChannelKey {
    /// `None` if one of the numbers is impossible.
    pub fn new(group: usize, channel: usize) -> Option<Self> {
        Some(Self { group: GroupId::new(group)?, channel: ChannelId::new(channel)? })
    }
    /// `None` if the number is impossible.
    pub(super) fn of(group: GroupId, number: usize) -> Option<Self> {
        ChannelId::new(number).map(|channel| Self { group, channel })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_below_the_limits() {
        assert_eq!(GroupId::new(0), Some(GroupId::FIRST));
        assert_eq!(GroupId::new(MAX_GROUPS - 1).map(GroupId::index), Some(65_534));
        assert_eq!(GroupId::new(MAX_GROUPS), None);
        assert_eq!(GroupId::new(usize::MAX), None);
        assert_eq!(ChannelId::new(MAX_CHANNELS - 1).map(ChannelId::index), Some(65_534));
        assert_eq!(ChannelId::new(MAX_CHANNELS), None);
        assert_eq!(ChannelId::new(65_536), None, "no number wraps round to channel 0");
    }
}
