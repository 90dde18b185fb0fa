//! Where the entries of instances are, and what they are called.
//!
//! Knows: which directories can be trusted, entry names. Never: sockets, the environment (paths are handed in).
//! Source: docs/control.md, "Where the socket is".

use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::control::peer;

/// A place for entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Directory {
    /// For all users, such as `/run/balance`; made with mode 01777 if we may.
    Shared(PathBuf),
    /// For one user, such as `$XDG_RUNTIME_DIR/balance`; made with mode 0700.
    Private(PathBuf),
}

impl Directory {
    /// Its path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Shared(path) | Self::Private(path) => path,
        }
    }

    /// Opens it if it can be trusted: a real directory of root or of ourselves; a private one of ourselves, where
    /// nobody else can write.
    pub(crate) fn open(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(self.path(), flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        let own = stat.st_uid == peer::own_uid();
        let trusted = match self {
            Self::Shared(_) => own || stat.st_uid == 0,
            // Root is told nothing that its users may not know: it may use theirs, as they are.
            Self::Private(_) => (own || peer::own_uid() == 0) && stat.st_mode & 0o022 == 0,
        };
        if trusted {
            Ok(fd)
        } else {
            Err(io::Error::new(ErrorKind::PermissionDenied, "not a safe directory"))
        }
    }

    /// Opens it, made if it is not there.
    pub(crate) fn make(&self) -> io::Result<OwnedFd> {
        let mode = match self {
            Self::Shared(_) => Mode::from_raw_mode(0o1777),
            Self::Private(_) => Mode::from_raw_mode(0o700),
        };
        match rustix::fs::mkdir(self.path(), mode) {
            Ok(()) => {
                let fd = self.open()?;
                // mkdir(2) obeys the umask and may leave out the sticky bit.
                rustix::fs::fchmod(&fd, mode)?;
                Ok(fd)
            }
            Err(rustix::io::Errno::EXIST) => self.open(),
            // On a read-only /run the directory may be there all the same.
            Err(error) => self.open().map_err(|_| error.into()),
        }
    }
}

/// The name of the entry of an address and port. A v4-mapped address is its v4 address.
pub(crate) fn entry_name(port: u16, address: IpAddr) -> String {
    format!("balance.{port}.{}", address.to_canonical())
}

/// The name of the entry of a service that has a name.
pub(crate) fn service_entry_name(name: &str) -> String {
    format!("service.{name}")
}

/// The address of an entry of this port.
pub(crate) fn entry_address(name: &str, port: u16) -> Option<IpAddr> {
    name.strip_prefix("balance.")?.strip_prefix(&port.to_string())?.strip_prefix('.')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::control::scratch::Scratch;

    #[test]
    fn names_carry_port_and_canonical_address() {
        let name = |port, address: &str| entry_name(port, address.parse().expect("an address"));
        assert_eq!(name(80, "0.0.0.0"), "balance.80.0.0.0.0");
        assert_eq!(name(80, "::"), "balance.80.::");
        assert_eq!(name(65_535, "::ffff:10.1.1.3"), "balance.65535.10.1.1.3");
        assert_eq!(entry_address("balance.80.2001:db8::1", 80), "2001:db8::1".parse().ok());
        for name in ["balance.8.0.0.0.0", "balance.800.0.0.0.0", "balance.80", ".balance.80.0.0.0.0.7", "x"] {
            assert_eq!(entry_address(name, 80), None, "{name}");
        }
    }

    #[test]
    fn directories_of_the_right_mode_are_made_and_unsafe_ones_refused() {
        let scratch = Scratch::new();
        let mode = |path: &Path| fs::symlink_metadata(path).expect("there").permissions().mode() & 0o7777;
        let shared = Directory::Shared(scratch.path().join("new"));
        shared.make().expect("made");
        assert_eq!(mode(shared.path()), 0o1777);
        scratch.private().make().expect("made");
        assert_eq!(mode(scratch.private().path()), 0o700);
        fs::set_permissions(scratch.private().path(), fs::Permissions::from_mode(0o770)).expect("set");
        assert!(scratch.private().make().is_err());
        let link = scratch.path().join("link");
        symlink(shared.path(), &link).expect("linked");
        assert!(Directory::Shared(link).make().is_err());
        assert!(Directory::Shared(scratch.path().join("no/where")).make().is_err());
    }
}
