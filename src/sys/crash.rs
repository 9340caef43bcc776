//! A last line in the step's log when the process dies of its own fault.
//!
//! A panic or a fatal signal writes its cause at once, past the log's worker
//! thread, since that may not come to run again. Signal handlers use only
//! async-signal-safe calls: a buffer on the stack, open, write, raise. The line goes to
//! the log by its path, so that it lands in the newest file after a rotation, or to
//! a descriptor kept from the start if the path cannot be opened. Never prevents
//! the end: the default action follows a signal, and a panic on any thread ends the
//! process, whose guardian then undoes. Called once by main, after the handshake.
#![allow(unsafe_code)]

use crate::ids::StepId;
use crate::logs::{escape::OneLine, stamp};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The longest message of a note, in bytes.
const LONGEST_MESSAGE: usize = 1024;
const FATAL: [Signal; 5] = [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT];
const OPEN_FLAGS: i32 = libc::O_APPEND | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
/// What Rust itself exits with.
const PANICKED: libc::c_int = 101;
/// For a handler that runs because the ordinary stack is used up.
const HANDLER_STACK: usize = 16 * 1024;

/// Why crashes cannot be noted.
#[derive(Debug, thiserror::Error)]
pub enum CrashError {
    /// The log cannot be opened.
    #[error("cannot open {} for crash notes: {source}", path.display())]
    Open {
        /// The log.
        path: PathBuf,
        /// The kernel's refusal.
        source: io::Error,
    },
    /// A handler cannot be set.
    #[error("cannot handle {signal}: {source}")]
    Handler {
        /// The signal.
        signal: Signal,
        /// The kernel's refusal.
        source: nix::Error,
    },
    /// It was installed before; the first log stays.
    #[error("crash notes are already written for this process")]
    Twice,
}

/// Where notes go; set once, read by handlers without a lock.
static NOTES: OnceLock<Notes> = OnceLock::new();

struct Notes {
    path: CString,
    kept: RawFd,
    step: String,
}

/// Makes panics and fatal signals leave a line in the log at `path`, and panics end the process.
///
/// # Errors
/// [`CrashError`]; the process then runs on without some or all notes.
pub fn install(path: &Path, step: StepId) -> Result<(), CrashError> {
    let failed = |source| CrashError::Open { path: path.to_owned(), source };
    let file = open(path).map_err(failed)?;
    let c_path = CString::new(path.as_os_str().as_bytes()).map_err(|e| failed(e.into()))?;
    // Kept to the end of the process.
    let notes = Notes { path: c_path, kept: file.into_raw_fd(), step: step.to_string() };
    NOTES.set(notes).map_err(|_| CrashError::Twice)?;
    note_panics();
    give_this_thread_a_handler_stack();
    FATAL.into_iter().try_for_each(note_signal)
}

/// Writes `TIME ERROR job.step crashed: WHAT` at once; without [`install`], to standard error.
pub fn note(what: &str) {
    let Some(notes) = NOTES.get() else {
        let _ = writeln!(io::stderr(), "crashed: {what}");
        return;
    };
    let mut line = String::from_utf8_lossy(&stamp::rfc3339_micros(now())).into_owned();
    let _ = write!(line, " ERROR {} crashed: ", notes.step);
    let _ = OneLine::new(&mut line, LONGEST_MESSAGE).write_str(what);
    line.push('\n');
    notes.append(line.as_bytes());
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(OPEN_FLAGS).open(path)
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn note_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload();
        let message = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("(no message)");
        match panic.location() {
            Some(at) => note(&format!("panic at {}:{}: {message}", at.file(), at.line())),
            None => note(&format!("panic: {message}")),
        }
        before(panic);
        // Half a process keeps no promise; the guardian undoes.
        // SAFETY: ends the process at once; no destructor or exit handler runs.
        unsafe { libc::_exit(PANICKED) }
    }));
}

