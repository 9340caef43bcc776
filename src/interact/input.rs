//! Our standard input, read by a thread of its own: a file, a pipe and a terminal alike.
//!
//! It reads ahead by a few pieces and no more, so a slow program slows the writer of our
//! input. The thread ends with the input or with the process.

use nix::errno::Errno;
use std::io;
use tokio::sync::mpsc;

/// One read.
const PIECE: usize = 32 * 1024;
/// Pieces read ahead.
const AHEAD: usize = 4;

/// What comes from it; the end of the channel is the end of the input.
pub type Input = mpsc::Receiver<io::Result<Vec<u8>>>;

/// Begins to read.
///
/// # Errors
/// No thread can be had.
pub fn start() -> io::Result<Input> {
    let (sender, input) = mpsc::channel(AHEAD);
    std::thread::Builder::new().name("stdin".into()).stack_size(128 * 1024).spawn(move || read(&sender))?;
    Ok(input)
}

fn read(sender: &mpsc::Sender<io::Result<Vec<u8>>>) {
    let stdin = io::stdin();
    let mut buffer = vec![0; PIECE];
    loop {
        let piece = match nix::unistd::read(&stdin, &mut buffer) {
            Ok(0) => return,
            Ok(count) => Ok(buffer.get(..count).unwrap_or_default().to_vec()),
            Err(Errno::EINTR) => continue,
            // A terminal that has gone is an end.
            Err(Errno::EIO) => return,
            Err(errno) => Err(errno.into()),
        };
        let failed = piece.is_err();
        if sender.blocking_send(piece).is_err() || failed {
            return;
        }
    }
}
