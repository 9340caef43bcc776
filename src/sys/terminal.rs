//! Asking a person at a terminal; the terminal is as before when this returns.

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use std::io::{self, IsTerminal, Read, Write};

/// Bytes of an answer.
const MAX: usize = 4096;
/// Ctrl-C, Ctrl-D, backspace and delete as a terminal sends them.
const INTERRUPT: u8 = 3;
const END: u8 = 4;
const BACKSPACE: u8 = 8;
const DELETE: u8 = 127;

/// Whether there is a person to ask.
pub fn is_there() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks and reads one line.
///
/// # Errors
/// Of the terminal; of kind `Interrupted` where the person gave up.
pub fn ask(question: &str) -> io::Result<String> {
    io::stderr().write_all(question.as_bytes())?;
    let mut line = String::new();
    if io::stdin().read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::Interrupted.into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Asks and reads one line that is not shown.
///
/// # Errors
/// As [`ask`].
pub fn ask_hidden(question: &str) -> io::Result<String> {
    io::stderr().write_all(question.as_bytes())?;
    let stdin = io::stdin();
    let before = tcgetattr(&stdin)?;
    let mut hidden = before.clone();
    // Without signals: Ctrl-C comes as a byte, and the terminal is put right first.
    hidden.local_flags.remove(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG);
    tcsetattr(&stdin, SetArg::TCSADRAIN, &hidden)?;
    let line = read_hidden(&mut stdin.lock());
    tcsetattr(&stdin, SetArg::TCSADRAIN, &before)?;
    io::stderr().write_all(b"\n")?;
    line
}

fn read_hidden(from: &mut impl Read) -> io::Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    loop {
        if from.read(&mut byte)? == 0 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match byte[0] {
            b'\r' | b'\n' => return String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into()),
            INTERRUPT | END => return Err(io::ErrorKind::Interrupted.into()),
            BACKSPACE | DELETE => drop(line.pop()),
            other if line.len() < MAX => line.push(other),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_line_is_edited_ended_and_given_up() {
        let read = |bytes: &[u8]| read_hidden(&mut &*bytes);
        assert_eq!(read(b"pax\x7fss\rmore").unwrap(), "pass");
        for given_up in [&b"pa\x03ss\n"[..], b"\x04", b"pass"] {
            assert_eq!(read(given_up).unwrap_err().kind(), io::ErrorKind::Interrupted);
        }
        assert!(read(&[b'a'; MAX + 1]).is_err() && read(b"\xff\n").is_err());
    }
}
