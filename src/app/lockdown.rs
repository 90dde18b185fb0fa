//! Becomes an unprivileged user, and closes off all files except the needed ones.
//!
//! Knows: which files the process needs for what. Never: how privileges are given up or files are closed off
//! (`process`).
//! Source: docs/systemd.md, "Without root".

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group};

use super::environment::Environment;
use super::origin::Origin;
use super::roster::Source;
use super::{Failure, exit, files, refused};
use crate::observe::{Event, Log, Severity};
use crate::process::{self, Account, AccountError, Fence, FenceState};
use crate::spec::{AccessLogSpec, Named, ProcessSpec, ServiceSpec};

/// Files needed to look up names, users and services, and to read facts about the machine.
const READ: &[&str] = &[
    "/etc",
    "/proc",
    "/sys",
    "/dev",
    // All of it: /etc/resolv.conf may link to a file of NetworkManager, systemd-resolved, resolvconf, netconfig
    // or connman, and any of them may be started later than balance. The sockets of nscd, nslcd, avahi and
    // others are here, too.
    "/run",
    "/var/run",
    // WSL has the file for /etc/resolv.conf here.
    "/mnt/wsl",
    // Databases of services for users and hosts: SSSD, extrausers, nss_db, NIS.
    "/var/lib/sss",
    "/var/lib/extrausers",
    "/var/lib/misc",
    "/var/db",
    "/var/yp",
];
/// What lookups read. If it is a link, what it leads to must be readable too, even if that does not exist yet.
const LINKS: &[&str] =
    &["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf"];
/// Maximum number of links in a row that the kernel follows.
const MOST_LINKS: usize = 40;
/// Directories of programs and their libraries: programs of checks, and the next version of balance.
const RUN: &[&str] =
    &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/nix/store", "/gnu/store"];
/// Directories where programs expect to be able to write.
const SCRATCH: &[&str] = &["/tmp", "/var/tmp", "/dev/shm"];
/// The input and output of the programs that balance starts.
const NOWHERE: &str = "/dev/null";
/// Becomes the user of `--user`. Returns `true` if the process ran as another user before.
///
/// # Errors
/// There is no such user, or this process may not become it.
pub(super) fn become_user(
    settings: &ProcessSpec,
    services: &[ServiceSpec],
    check_only: bool,
) -> Result<bool, Failure> {
    let Some(named) = &settings.user else { return Ok(false) };
    let account = Account::find(&named.name).map_err(|e| failure(named, &e))?;
    let is_other = !account.is_own();
    // Every user may check what root is going to start.
    if check_only && account.is_in_reach().is_err() {
        return Ok(false);
    }
    let takes_addresses = services.iter().any(|service| service.transparent);
    account.assume(takes_addresses).map_err(|e| failure(named, &e))?;
    Ok(is_other)
}

/// Does the process run as the user of `--user`, or is none asked for?
pub(super) fn is_of_the_user(settings: &ProcessSpec) -> bool {
    let account = settings.user.as_ref().map(|named| Account::find(&named.name));
    account.is_none_or(|account| account.is_ok_and(|account| account.is_own()))
}

fn failure(named: &Named, error: &AccountError) -> Failure {
    let code = match error {
        AccountError::NotRoot { .. } | AccountError::Refused { .. } => exit::OS,
        _ => exit::BAD_DATA,
    };
    refused::failure(&named.typed, code, &format!("--user {}: {error}", named.name))
}

/// Warns of files of services that a reload could not read.
pub(super) fn warn_of_closed_files(source: &Source, log: &Log) {
    // If the path is a directory, its files count as well.
    let members = source.paths().flat_map(|path| {
        let members = files::members(&path, Path::new("")).unwrap_or_default();
        if members.contains(&path) { members } else { [vec![path], members].concat() }
    });
    for path in members {
        if let Err(e) = File::open(&path) {
            let advice = match e.kind() {
                io::ErrorKind::PermissionDenied if path.symlink_metadata().is_ok() => {
                    format!(". Let the user read it: {}", opening(&path))
                }
                _ => String::new(),
            };
            let text = format!(
                "--user: a reload will not be able to read {}: {e}; at the start, root read it{advice}",
                path.display()
            );
            log.tell(&Event::Note { severity: Severity::Warning, text });
        }
    }
}

/// The commands with which root lets the user read a file or a directory.
fn opening(path: &Path) -> String {
    let group = Gid::effective();
    let name = Group::from_gid(group).ok().flatten().map_or_else(|| group.to_string(), |group| group.name);
    let mode = if path.is_dir() { "750" } else { "640" };
    format!("chgrp {name} {0}; chmod {mode} {0}", path.display())
}

