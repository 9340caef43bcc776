//! The kernel's own report of how processes end, for kernels whose pidfds cannot tell (before 6.15).
//!
//! The proc connector (`CONFIG_PROC_EVENTS`) multicasts every process' end of the node. A
//! socket filter lets through those asked for and nothing else; the rest costs us neither
//! a wake-up nor memory, and nobody waits on the socket: it is read when a pidfd has told
//! the moment. It answers only in the initial network and user namespace, and only to who
//! had CAP_NET_ADMIN when it began to listen: so before privileges are dropped.
//!
//! Called by `cli::supervise` (begin) and `cri::start` (whom to hear, what was heard).
#![allow(unsafe_code)]

use crate::outcome::End;
use crate::sys::pidfd::end_of_status;
use std::io;
use std::mem::{size_of, size_of_val};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// linux/connector.h: the multicast group and the value of process events.
const CN_IDX_PROC: u32 = 1;
const CN_VAL_PROC: u32 = 1;
/// linux/cn_proc.h.
const PROC_CN_MCAST_LISTEN: u32 = 1;
const PROC_EVENT_EXIT: u32 = 0x8000_0000;

/// A netlink header and a connector header are before the event.
const EVENT: usize = 16 + 20;
/// In an exit's event: thread, process, wait(2) status.
const THREAD: usize = EVENT + 16;
const PROCESS: usize = THREAD + 4;
const STATUS: usize = PROCESS + 4;
/// One message, with room for fields of newer kernels.
const MESSAGE: usize = 256;
/// Processes heard at once: the candidates for one init.
const MOST: usize = 16;

/// Whose ends are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hear<'a> {
    /// Nobody's.
    Nobody,
    /// Everybody's on the node, for the moments in which the one we want has no number yet.
    Everybody,
    /// Of these numbers, 16 at most.
    Only(&'a [i32]),
}

/// A listener.
#[derive(Debug)]
pub struct ExitEvents {
    socket: OwnedFd,
}

