//! From a spec to an executing program.
//!
//! Everything that allocates, searches or asks the user database happens before the new process exists. It shares the
//! keeper's memory until exec (like `posix_spawn`: no page tables are copied), while the keeper waits.
#![allow(unsafe_code)]

use super::{
    namespace::{HostsView, Refused},
    report::StartStage,
    spec::RunSpec,
    sys::errno,
    tree::MARKER,
};
use std::{
    ffi::{CStr, CString, OsStr, c_char, c_int, c_void},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    ptr,
};

/// Where a program is searched when its environment has no `PATH`, as in glibc.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// The stack of the new process until exec.
const STACK: usize = 64 << 10;

/// Why a program doesn't run.
#[derive(Debug)]
pub(super) struct StartFailure {
    pub(super) stage: StartStage,
    pub(super) errno: i32,
    pub(super) message: String,
}

impl StartFailure {
    /// A step failed; `what` names its object.
    pub(super) fn new(stage: StartStage, what: impl std::fmt::Display, error: &io::Error) -> Self {
        Self {
            stage,
            errno: error.raw_os_error().unwrap_or(libc::EINVAL),
            message: format!("{what}: {error}"),
        }
    }
}

struct Identity {
    uid: libc::uid_t,
    gid: libc::gid_t,
    groups: Vec<libc::gid_t>,
}

/// All that is needed from the fork to the exec.
pub(super) struct Prepared {
    argv: Vec<CString>,
    env: Vec<CString>,
    candidates: Vec<CString>,
    cwd: CString,
    cgroup: Option<CString>,
    hosts: Option<HostsView>,
    identity: Option<Identity>,
    /// The limit, and whether it is the hard one too.
    open_files: Option<(u64, bool)>,
    nice: Option<i32>,
}

impl Prepared {
    pub(super) fn new(spec: &RunSpec, soft_open_files: Option<u64>) -> Result<Self, StartFailure> {
        let invalid = |stage, what: &str| StartFailure {
            stage,
            errno: libc::EINVAL,
            message: format!("{what}: a zero byte inside"),
        };
        let text =
            |stage, what: &str, text: &OsStr| CString::new(text.as_bytes()).map_err(|_| invalid(stage, what));
        let argv: Vec<CString> = spec
            .argv
            .iter()
            .map(|argument| text(StartStage::Exec, "argument", argument))
            .collect::<Result<_, _>>()?;
        let Some(program) = argv.first() else {
            let error = io::Error::from_raw_os_error(libc::EINVAL);
            return Err(StartFailure::new(StartStage::Exec, "no program", &error));
        };
        let mut env = Vec::with_capacity(spec.env.len() + 1);
        for (name, value) in spec.env.iter().filter(|(name, _)| name != MARKER) {
            let pair = [name.as_bytes(), b"=", value.as_bytes()].concat();
            env.push(CString::new(pair).map_err(|_| invalid(StartStage::Exec, "environment"))?);
        }
        env.extend(CString::new(format!("{MARKER}={}", spec.run)));
        let cgroup = match &spec.cgroup {
            Some(folder) => {
                Some(text(StartStage::Cgroup, "cgroup", folder.join("cgroup.procs").as_os_str())?)
            }
            None => None,
        };
        let identity = identity(spec)?;
        let hosts = match &spec.hosts {
            Some(file) => {
                let file = text(StartStage::Names, "hosts file", file.as_os_str())?;
                Some(HostsView::new(file, identity.is_some()))
            }
            None => None,
        };
        Ok(Self {
            candidates: candidates(program, &spec.env),
            argv,
            env,
            cwd: text(StartStage::Cwd, "directory", spec.cwd.as_os_str())?,
            cgroup,
            hosts,
            identity,
            open_files: match (spec.open_files, soft_open_files) {
                (Some(limit), _) => Some((limit, true)),
                (None, Some(soft)) => Some((soft, false)),
                (None, None) => None,
            },
            nice: spec.nice,
        })
    }
}

/// The files to try, in order.
fn candidates(program: &CStr, env: &[(std::ffi::OsString, std::ffi::OsString)]) -> Vec<CString> {
    if program.to_bytes().contains(&b'/') {
        return vec![program.to_owned()];
    }
    // The last one counts, as it would for a shell.
    let path =
        env.iter().rev().find(|(name, _)| name == "PATH").map_or(DEFAULT_PATH, |(_, value)| value.as_bytes());
    let folders = path.split(|byte| *byte == b':');
    folders
        .filter_map(|folder| {
            let folder = if folder.is_empty() { b"." } else { folder };
            CString::new([folder, b"/", program.to_bytes()].concat()).ok()
        })
        .collect()
}