/// Closes all other files off. If the kernel cannot do that, balance logs it and serves all the same.
pub(super) fn close(fence: &Fence, log: &Log) {
    let (severity, text) = match fence.close() {
        Ok(FenceState::Whole | FenceState::Inherited) => return,
        Ok(FenceState::InPart) => (
            Severity::Notice,
            "--landlock: this kernel restricts access to files only partly; Linux 6.10 or newer does more".to_owned(),
        ),
        Ok(FenceState::Unknown) => (
            Severity::Notice,
            "--landlock: this kernel has no Landlock (Linux 5.13 has it, and lsm= may turn it off); the permissions of files alone hold"
                .to_owned(),
        ),
        Err(e) => (Severity::Warning, format!("--landlock: access to files is not restricted: {e}")),
    };
    log.tell(&Event::Note { severity, text });
}

/// The files that the process needs, if all others are to be closed off. Call this before the directory or
/// root changes: relative paths must still mean what they meant when typed.
pub(super) fn fence<'a>(
    settings: &ProcessSpec,
    services: impl Iterator<Item = &'a ServiceSpec>,
    source: Option<&Source>,
    origin: &Origin,
    environment: &Environment,
) -> Option<Fence> {
    if !settings.is_fenced() {
        return None;
    }
    let mut fence = Fence::default();
    let paths = |all: &[&str]| all.iter().map(PathBuf::from).collect::<Vec<_>>();
    (fence.read, fence.run) = (paths(READ), paths(RUN));
    fence.write.push(NOWHERE.into());
    fence.read.extend(LINKS.iter().filter_map(|path| nearest(Path::new(path))));
    fence.read.extend(source.into_iter().flat_map(Source::paths).flat_map(directories_of));
    fence
        .read
        .extend(settings.http_token_file.iter().flat_map(|named| directories_of(named.name.clone().into())));
    fence.run.extend(origin.program.clone().into_iter().flat_map(directories_of));
    let log = settings
        .access_log
        .as_ref()
        .filter(|named| ![AccessLogSpec::SYSLOG, AccessLogSpec::STDOUT].contains(&named.name.as_str()));
    let written = [settings.state.as_ref(), log].into_iter().flatten();
    fence.write.extend(written.flat_map(|named| directories_of(named.name.clone().into())));
    fence.write.extend(environment.directories().map(Path::to_owned));
    let mut has_programs = false;
    for service in services {
        let socket = service.listen.ports.unix().filter(|name| !name.is_abstract());
        let socket = socket.map(|name| PathBuf::from(OsStr::from_bytes(name.as_bytes())));
        fence.write.extend(socket.into_iter().flat_map(directories_of));
        let lists = [&service.allow, &service.deny].into_iter().flatten();
        fence.read.extend(lists.flat_map(|list| list.files()).cloned().flat_map(directories_of));
        for program in refused::programs_of(service) {
            has_programs = true;
            fence.run.extend(directories_of(program));
        }
    }
    if has_programs {
        fence.write.extend(paths(SCRATCH));
    }
    for all in [&mut fence.read, &mut fence.run, &mut fence.write] {
        all.sort_unstable();
        all.dedup();
    }
    Some(fence)
}

/// The directory that contains this file by its name, and the one that contains it after following all links.
/// If the path is a directory itself, it counts instead.
fn directories_of(path: PathBuf) -> impl Iterator<Item = PathBuf> {
    let path = std::path::absolute(&path).unwrap_or(path);
    let real = std::fs::canonicalize(&path).ok();
    let own = |path: PathBuf| if path.is_dir() { Some(path) } else { directory_of(path) };
    [own(path), real.and_then(own)].into_iter().flatten()
}

/// The directory of the file that this path leads to, or if that does not exist yet, the nearest directory
/// above it. `None`: only the root directory is left.
fn nearest(path: &Path) -> Option<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let Ok(target) = std::fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("/")).join(target);
    }
    let above = path.ancestors().skip(1).find_map(|one| std::fs::canonicalize(one).ok());
    above.filter(|one| one.parent().is_some())
}

fn directory_of(path: PathBuf) -> Option<PathBuf> {
    path.parent().map(Path::to_owned)
}

/// Notes that this process takes over from a fenced-in one or is to be fenced in itself.
pub(super) fn inherit() {
    process::inherit_fence();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Files;

    #[test]
    fn each_file_of_a_directory_that_cannot_be_read_is_named() {
        let directory = std::env::temp_dir().join(format!(
            "balance-lockdown-{:016x}",
            std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0)
        ));
        std::fs::create_dir_all(&directory).expect("a directory");
        std::fs::write(directory.join("a.conf"), "80 web\n").expect("written");
        // The tests run as root, who may read every file that exists.
        let _ = std::os::unix::fs::symlink("nowhere", directory.join("b.conf"));
        let files =
            Files { paths: vec![directory.clone()], words: Vec::new(), check_only: false, replace: false };
        let log = Log::kept(|| ());
        warn_of_closed_files(&Source { files, directory: directory.clone() }, &log);
        let told: Vec<String> = log
            .take()
            .into_iter()
            .filter_map(|event| if let Event::Note { text, .. } = event { Some(text) } else { None })
            .collect();
        let _ = std::fs::remove_dir_all(&directory);
        let b = directory.join("b.conf").display().to_string();
        assert!(told.len() == 1 && told[0].contains(&b), "{told:?}");
    }
}
