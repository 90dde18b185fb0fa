//! Starts a program with what this process was given at its start, and with nothing that balance has changed
//! or opened.
//!
//! Knows: fork and exec, what was `given`. Never: what the program is for, how long it may take.
//!
//! On Linux the memory is not copied, not even the page tables: `fork` of a process with many connections
//! takes long, and everything else stands still meanwhile. `posix_spawn` avoids the copy, too, but cannot set
//! limits.

#![allow(unsafe_code, reason = "between fork and exec there is nothing else")]

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::Pid;

use super::given::{given, last_signal};

/// The environment variable through which a process identifies itself to its successor. No other program gets
/// it.
pub(crate) const HANDOVER: &str = "BALANCE_HANDOVER";

/// Why a program could not be started.
#[derive(Debug)]
pub(crate) struct StartError {
    /// The system call that failed. Only `execve` concerns the program itself.
    pub(crate) act: &'static str,
    /// What the system said.
    pub(crate) source: io::Error,
}

/// Starts the program at this path with these arguments, and our environment without the variables `without`
/// and with those `with` added. It runs in `/` with `/dev/null` as its streams and leads a process group of
/// its own. Limits, ignored signals and the signal mask are those that this process was started with, and it
/// inherits no descriptor. On Linux it is killed when the thread that started it ends, even by SIGKILL,
/// because that thread has to reap it.
pub(crate) fn start(
    path: &Path,
    arguments: &[String],
    without: &[&str],
    with: &[(String, String)],
) -> Result<Pid, StartError> {
    let arguments: Vec<OsString> =
        std::iter::once(path.as_os_str().to_owned()).chain(arguments.iter().map(OsString::from)).collect();
    let with = with.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    imp::start(path, &arguments, environment(without).chain(with), &Manner::Helper)
}

/// Whether a successor can be started with [`Footing::Beside`].
pub(crate) const CAN_START_BESIDE: bool = imp::CAN_START_BESIDE;

/// Whose child a successor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Footing {
    /// A child of this process.
    Child,
    /// A child of our parent, which alone learns how it ends. Only where [`CAN_START_BESIDE`] is true.
    Beside,
}

/// Starts the program at this path as our successor. `arguments` are all its arguments, beginning with its
/// name; its environment is ours without the variables `without` and with those `with` replaced. `input`
/// becomes its standard input. It shares our standard output, standard error and process group, has the
/// limits and signals that this process was started with, and outlives us.
pub(crate) fn start_successor(
    path: &Path,
    arguments: &[OsString],
    without: &[&str],
    with: &[(&str, &str)],
    directory: &Path,
    input: BorrowedFd<'_>,
    footing: Footing,
) -> Result<Pid, StartError> {
    let with = with.iter().map(|&(name, value)| (OsString::from(name), OsString::from(value)));
    let directory = CString::new(directory.as_os_str().as_bytes()).map_err(|e| failed("chdir")(e.into()))?;
    let manner = Manner::Successor { directory, input: input.as_raw_fd(), footing };
    imp::start(path, arguments, environment(without).chain(with), &manner)
}

fn environment(without: &[&str]) -> impl Iterator<Item = (OsString, OsString)> {
    let is_told = |name: &str| name != HANDOVER && !without.contains(&name);
    std::env::vars_os().filter(move |(name, _)| name.to_str().is_none_or(is_told))
}

/// The relation of a program to this process.
enum Manner {
    /// It does something for this process and ends.
    Helper,
    /// It takes this process's place.
    Successor { directory: CString, input: RawFd, footing: Footing },
}

fn failed(act: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError { act, source }
}

/// What is restored in the new process, in a form that needs no allocation, lock or panic there.
#[derive(Clone, Copy)]
struct Restore {
    limits: [Option<(libc::c_int, libc::rlimit)>; 2],
    /// One bit per signal.
    ignored: u128,
    mask: Option<libc::sigset_t>,
    last_signal: libc::c_int,
    /// The parent of the new process.
    parent: libc::pid_t,
}

impl Restore {
    fn new() -> Self {
        let last_signal = last_signal();
        // SAFETY: it only returns a number.
        let parent = unsafe { libc::getpid() };
        let Some(given) = given() else {
            return Self { limits: [None; 2], ignored: 0, mask: None, last_signal, parent };
        };
        let number = |limit: Option<u64>| limit.map_or(libc::RLIM_INFINITY, |limit| limit as libc::rlim_t);
        let limit = |i: usize, resource| {
            let limit = given.limits[i].1;
            let limit = libc::rlimit { rlim_cur: number(limit.current), rlim_max: number(limit.maximum) };
            Some((resource as libc::c_int, limit))
        };
        let limits = [limit(0, libc::RLIMIT_NOFILE), limit(1, libc::RLIMIT_CORE)];
        let ignored = given.ignored.iter().fold(0, |set, signal| set | 1 << signal);
        Self { limits, ignored, mask: Some(given.mask), last_signal, parent }
    }

