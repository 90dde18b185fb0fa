//! Starts a program with what the operator gave us, and with nothing of ours.
//!
//! Knows: fork and exec, what was `given`. Never: what the program is for, how long it may take.
//!
//! On Linux the memory is not copied for it, not even by reference: `fork` of a process with many connections takes as
//! long as everything else is held up for. `posix_spawn` would do without the copy, but sets no limits.

#![allow(unsafe_code, reason = "between fork and exec there is nothing else")]

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::Pid;

use super::given::{given, last_signal};

/// The environment variable by which one process of ours says to the next who it is. No other program gets it.
pub(crate) const HANDOVER: &str = "BALANCE_HANDOVER";

/// Why a program does not run.
#[derive(Debug)]
pub(crate) struct StartError {
    /// The system call that failed. Only `execve` has to do with the program.
    pub(crate) act: &'static str,
    /// What the system said.
    pub(crate) source: io::Error,
}

/// Starts the program of this path with these arguments and our environment `without` some and `with` others. It leads a process group of
/// its own in `/`, its streams are `/dev/null`. Limits, ignored signals and the signal mask are those that this process was
/// started with, and no descriptor is inherited. On Linux it is killed when the thread that started it ends, even by
/// SIGKILL: that thread is to reap it.
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

/// Starts the program of this path to take our place: with all these arguments, the name it is called by first, and our environment
/// `without` some and with these in their place. Its input is this descriptor, its output and its errors are ours, and so are its
/// process group and its limits and signals as they were when this process was started. It outlives us.
pub(crate) fn start_successor(
    path: &Path,
    arguments: &[OsString],
    without: &[&str],
    with: &[(&str, &str)],
    directory: &Path,
    input: BorrowedFd<'_>,
) -> Result<Pid, StartError> {
    let with = with.iter().map(|&(name, value)| (OsString::from(name), OsString::from(value)));
    let directory = CString::new(directory.as_os_str().as_bytes()).map_err(|e| failed("chdir")(e.into()))?;
    let manner = Manner::Successor { directory, input: input.as_raw_fd() };
    imp::start(path, arguments, environment(without).chain(with), &manner)
}

fn environment(without: &[&str]) -> impl Iterator<Item = (OsString, OsString)> {
    let is_told = |name: &str| name != HANDOVER && !without.contains(&name);
    std::env::vars_os().filter(move |(name, _)| name.to_str().is_none_or(is_told))
}

/// What a program is to be to us.
enum Manner {
    /// It does something for us and ends.
    Helper,
    /// It takes our place.
    Successor { directory: CString, input: RawFd },
}

fn failed(act: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError { act, source }
}

/// What is restored, in a form that a process can use that must not allocate, lock or panic.
#[derive(Clone, Copy)]
struct Restore {
    limits: [Option<(libc::c_int, libc::rlimit)>; 2],
    /// A bit per signal.
    ignored: u128,
    mask: Option<libc::sigset_t>,
    last_signal: libc::c_int,
    /// Of the new process.
    parent: libc::pid_t,
}

impl Restore {
    fn new() -> Self {
        let last_signal = last_signal();
        // SAFETY: it only asks.
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

    /// Puts it into force, and lets the new process die with the thread that starts it, if it `dies`. The mask is the last: from
    /// then on signals may come, and all have their default.
    ///
    /// # Safety
    /// To be called in a process that is about to exec, and does nothing else that depends on signals.
    unsafe fn apply(&self, dies: bool) -> Result<(), &'static str> {
        // SAFETY: each call reads a struct that lives until after it. All zeros is a sigaction (no flags, an empty mask) and
        // a signal set. SIG_DFL and SIG_IGN are no functions that could be run.
        unsafe {
            for signal in 1..=self.last_signal {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction =
                    if self.ignored >> signal & 1 == 1 { libc::SIG_IGN } else { libc::SIG_DFL };
                // Refused for those that cannot be caught, and for those of the C library, which exec resets.
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
            for (resource, limit) in self.limits.iter().flatten() {
                if libc::setrlimit(*resource as _, limit) != 0 {
                    return Err("setrlimit");
                }
            }
            #[cfg(target_os = "linux")]
            if dies {
                // What a reload needs of root is none of its business. A kernel without such capabilities gives it none.
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
                // An instance that was killed before that has left nobody to wait for this.
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

/// Without copying: the new process runs in our memory, on a stack of its own, while this thread waits for its exec.
#[cfg(all(target_os = "linux", not(portable)))]
mod imp {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStringExt;
    use std::ptr;

    use libc::{c_char, c_int, c_void};
    use rustix::io::Errno;
    use rustix::process::{WaitOptions, waitpid};

    use super::{Manner, OsString, Path, Pid, Restore, StartError, failed, io};

    /// For a handful of system calls, in bytes.
    const STACK: usize = 64 * 1_024;

    /// All that the new process needs. It writes `failure` and nothing else.
    struct Plan {
        path: *const c_char,
        arguments: *const *const c_char,
        environment: *const *const c_char,
        /// `None`: it is a helper.
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
        // What came in from exec has no NUL in it.
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
                Manner::Successor { directory, input } => Some((directory.as_ptr(), *input)),
            },
            restore: Restore::new(),
            failure: None,
        };
        // Of a type that is aligned as a stack must be.
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
            let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
            let pid = libc::clone(child, top, flags, (&raw mut plan).cast());
            let error = io::Error::last_os_error();
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
            if pid < 0 { Err(failed("clone")(error)) } else { Ok(pid) }
        }?;
        let pid = Pid::from_raw(pid).ok_or_else(|| failed("clone")(io::ErrorKind::Other.into()))?;
        let Some((act, number)) = plan.failure else { return Ok(pid) };
        // It has ended: this only takes note of it.
        while matches!(waitpid(Some(pid), WaitOptions::empty()), Err(Errno::INTR)) {}
        Err(failed(act)(io::Error::from_raw_os_error(number)))
    }

    /// The new process, until its exec. What it returns is its exit code.
    extern "C" fn child(plan: *mut c_void) -> c_int {
        // SAFETY: it is the plan that `start` passes, which nobody else uses until this process has ended or called exec.
        let plan = unsafe { &mut *plan.cast::<Plan>() };
        // SAFETY: system calls with pointers that the plan keeps valid, in a process that does nothing else.
        let act = unsafe { prepare_and_exec(plan) };
        // SAFETY: the address of a number that belongs to this thread.
        plan.failure = Some((act, unsafe { *libc::__errno_location() }));
        127
    }

    /// What failed.
    ///
    /// # Safety
    /// As for [`Restore::apply`], and the pointers of the plan are valid.
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

    use super::{Manner, OsString, Path, Pid, Restore, StartError, failed, io};

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
            Manner::Successor { directory, input } => {
                // SAFETY: the caller holds it for as long as this takes.
                let input = unsafe { BorrowedFd::borrow_raw(*input) };
                let input = input.try_clone_to_owned().map_err(failed("dup"))?;
                command.stdin(Stdio::from(input)).current_dir(OsStr::from_bytes(directory.as_bytes()));
                false
            }
        };
        // SAFETY: it calls nothing but what may be called between fork and exec, and does nothing else there.
        unsafe { command.pre_exec(move || restore.apply(is_helper).map_err(|_| io::Error::last_os_error())) };
        let child = command.spawn().map_err(failed("execve"))?;
        // Reaped by its number.
        Ok(Pid::from_child(&child))
    }
}