/// Rust gives its threads a stack for handlers unless the C library's start was bypassed.
fn give_this_thread_a_handler_stack() {
    // SAFETY: an all-zero stack_t is a valid value of that plain C struct.
    let mut stack: libc::stack_t = unsafe { std::mem::zeroed() };
    // SAFETY: with a null first argument it only writes the present state to `stack`.
    let asked = unsafe { libc::sigaltstack(std::ptr::null(), &mut stack) };
    if asked != 0 || stack.ss_flags & libc::SS_DISABLE == 0 {
        return;
    }
    let memory = Box::leak(vec![0u8; HANDLER_STACK].into_boxed_slice());
    stack.ss_sp = memory.as_mut_ptr().cast();
    stack.ss_size = memory.len();
    stack.ss_flags = 0;
    // SAFETY: the memory is leaked, so it stays valid and unused by anyone else.
    unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) };
}

fn note_signal(signal: Signal) -> Result<(), CrashError> {
    // One shot: within the handler the default action is already back.
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK | SaFlags::SA_RESETHAND;
    let action = SigAction::new(SigHandler::SigAction(on_fatal_signal), flags, SigSet::empty());
    // SAFETY: `on_fatal_signal` calls only async-signal-safe functions.
    unsafe { sigaction(signal, &action) }.map(drop).map_err(|source| CrashError::Handler { signal, source })
}

extern "C" fn on_fatal_signal(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    if let Some(notes) = NOTES.get() {
        // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
        let (address, sent) = unsafe { ((*info).si_addr() as usize, (*info).si_code <= 0) };
        // The address is set by faults only; `kill` and abort() put ids in its place.
        let address = if sent || signal == libc::SIGABRT { None } else { Some(address) };
        let mut line = Line::default();
        line.push(&stamp::rfc3339_micros(now()));
        line.push(b" ERROR ");
        line.push(notes.step.as_bytes());
        line.push(b" crashed: ");
        line.push(name(signal));
        if let Some(address) = address {
            line.push(b" at address 0x");
            line.push_hex(address);
        }
        line.push(b"\n");
        notes.append(line.bytes());
    }
    // SAFETY: raise is async-signal-safe; the signal is blocked here and strikes on return.
    unsafe { libc::raise(signal) };
}

fn name(signal: libc::c_int) -> &'static [u8] {
    match signal {
        libc::SIGSEGV => b"SIGSEGV (invalid memory reference)",
        libc::SIGBUS => b"SIGBUS (bus error)",
        libc::SIGILL => b"SIGILL (illegal instruction)",
        libc::SIGFPE => b"SIGFPE (arithmetic error)",
        libc::SIGABRT => b"SIGABRT (abort)",
        _ => b"a fatal signal",
    }
}

impl Notes {
    /// Async-signal-safe.
    fn append(&self, line: &[u8]) {
        // SAFETY: the path is a live C string; open is async-signal-safe.
        let fd = unsafe { libc::open(self.path.as_ptr(), libc::O_WRONLY | OPEN_FLAGS) };
        let fd = if fd < 0 { self.kept } else { fd };
        // SAFETY: the slice is live; write is async-signal-safe.
        unsafe { libc::write(fd, line.as_ptr().cast(), line.len()) };
        if fd.as_raw_fd() != self.kept {
            // SAFETY: `fd` was opened above and is used by nobody else.
            unsafe { libc::close(fd) };
        }
    }
}

/// A line on the stack, for handlers.
struct Line {
    bytes: [u8; 192],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [0; 192], length: 0 }
    }
}

impl Line {
    /// What does not fit is dropped.
    fn push(&mut self, more: &[u8]) {
        for (place, byte) in self.bytes[self.length..].iter_mut().zip(more) {
            *place = *byte;
            self.length += 1;
        }
    }