/// Looks up user and group. `None` if nothing changes.
fn identity(spec: &RunSpec) -> Result<Option<Identity>, StartFailure> {
    if spec.user.is_none() && spec.group.is_none() {
        return Ok(None);
    }
    let unknown = |stage, name: &str| StartFailure {
        stage,
        errno: libc::ENOENT,
        message: format!("{name}: no such {}", if stage == StartStage::User { "user" } else { "group" }),
    };
    let (me, mine) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let user = match &spec.user {
        Some(name) => Some(find_user(name).ok_or_else(|| unknown(StartStage::User, name))?),
        None => None,
    };
    let group = match &spec.group {
        Some(name) => Some(find_group(name).ok_or_else(|| unknown(StartStage::Group, name))?),
        None => None,
    };
    let uid = user.as_ref().map_or(me, |user| user.uid);
    let gid = group.or(user.as_ref().map(|user| user.gid)).unwrap_or(mine);
    if uid == me && gid == mine && me != 0 {
        return Ok(None);
    }
    let groups =
        user.and_then(|user| user.name.map(|name| groups_of(&name, gid))).unwrap_or_else(|| vec![gid]);
    Ok(Some(Identity { uid, gid, groups }))
}

struct User {
    name: Option<CString>,
    uid: libc::uid_t,
    gid: libc::gid_t,
}

fn find_user(name: &str) -> Option<User> {
    let number = name.parse::<libc::uid_t>().ok();
    let text = CString::new(name).ok()?;
    let mut buffer = vec![0 as c_char; 64 << 10];
    let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
    let mut found = ptr::null_mut();
    // SAFETY: the entry and the buffer outlive the results, which are read only if `found` says that they were
    // written; the keeper is single-threaded.
    unsafe {
        match number {
            Some(uid) => {
                libc::getpwuid_r(uid, entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &mut found)
            }
            None => libc::getpwnam_r(
                text.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr(),
                buffer.len(),
                &mut found,
            ),
        };
        if found.is_null() {
            // A number needs no entry; its group is then the same number.
            return number.map(|uid| User { name: None, uid, gid: uid });
        }
        let entry = entry.assume_init();
        Some(User {
            name: Some(CStr::from_ptr(entry.pw_name).to_owned()),
            uid: entry.pw_uid,
            gid: entry.pw_gid,
        })
    }
}

fn find_group(name: &str) -> Option<libc::gid_t> {
    if let Ok(gid) = name.parse() {
        return Some(gid);
    }
    let text = CString::new(name).ok()?;
    let mut buffer = vec![0 as c_char; 256 << 10];
    let mut entry = std::mem::MaybeUninit::<libc::group>::uninit();
    let mut found = ptr::null_mut();
    // SAFETY: as in find_user.
    unsafe {
        libc::getgrnam_r(text.as_ptr(), entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &mut found);
        (!found.is_null()).then(|| entry.assume_init().gr_gid)
    }
}

fn groups_of(user: &CStr, gid: libc::gid_t) -> Vec<libc::gid_t> {
    let mut count: c_int = 1024;
    let mut groups = vec![0; 1024];
    // SAFETY: the list has room for `count` groups; at most that many are written, and `count` says how many.
    let result = unsafe { libc::getgrouplist(user.as_ptr(), gid, groups.as_mut_ptr(), &mut count) };
    if result < 0 {
        return vec![gid];
    }
    groups.truncate(usize::try_from(count).unwrap_or(0));
    groups
}

/// What the new process works with, in memory shared with the waiting keeper; plain pointers and numbers.
struct Plan<'a> {
    prepared: &'a Prepared,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    streams: [RawFd; 3],
    keeper: libc::pid_t,
    failed: Option<(StartStage, c_int)>,
    refused: Option<Refused>,
}

/// Runs the program with the three streams; its pid once exec has succeeded. The calling process must be
/// single-threaded, with all signals blocked; it becomes the parent whose end kills the program.
pub(super) fn spawn(prepared: &Prepared, streams: [BorrowedFd<'_>; 3]) -> Result<i32, StartFailure> {
    let pointers = |strings: &[CString]| {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect::<Vec<*const c_char>>()
    };
    let mut plan = Plan {
        prepared,
        argv: pointers(&prepared.argv),
        env: pointers(&prepared.env),
        streams: streams.map(|stream| stream.as_raw_fd()),
        keeper: rustix::process::getpid().as_raw_nonzero().get(),
        failed: None,
        refused: None,
    };
    let failure = |stage, errno| {
        let error = io::Error::from_raw_os_error(errno);
        let what = match stage {
            StartStage::Exec => prepared.argv.first().map(|program| program.to_string_lossy()),
            StartStage::Cwd => Some(prepared.cwd.to_string_lossy()),
            StartStage::Cgroup => prepared.cgroup.as_ref().map(|path| path.to_string_lossy()),
            _ => None,
        };
        StartFailure::new(stage, what.unwrap_or_else(|| stage.to_string().into()), &error)
    };
    let mut stack = super::region::Region::new(STACK)
        .map_err(|error| failure(StartStage::Fork, error.raw_os_error().unwrap_or(libc::ENOMEM)))?;
    // SAFETY: CLONE_VFORK suspends this (only) thread until the child has executed or ended, so the shared memory has
    // one user at a time; the stack is a mapping of its own whose end is aligned to pages; `enter` allocates nothing,
    // never unwinds and never returns.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(STACK).cast::<c_void>();
        let argument = (&raw mut plan).cast::<c_void>();
        libc::clone(enter, top, libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, argument)
    };
    if pid < 0 {
        return Err(failure(StartStage::Fork, errno()));
    }
    // SAFETY: written by the child through the pointer above, which has ended or executed by now.
    match unsafe { ptr::read_volatile(&raw const plan.failed) } {
        None => Ok(pid),
        Some((stage, errno)) => {
            // SAFETY: waits for the child just made, which is on its way out; a null status pointer is allowed.
            unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
            // SAFETY: as above.
            match unsafe { ptr::read_volatile(&raw const plan.refused) } {
                Some(refused) => Err(refused.told(stage)),
                None => Err(failure(stage, errno)),
            }
        }
    }
}

