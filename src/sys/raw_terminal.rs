//! A terminal handed over to a program elsewhere: every key goes through as it is.
//!
//! The terminal is as before when the guard is dropped, on every way out that runs
//! destructors, a panic included; callers turn signals into such a way out. SIGTSTP cannot
//! come from the keyboard meanwhile, since that key goes through too.

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::io::{self, IsTerminal};

/// A terminal in raw mode.
#[derive(Debug)]
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Makes our stdin's terminal raw.
    ///
    /// # Errors
    /// The errno of tcgetattr(3) or tcsetattr(3).
    pub fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSADRAIN, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing put right.
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.before);
    }
}

/// Whether a person types our stdin.
pub fn is_stdin() -> bool {
    io::stdin().is_terminal()
}

/// Whether a person reads our stdout.
pub fn is_stdout() -> bool {
    io::stdout().is_terminal()
}

/// Columns and rows of our terminal; `None` where it has no size.
pub fn size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(io::stdin()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}