    fn push_hex(&mut self, number: usize) {
        let mut shift = usize::BITS;
        while shift > 0 {
            shift -= 4;
            let rest = number >> shift;
            if rest > 0 || shift == 0 {
                self.push(&[b"0123456789abcdef"[rest & 0xf]]);
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;
    use crate::sys::files::scratch::Dir;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus, Stdio};

    const ASK: &str = "CRASH_TEST_HOW";
    const LOG: &str = "CRASH_TEST_LOG";

    /// Not a test of its own: what the children below run.
    #[test]
    fn child() {
        let Ok(how) = std::env::var(ASK) else { return };
        let log = PathBuf::from(std::env::var_os(LOG).unwrap());
        install(&log, StepId { job: 42, step: 1 }).unwrap();
        match how.as_str() {
            "panic" => panic!("bad\nnews {}", "x".repeat(5000)),
            "panic elsewhere" => {
                let ended = std::thread::spawn(|| panic!("bad news")).join();
                panic!("went on after {ended:?}")
            }
            "abort" => std::process::abort(),
            "rotated" => {
                std::fs::rename(&log, log.with_extension("1")).unwrap();
                std::fs::write(&log, "").unwrap();
                std::process::abort()
            }
            // SAFETY: reading address 0x10 is the fault under test.
            "segv" => unsafe {
                std::ptr::read_volatile(std::hint::black_box(0x10usize) as *const u8);
            },
            "overflow" => println!("{}", deep(1)),
            _ => unreachable!(),
        }
    }

    #[allow(unconditional_recursion)]
    fn deep(n: u64) -> u64 {
        let here = std::hint::black_box([n; 512]);
        deep(n + 1) + here[(n % 512) as usize]
    }

    fn crash(how: &str, log: &Path) -> (ExitStatus, String) {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sys::crash::tests::child", "--test-threads=1"])
            .env(ASK, how)
            .env(LOG, log)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        (status, std::fs::read_to_string(log).unwrap())
    }

    #[test]
    fn a_panic_leaves_one_bounded_line() {
        let dir = Dir::new();
        let (status, log) = crash("panic", &dir.path().join("log"));
        assert_eq!(status.code(), Some(101));
        assert_eq!(log.lines().count(), 1);
        let (_, rest) = log.split_once("Z ERROR 42.1 crashed: panic at ").unwrap();
        assert!(rest.starts_with("src/sys/crash.rs:") && rest.contains(r": bad\nnews xxx"), "{log}");
        assert!(log.len() < LONGEST_MESSAGE + 100 && log.ends_with("…\n"), "{log}");
    }

    #[test]
    fn a_panic_on_any_thread_ends_the_process() {
        let dir = Dir::new();
        let (status, log) = crash("panic elsewhere", &dir.path().join("log"));
        assert_eq!(status.code(), Some(101));
        assert!(log.lines().count() == 1 && log.ends_with(": bad news\n"), "{log}");
    }

    #[test]
    fn an_abort_leaves_its_cause_and_stays_an_abort() {
        let dir = Dir::new();
        let (status, log) = crash("abort", &dir.path().join("log"));
        assert_eq!(status.signal(), Some(libc::SIGABRT));
        assert!(log.ends_with("Z ERROR 42.1 crashed: SIGABRT (abort)\n"), "{log}");
    }

    #[test]
    fn a_bad_address_is_named() {
        let dir = Dir::new();
        let (status, log) = crash("segv", &dir.path().join("log"));
        assert_eq!(status.signal(), Some(libc::SIGSEGV));
        assert!(log.ends_with(" crashed: SIGSEGV (invalid memory reference) at address 0x10\n"), "{log}");
    }

    #[test]
    fn a_used_up_stack_is_noted_from_the_handlers_own() {
        let dir = Dir::new();
        let (status, log) = crash("overflow", &dir.path().join("log"));
        assert_eq!(status.signal(), Some(libc::SIGSEGV));
        assert!(log.contains(" crashed: SIGSEGV (invalid memory reference) at address 0x"), "{log}");
    }

    #[test]
    fn the_note_goes_to_the_newest_file_after_a_rotation() {
        let dir = Dir::new();
        let (_, log) = crash("rotated", &dir.path().join("log"));
        assert!(log.contains("SIGABRT"), "{log}");
    }

    #[test]
    fn numbers_are_written_in_hexadecimal() {
        let mut line = Line::default();
        line.push_hex(0);
        line.push(b" ");
        line.push_hex(0xdead_00f0);
        assert_eq!(line.bytes(), b"0 dead00f0");
    }
}
