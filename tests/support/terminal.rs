//! A person at a terminal: a program of ours with a terminal of its own, what it shows, what
//! is typed.

use super::{LONG, wait};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::termios::{Termios, tcgetattr};
use rustix::termios::tcsetwinsize;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus};

/// A terminal and the program in its foreground.
pub struct Terminal {
    person: File,
    /// Kept, so that its settings can be looked at after the program's end.
    programs: OwnedFd,
    child: Child,
    shown: String,
}

impl Terminal {
    /// Starts our program there, `columns` wide and `rows` high.
    pub fn start(arguments: &[&str], directory: &std::path::Path, columns: u16, rows: u16) -> Self {
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(&size, None).unwrap();
        // Not for other tests' programs: a terminal closes when its last holder does.
        for fd in [master.as_fd(), slave.as_fd()] {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        }
        let end = || slave.try_clone().unwrap();
        // In a session with this terminal, or a change of its size is told to nobody.
        let child = Command::new("setsid")
            .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_crane-supervisor")])
            .args(arguments)
            .current_dir(directory)
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        Self { person: File::from(master), programs: slave, child, shown: String::new() }
    }

    /// Its settings now.
    pub fn settings(&self) -> Termios {
        tcgetattr(&self.programs).unwrap()
    }

    /// The program's process.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub fn type_in(&mut self, keys: &str) {
        self.person.write_all(keys.as_bytes()).unwrap();
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        let size = rustix::termios::Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.person, size).unwrap();
    }

    /// Waits until it has shown `text`, and forgets all up to there.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        while !self.shown.contains(text) {
            assert!(wait::readable(&self.person, LONG), "{text:?} is not shown: {:?}", self.shown);
            let mut bytes = [0; 4096];
            let count = self.person.read(&mut bytes).unwrap();
            self.shown.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        let at = self.shown.find(text).unwrap() + text.len();
        self.shown.drain(..at);
    }

    /// Waits for the program's end.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        wait::until(LONG, || {
            // What it shows must be taken, or it waits for us.
            while wait::readable(&self.person, std::time::Duration::ZERO) {
                let mut bytes = [0; 4096];
                let Ok(count) = self.person.read(&mut bytes) else { break };
                self.shown.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
            self.child.try_wait().unwrap()
        })
        .unwrap_or_else(|| panic!("it does not end; shown: {:?}", self.shown))
    }

    /// What was shown and not yet expected.
    pub fn rest(&self) -> &str {
        &self.shown
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ = self.child.wait();
    }
}