    /// Restores everything. If `dies`, the new process is killed when the thread that started it ends. The
    /// signal mask is restored last: from then on signals may come, and all have their default action or are
    /// ignored.
    ///
    /// # Safety
    /// Call it only in a process that is about to exec and does nothing else that depends on signals.
    unsafe fn apply(&self, dies: bool) -> Result<(), &'static str> {
        // SAFETY: each call reads a struct that lives until after it. All zeros is a sigaction (no flags, an empty mask) and
        // a signal set. SIG_DFL and SIG_IGN are no functions that could be run.
        unsafe {
            for signal in 1..=self.last_signal {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction =
                    if self.ignored >> signal & 1 == 1 { libc::SIG_IGN } else { libc::SIG_DFL };
                // Fails for signals that cannot be caught, and for those of the C library, which exec resets.
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
            for (resource, limit) in self.limits.iter().flatten() {
                if libc::setrlimit(*resource as _, limit) != 0 {
                    return Err("setrlimit");
                }
            }
            #[cfg(target_os = "linux")]
            if dies {
                // The program gets none of the capabilities that balance keeps for a reload. A kernel without
                // ambient capabilities has none to clear.
                libc::prctl(
                    libc::PR_CAP_AMBIENT,
                    libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong,
                    0_u64,
                    0_u64,
                    0_u64,
                );
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err("prctl");
                }
                // If the parent was killed before this call, nobody is left to wait for this process.
                if libc::getppid() != self.parent {
                    libc::_exit(127);
                }
            }
            #[cfg(not(target_os = "linux"))]
            let _ = dies;
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::pthread_sigmask(
                libc::SIG_SETMASK,
                self.mask.as_ref().unwrap_or(&none),
                std::ptr::null_mut(),
            );
        }
        Ok(())
    }
}

/// Without copying memory: the new process runs in our memory, on a stack of its own, while this thread waits
/// until it calls exec.
#[cfg(all(target_os = "linux", not(portable)))]
mod imp {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStringExt;
    use std::ptr;

    use libc::{c_char, c_int, c_void};
    use rustix::io::Errno;
    use rustix::process::{WaitOptions, waitpid};

    use super::{Footing, Manner, OsString, Path, Pid, Restore, StartError, failed, io};

    pub(super) const CAN_START_BESIDE: bool = true;
    /// Size of that stack in bytes; enough for a few system calls.
    const STACK: usize = 64 * 1_024;

    /// Everything that the new process needs. It writes only `failure`.
    struct Plan {
        path: *const c_char,
        arguments: *const *const c_char,
        environment: *const *const c_char,
        /// `None` for a helper.
        successor: Option<(*const c_char, c_int)>,
        restore: Restore,
        failure: Option<(&'static str, c_int)>,
    }