impl ExitEvents {
    /// Begins to listen, and hears nobody yet.
    ///
    /// # Errors
    /// The errno of socket(2), bind(2) or send(2): ECONNREFUSED outside the initial network namespace,
    /// EPERM without CAP_NET_ADMIN, EPROTONOSUPPORT without the connector.
    pub fn listen() -> io::Result<Self> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: a plain system call without pointers.
        let fd = checked(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_CONNECTOR) })?;
        // SAFETY: the descriptor was just made and is nobody else's.
        let listener = Self { socket: unsafe { OwnedFd::from_raw_fd(fd) } };
        // Before it is in the group: nothing of others' is ever queued.
        listener.hear(Hear::Nobody)?;
        // SAFETY: an all-zero sockaddr_nl is a valid value of that plain C struct.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = CN_IDX_PROC;
        let length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the pointer is to a live sockaddr_nl of the length given.
        checked(unsafe { libc::bind(fd, (&raw const address).cast(), length) })?;
        let request = listen_request();
        // SAFETY: the slice is live for the call.
        let sent = unsafe { libc::send(fd, request.as_ptr().cast(), request.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(listener) }
    }

    /// Hears only these from now on; what was heard before stays to be taken.
    ///
    /// # Errors
    /// The errno of setsockopt(2).
    pub fn hear(&self, whose: Hear<'_>) -> io::Result<()> {
        let mut program = filter(whose);
        let program = libc::sock_fprog {
            len: u16::try_from(program.len()).map_err(io::Error::other)?,
            filter: program.as_mut_ptr(),
        };
        // SAFETY: the program lives until after the call, which copies it.
        checked(unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const program).cast(),
                size_of::<libc::sock_fprog>() as libc::socklen_t,
            )
        })
        .map(drop)
    }

    /// What was heard since the last call, oldest first. Never waits.
    pub fn take(&self) -> Vec<(i32, End)> {
        let mut ends = Vec::new();
        let mut message = [0u8; MESSAGE];
        loop {
            let fd = self.socket.as_raw_fd();
            // SAFETY: the buffer is live and of the length given.
            let length = unsafe { libc::recv(fd, message.as_mut_ptr().cast(), message.len(), 0) };
            match usize::try_from(length) {
                Ok(0) => return ends,
                Ok(length) => ends.extend(exit_of(&message[..length.min(MESSAGE)])),
                Err(_) => match io::Error::last_os_error().raw_os_error() {
                    // Some were dropped by the kernel: those that follow are still good.
                    Some(libc::EINTR | libc::ENOBUFS) => {}
                    _ => return ends,
                },
            }
        }
    }
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The message that joins: netlink header, connector header, one word.
fn listen_request() -> Vec<u8> {
    const LENGTH: u32 = 16 + 20 + 4;
    let mut message = Vec::with_capacity(LENGTH as usize);
    message.extend(LENGTH.to_ne_bytes());
    // NLMSG_DONE, no flags.
    message.extend(3u16.to_ne_bytes());
    message.extend([0; 2]);
    message.extend([0; 8]);
    message.extend(CN_IDX_PROC.to_ne_bytes());
    message.extend(CN_VAL_PROC.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(4u16.to_ne_bytes());
    message.extend([0; 2]);
    message.extend(PROC_CN_MCAST_LISTEN.to_ne_bytes());
    message
}

/// The end of a whole process that a message tells of. Foreign only in its version: the kernel wrote it.
fn exit_of(message: &[u8]) -> Option<(i32, End)> {
    let word = |at: usize| Some(u32::from_ne_bytes(message.get(at..at + 4)?.try_into().ok()?));
    let (thread, process) = (word(THREAD)?, word(PROCESS)?);
    let is_exit = word(EVENT)? == PROC_EVENT_EXIT && thread == process;
    let status = word(STATUS)?.cast_signed();
    is_exit.then_some(())?;
    Some((i32::try_from(process).ok()?, end_of_status(status)))
}

/// A filter's program: all of a message, or none of it.
fn filter(whose: Hear<'_>) -> Vec<libc::sock_filter> {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let word = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let (all, none) = (word(RETURN, 0, 0, u32::MAX), word(RETURN, 0, 0, 0));
    // The filter reads words as the network has them.
    let load = |at: usize| word(LOAD, 0, 0, at as u32);
    let equals = |value: u32, jt, jf| word(EQUAL, jt, jf, value.to_be());
    match whose {
        Hear::Nobody => vec![none],
        Hear::Everybody => vec![load(EVENT), equals(PROC_EVENT_EXIT, 0, 1), all, none],
        Hear::Only(pids) => {
            let pids = &pids[..pids.len().min(MOST)];
            let mut program = vec![load(EVENT), equals(PROC_EVENT_EXIT, 0, pids.len() as u8 + 1), load(PROCESS)];
            for (at, pid) in pids.iter().enumerate() {
                program.push(equals(pid.cast_unsigned(), (pids.len() - at) as u8, 0));
            }
            program.extend([none, all]);
            program
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    /// Runs the filter's program as the kernel would.
    fn passes(program: &[libc::sock_filter], message: &[u8]) -> bool {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let step = &program[at];
            at += 1;
            match u32::from(step.code) & 7 {
                libc::BPF_LD => {
                    let from = step.k as usize;
                    accumulator = u32::from_be_bytes(message[from..from + 4].try_into().unwrap());
                }
                libc::BPF_JMP => at += usize::from(if accumulator == step.k { step.jt } else { step.jf }),
                _ => return step.k != 0,
            }
        }
    }

    fn message(what: u32, thread: i32, process: i32, status: i32) -> Vec<u8> {
        let mut message = vec![0; 76];
        for (at, word) in [(EVENT, what.cast_signed()), (THREAD, thread), (PROCESS, process), (STATUS, status)] {
            message[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        message
    }

    #[test]
    fn only_the_ends_asked_for_pass() {
        let exit = |pid| message(PROC_EVENT_EXIT, pid, pid, 0);
        let fork = message(1, 7, 7, 0);
        assert!(!passes(&filter(Hear::Nobody), &exit(7)));
        assert!(passes(&filter(Hear::Everybody), &exit(7)) && !passes(&filter(Hear::Everybody), &fork));
        for pids in [&[7][..], &[1, 7], &[7, 9, 11], &[]] {
            let program = filter(Hear::Only(pids));
            assert!(pids.iter().all(|pid| passes(&program, &exit(*pid))), "{pids:?}");
            assert!(!passes(&program, &exit(8)) && !passes(&program, &fork), "{pids:?}");
        }
    }

    #[test]
    fn a_whole_process_end_is_read_and_nothing_else() {
        assert_eq!(exit_of(&message(PROC_EVENT_EXIT, 7, 7, 0x8200)), Some((7, End::Exited(130))));
        assert_eq!(exit_of(&message(PROC_EVENT_EXIT, 7, 7, 2)), Some((7, End::Signalled(2))));
        assert_eq!(exit_of(&message(PROC_EVENT_EXIT, 8, 7, 0)), None, "a thread of it");
        assert_eq!(exit_of(&message(2, 7, 7, 0)), None);
        assert_eq!(exit_of(&message(PROC_EVENT_EXIT, 7, 7, 0)[..STATUS]), None, "cut");
    }

    fn waiting_for(code: &str) -> Child {
        let script = format!("read x; exit {code}");
        Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn the_kernel_tells_of_those_asked_for() {
        let events = match ExitEvents::listen() {
            Ok(events) => events,
            // Where it cannot answer: `the_proc_connector_is_the_second_witness` starts us where it can.
            Err(error) => {
                let known = [libc::ECONNREFUSED, libc::EPERM, libc::EPROTONOSUPPORT];
                assert!(error.raw_os_error().is_some_and(|errno| known.contains(&errno)), "{error}");
                return;
            }
        };
        let (mut wanted, mut other) = (waiting_for("130"), waiting_for("1"));
        let pid = i32::try_from(wanted.id()).unwrap();
        events.hear(Hear::Only(&[pid])).unwrap();
        for child in [&mut other, &mut wanted] {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
        assert_eq!(events.take(), [(pid, End::Exited(130))]);
        assert!(events.take().is_empty());
    }
}