extern "C" fn enter(argument: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes its Plan, which lives until this process has executed or ended.
    let plan = unsafe { &mut *argument.cast::<Plan<'_>>() };
    let (stage, errno) = become_program(plan);
    plan.failed = Some((stage, errno));
    super::sys::exit(127)
}

/// All the steps; returns only if one fails. Allocates nothing, takes no lock: system calls only.
fn become_program(plan: &mut Plan<'_>) -> (StartStage, c_int) {
    let prepared = plan.prepared;
    // SAFETY (all of them): the pointers are to NUL-terminated strings and arrays that live in `plan`; the calls
    // change this new process only (its descriptors, ids, limits and signal mask aren't shared: no CLONE_FILES,
    // CLONE_FS or CLONE_SIGHAND). The raw system calls avoid libc's set*id, which would look for other threads.
    unsafe {
        if libc::setsid() < 0 {
            return (StartStage::Session, errno());
        }
        for (number, stream) in (0..).zip(plan.streams) {
            if libc::dup2(stream, number) < 0 {
                return (StartStage::Socket, errno());
            }
        }
        if let Some(procs) = &prepared.cgroup {
            let file = libc::open(procs.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            if file < 0 || libc::write(file, c"0".as_ptr().cast(), 1) != 1 {
                return (StartStage::Cgroup, errno());
            }
        }
        if let Some((limit, both)) = prepared.open_files
            && let Err(error) = limit_open_files(limit, both)
        {
            return (StartStage::Rlimit, error);
        }
        if let Some(nice) = prepared.nice
            && libc::setpriority(libc::PRIO_PROCESS, 0, nice) < 0
        {
            return (StartStage::Nice, errno());
        }
        // While it still may: another user couldn't.
        if let Some(Err(refused)) = prepared.hosts.as_ref().map(HostsView::enter) {
            plan.refused = Some(refused);
            return (StartStage::Names, refused.errno);
        }
        if let Some(Identity { uid, gid, groups }) = &prepared.identity {
            if libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) < 0
                || libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid) < 0
            {
                return (StartStage::Group, errno());
            }
            if libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid) < 0 {
                return (StartStage::User, errno());
            }
        }
        // After the change of user, which clears it. If the keeper ended before this line, nobody would be told.
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 || libc::getppid() != plan.keeper {
            return (StartStage::Fork, libc::ESRCH);
        }
        if libc::chdir(prepared.cwd.as_ptr()) < 0 {
            return (StartStage::Cwd, errno());
        }
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
        let mut found = libc::ENOENT;
        for candidate in &prepared.candidates {
            libc::execve(candidate.as_ptr(), plan.argv.as_ptr(), plan.env.as_ptr());
            match errno() {
                // As execvp does: the search goes on, but a file that may not be executed is what is reported.
                libc::EACCES => found = libc::EACCES,
                libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
                other => {
                    found = other;
                    break;
                }
            }
        }
        (StartStage::Exec, found)
    }
}

/// Sets the soft limit, or both; never raises the hard one beyond what is allowed.
fn limit_open_files(limit: u64, both: bool) -> Result<(), c_int> {
    // SAFETY: the structure is plain numbers, written by the kernel and read by it.
    unsafe {
        let mut limits = std::mem::zeroed::<libc::rlimit>();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limits) < 0 {
            return Err(errno());
        }
        limits.rlim_cur = if both { limit } else { limit.min(limits.rlim_max) };
        if both {
            limits.rlim_max = limit;
        }
        if libc::setrlimit(libc::RLIMIT_NOFILE, &limits) < 0 { Err(errno()) } else { Ok(()) }
    }
}