    pub(super) fn start(
        path: &Path,
        arguments: &[OsString],
        environment: impl Iterator<Item = (OsString, OsString)>,
        manner: &Manner,
    ) -> Result<Pid, StartError> {
        let text = |bytes: Vec<u8>| CString::new(bytes).map_err(|e| failed("execve")(e.into()));
        let path = text(path.as_os_str().to_owned().into_vec())?;
        let arguments = arguments.iter().map(|argument| text(argument.clone().into_vec()));
        let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
        // The environment came through exec, so no variable contains a NUL byte.
        let joined = environment.map(|(name, value)| [name.into_vec(), value.into_vec()].join(&b'='));
        let environment: Vec<CString> = joined.filter_map(|variable| CString::new(variable).ok()).collect();
        let pointers = |texts: &[CString]| -> Vec<*const c_char> {
            texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
        };
        let (argv, envp) = (pointers(&arguments), pointers(&environment));
        let mut plan = Plan {
            path: path.as_ptr(),
            arguments: argv.as_ptr(),
            environment: envp.as_ptr(),
            successor: match manner {
                Manner::Helper => None,
                Manner::Successor { directory, input, .. } => Some((directory.as_ptr(), *input)),
            },
            restore: Restore::new(),
            failure: None,
        };
        // This type has the alignment that a stack needs.
        let mut stack = vec![0u128; STACK / size_of::<u128>()];
        let top = stack.as_mut_ptr_range().end.cast::<c_void>();
        // SAFETY: the new process shares our memory, and this thread stands still until it has called exec or ended
        // (CLONE_VFORK). So `plan`, the texts and the stack outlive its use of them, and nobody else sees them. What it does
        // in `child` allocates nothing, takes no lock and cannot panic. No handler of ours runs in it, where it could change
        // our memory: all signals are blocked before, and have their default when they are let through again. It has its own
        // descriptors, directory, limits and handlers, since they are not among what is shared.
        let pid = unsafe {
            let (mut all, mut before): (libc::sigset_t, libc::sigset_t) =
                (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            let beside = match manner {
                Manner::Successor { footing: Footing::Beside, .. } => libc::CLONE_PARENT,
                Manner::Successor { .. } | Manner::Helper => 0,
            };
            let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD | beside;
            let pid = libc::clone(child, top, flags, (&raw mut plan).cast());
            let error = io::Error::last_os_error();
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
            if pid < 0 { Err(failed("clone")(error)) } else { Ok(pid) }
        }?;
        let pid = Pid::from_raw(pid).ok_or_else(|| failed("clone")(io::ErrorKind::Other.into()))?;
        let Some((act, number)) = plan.failure else { return Ok(pid) };
        // The process has ended; this only reaps it. If it is our parent's child, that reaps it.
        while matches!(waitpid(Some(pid), WaitOptions::empty()), Err(Errno::INTR)) {}
        Err(failed(act)(io::Error::from_raw_os_error(number)))
    }

    /// The new process until it calls exec. The return value is its exit code.
    extern "C" fn child(plan: *mut c_void) -> c_int {
        // SAFETY: it is the plan that `start` passes, which nobody else uses until this process has ended or called exec.
        let plan = unsafe { &mut *plan.cast::<Plan>() };
        // SAFETY: system calls with pointers that the plan keeps valid, in a process that does nothing else.
        let act = unsafe { prepare_and_exec(plan) };
        // SAFETY: the address of a number that belongs to this thread.
        plan.failure = Some((act, unsafe { *libc::__errno_location() }));
        127
    }

    /// Returns the name of the call that failed.
    ///
    /// # Safety
    /// As for [`Restore::apply`]; and the pointers of the plan are valid.
    unsafe fn prepare_and_exec(plan: &Plan) -> &'static str {
        // SAFETY: constant texts, and what the caller promises.
        unsafe {
            let directory = match plan.successor {
                Some((directory, input)) => {
                    if libc::dup2(input, 0) < 0 {
                        return "dup2";
                    }
                    directory
                }
                None => {
                    if libc::setpgid(0, 0) != 0 {
                        return "setpgid";
                    }
                    let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
                    if null < 0 {
                        return "open /dev/null";
                    }
                    for stream in 0..3 {
                        if libc::dup2(null, stream) < 0 {
                            return "dup2";
                        }
                    }
                    c"/".as_ptr()
                }
            };
            if libc::chdir(directory) != 0 {
                return "chdir";
            }
            if let Err(act) = plan.restore.apply(plan.successor.is_none()) {
                return act;
            }
            libc::execve(plan.path, plan.arguments, plan.environment);
        }
        "execve"
    }
}

/// By the standard library.
#[cfg(not(all(target_os = "linux", not(portable))))]
mod imp {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use std::ffi::OsStr;
    use std::os::fd::BorrowedFd;
    use std::os::unix::ffi::OsStrExt;

    use super::{Footing, Manner, OsString, Path, Pid, Restore, StartError, failed, io};

    pub(super) const CAN_START_BESIDE: bool = false;

    pub(super) fn start(
        path: &Path,
        arguments: &[OsString],
        environment: impl Iterator<Item = (OsString, OsString)>,
        manner: &Manner,
    ) -> Result<Pid, StartError> {
        let restore = Restore::new();
        let mut command = Command::new(path);
        let mut arguments = arguments.iter();
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        command.args(arguments).env_clear().envs(environment);
        let is_helper = match manner {
            Manner::Helper => {
                command.current_dir("/").process_group(0);
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                true
            }
            Manner::Successor { directory, input, footing } => {
                debug_assert_eq!(*footing, Footing::Child, "CAN_START_BESIDE says so");
                // SAFETY: the caller holds it for as long as this takes.
                let input = unsafe { BorrowedFd::borrow_raw(*input) };
                let input = input.try_clone_to_owned().map_err(failed("dup"))?;
                command.stdin(Stdio::from(input)).current_dir(OsStr::from_bytes(directory.as_bytes()));
                false
            }
        };
        // SAFETY: the closure calls only functions that are allowed between fork and exec.
        unsafe { command.pre_exec(move || restore.apply(is_helper).map_err(|_| io::Error::last_os_error())) };
        let child = command.spawn().map_err(failed("execve"))?;
        // The caller reaps it by its process ID.
        Ok(Pid::from_child(&child))
    }
}
