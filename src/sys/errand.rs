//! A process that runs other programs for us with all that we have given up.
//!
//! Forked while one thread is all there is and before privileges are dropped, so its
//! programs are neither tied by our no_new_privs nor short of root's capabilities. It
//! holds one socket, sleeps until an order comes, and ends when we do; a program then
//! under way is killed unless its order says that it outlives us. Which programs, and
//! when, is `step::hooks`' affair.
#![allow(unsafe_code)]

mod attend;

use crate::sys::{cgroup, fds, memory, privileges};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, Gid, Uid, chdir, fork, setgroups, setresgid, setresuid, setsid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What its name is in `ps -e`; 15 bytes at most.
const COMM: &std::ffi::CStr = c"crane-hooks";
/// The environment of a step, and its programs' output, are far below it.
const MESSAGE_MAX: u32 = 256 << 20;

/// A program's user.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All others.
    pub groups: Vec<u32>,
}

/// Programs to run one after the other, until one fails. Holds the step's environment.
#[derive(Serialize, Deserialize)]
pub struct Order {
    /// Told back, so that an answer nobody waited for is not taken for another.
    pub number: u64,
    /// Absolute paths, executed directly.
    pub programs: Vec<PathBuf>,
    /// Root where there is none.
    pub account: Option<Account>,
    /// All of it.
    pub environment: BTreeMap<String, String>,
    /// `/` where it cannot be entered.
    pub directory: PathBuf,
    /// For all together.
    pub limit: Duration,
    /// Bytes of output kept of all together; the rest is read and dropped.
    pub max_output: u64,
    /// Not killed when we end or lose interest.
    pub outlives: bool,
    /// The cgroup they belong to, where it is there.
    pub group: Option<String>,
}

/// What became of an order.
#[derive(Debug, Serialize, Deserialize)]
pub struct Done {
    /// The order's.
    pub number: u64,
    /// Standard output of all.
    pub output: String,
    /// What went wrong: which program, and how.
    pub failure: Option<String>,
}

/// The process, and our end of its socket.
#[derive(Debug)]
pub struct Errand {
    /// Its number. It is our child and not waited for.
    pub pid: i32,
    /// Orders go in, answers come out, each with its length before it.
    pub socket: UnixStream,
}

/// Starts one. No other thread may exist yet.
///
/// # Errors
/// The errno of socketpair(2) or fork(2).
pub fn start() -> io::Result<Errand> {
    let (ours, theirs) = UnixStream::pair()?;
    // SAFETY: no other thread exists, so no lock is held and nothing is half done in
    // the child; it never returns from `serve`.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Errand { pid: child.as_raw(), socket: ours }),
        ForkResult::Child => serve(theirs),
    }
}

/// Ends the process where a panic would unwind into the parent's code.
struct NeverReturn;

impl Drop for NeverReturn {
    fn drop(&mut self) {
        end()
    }
}

fn end() -> ! {
    // SAFETY: ends this process at once; nothing of the parent's is flushed or run.
    unsafe { libc::_exit(0) }
}

/// The whole life of the process.
fn serve(mut socket: UnixStream) -> ! {
    let _never = NeverReturn;
    // Each failure leaves a process that is only less tidy.
    let _ = setsid();
    let _ = fds::silence_standard();
    let _ = fds::close_others(&mut [socket.as_raw_fd()]);
    let _ = nix::sys::prctl::set_name(COMM);
    umask(Mode::from_bits_truncate(0o022));
    memory::trim();
    memory::trim_stack();
    loop {
        let order = match read_message(&mut socket) {
            // Nobody waits any more for what is over already.
            Ok(bytes) if bytes.is_empty() => continue,
            Ok(bytes) => serde_json::from_slice::<Order>(&bytes),
            Err(_) => end(),
        };
        let Ok(order) = order else { end() };
        let done = perform(&order, &socket);
        drop(order);
        let answer = serde_json::to_vec(&done).unwrap_or_default();
        if write_message(&mut socket, &answer).is_err() {
            end();
        }
        drop((done, answer));
        memory::trim();
    }
}

fn read_message(socket: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > MESSAGE_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    let got = socket.take(u64::from(length)).read_to_end(&mut bytes)?;
    if got < usize::try_from(length).unwrap_or(usize::MAX) {
        Err(io::ErrorKind::UnexpectedEof.into())
    } else {
        Ok(bytes)
    }
}

fn write_message(socket: &mut UnixStream, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    socket.write_all(&length.to_le_bytes())?;
    socket.write_all(bytes)
}

fn perform(order: &Order, socket: &UnixStream) -> Done {
    let until = Instant::now() + order.limit;
    let mut output = Vec::new();
    let mut failure = None;
    for program in &order.programs {
        let ended = match start_program(program, order) {
            Ok(child) => attend::to_its_end(child, socket, until, order, &mut output),
            Err(error) => Err(format!("cannot be run: {error}")),
        };
        if let Err(problem) = ended {
            failure = Some(format!("{}: {problem}", program.display()));
            break;
        }
    }
    Done { number: order.number, output: String::from_utf8_lossy(&output).into_owned(), failure }
}

#[allow(clippy::disallowed_methods)]
fn start_program(program: &PathBuf, order: &Order) -> io::Result<Child> {
    let (account, directory, group) = (order.account.clone(), order.directory.clone(), order.group.clone());
    let mut command = Command::new(program);
    command.env_clear().envs(&order.environment);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let prepare = move || {
        setsid()?;
        // Only lowering it can be refused.
        let _ = privileges::ordinary_oom_score();
        if let Some(group) = &group {
            // A group that is not there limits nothing; craned makes it.
            let _ = cgroup::move_process(0, group);
        }
        if let Some(Account { uid, gid, groups }) = &account {
            let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
            let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
            setgroups(&groups)?;
            setresgid(gid, gid, gid)?;
            setresuid(uid, uid, uid)?;
        }
        // As the user: the directory is the user's.
        if chdir(&directory).is_err() {
            chdir("/")?;
        }
        Ok(())
    };
    // SAFETY: this process has one thread, so no lock is held in the child; the closure
    // only makes system calls and allocates.
    unsafe { command.pre_exec(prepare) }.spawn()
}
