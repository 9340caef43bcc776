//! Starting other programs, with a limit on their time and output.
//!
//! A helper gets a clean environment, `/` as its directory, no descriptor of
//! ours, and is killed when its time is up.

pub mod serving;

use crate::sys::pidfd::Process;
use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Take};
use tokio::net::unix::pipe;
use tokio::runtime::Handle;
use tokio::time::timeout;

/// The running binary; still the right one after a package upgrade replaced the file.
pub const OURSELVES: &str = "/proc/self/exe";

/// Where helpers find programs.
pub const SEARCH_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Enough to start a program.
const STARTER_STACK: usize = 64 * 1024;

/// A helper did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// It could not be started or watched.
    #[error("cannot run {program}: {source}")]
    Run {
        /// What was to run.
        program: String,
        /// Why it did not.
        #[source]
        source: io::Error,
    },
    /// It took too long and was killed.
    #[error("{program} did not finish within {limit:?}")]
    TimedOut {
        /// What ran.
        program: String,
        /// How long it had.
        limit: Duration,
    },
}

/// What a finished helper left.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, cut at the limit given.
    pub stdout: Vec<u8>,
}

/// A helper at work; dropped, it is ended.
#[derive(Debug)]
pub struct Started {
    name: String,
    child: JoinHandle<io::Result<Kept>>,
}

/// Starts `program`; its output is taken later.
///
/// On a thread that ends with it: the kernel holds a starter until the program is loaded.
///
/// # Errors
/// [`HelperError::Run`], where no thread can be had; that it did not start, its output tells.
pub fn start<S: AsRef<OsStr>>(program: &Path, args: &[S]) -> Result<Started, HelperError> {
    start_in(Path::new("/"), program, args)
}

/// As [`start`], with `dir` as its directory.
///
/// # Errors
/// As of [`start`].
pub fn start_in<S: AsRef<OsStr>>(dir: &Path, program: &Path, args: &[S]) -> Result<Started, HelperError> {
    let name = program.display().to_string();
    let mut command = command(program, args);
    command.current_dir(dir);
    let start = move || command.stdout(Stdio::piped()).spawn().map(|child| Kept(Some(child)));
    match thread::Builder::new().stack_size(STARTER_STACK).spawn(start) {
        Ok(child) => Ok(Started { name, child }),
        Err(source) => Err(HelperError::Run { program: name, source }),
    }
}

impl Started {
    /// Waits for the helper's end and takes at most `max_output` bytes of its output.
    ///
    /// # Errors
    /// [`HelperError`]; a non-zero exit is not an error here.
    pub async fn output(self, limit: Duration, max_output: u64) -> Result<Output, HelperError> {
        self.take(limit, async |child| finish(child, max_output).await).await
    }

    /// Waits for the helper's first line, of at most `max_output` bytes, and lets the helper go: its
    /// memory takes a while to. One that ends without a line is told as by [`Started::output`].
    ///
    /// # Errors
    /// As of [`Started::output`].
    pub async fn line(self, limit: Duration, max_output: u64) -> Result<Result<Vec<u8>, Output>, HelperError> {
        self.take(limit, async |child| first_line(child, max_output).await).await
    }

    async fn take<T>(
        self,
        limit: Duration,
        from: impl AsyncFnOnce(&mut Kept) -> io::Result<T>,
    ) -> Result<T, HelperError> {
        let Self { name, child } = self;
        // Over in a millisecond after its beginning.
        let child = child.join().unwrap_or_else(|_| Err(io::Error::other("the starting thread panicked")));
        let mut child = child.map_err(|source| HelperError::Run { program: name.clone(), source })?;
        match timeout(limit, from(&mut child)).await {
            Ok(result) => result.map_err(|source| HelperError::Run { program: name, source }),
            Err(_elapsed) => Err(HelperError::TimedOut { program: name, limit }),
        }
    }
}

/// Starts `program` in a session of its own and lets it go.
///
/// Its first output byte says it is ready; waits for that at most `limit`.
///
/// # Errors
/// [`HelperError`] if it cannot be started or says nothing in time.
pub async fn detached<S: AsRef<OsStr>>(program: &Path, args: &[S], limit: Duration) -> Result<i32, HelperError> {
    let name = program.display().to_string();
    let failed = |source| HelperError::Run { program: name.clone(), source };
    let mut child = command(program, args).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let pid = i32::try_from(child.id()).unwrap_or_default();
    let mut stdout = receiver(&mut child).map_err(failed)?;
    tokio::spawn(reap(child));
    match timeout(limit, stdout.read_u8()).await {
        Ok(Ok(_ready)) => Ok(pid),
        Ok(Err(source)) => Err(failed(source)),
        Err(_elapsed) => Err(HelperError::TimedOut { program: name, limit }),
    }
}

/// A helper that has said it is ready and waits; dropped, it is ended.
#[derive(Debug)]
pub struct Waiting {
    /// Its process.
    pub pid: i32,
    _child: Kept,
}

/// Starts `program` and waits at most `limit` for its first output byte.
///
/// # Errors
/// [`HelperError`] if it cannot be started or says nothing in time.
pub async fn waiting<S: AsRef<OsStr>>(program: &Path, args: &[S], limit: Duration) -> Result<Waiting, HelperError> {
    let name = program.display().to_string();
    let failed = |source| HelperError::Run { program: name.clone(), source };
    let mut child = command(program, args).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let stdout = receiver(&mut child);
    let waiting = Waiting { pid: i32::try_from(child.id()).unwrap_or_default(), _child: Kept(Some(child)) };
    match timeout(limit, stdout.map_err(failed)?.read_u8()).await {
        Ok(Ok(_ready)) => Ok(waiting),
        Ok(Err(source)) => Err(failed(source)),
        Err(_elapsed) => Err(HelperError::TimedOut { program: name, limit }),
    }
}

#[allow(clippy::disallowed_methods)]
fn command<S: AsRef<OsStr>>(program: &Path, args: &[S]) -> Command {
    let mut command = Command::new(program);
    command.args(args).env_clear().env("PATH", SEARCH_PATH).current_dir("/").stdin(Stdio::null()).stderr(Stdio::null());
    command
}

fn receiver(child: &mut Child) -> io::Result<pipe::Receiver> {
    let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    pipe::Receiver::from_owned_fd(stdout.into())
}

/// A child that does not outlive our interest in it, and leaves no zombie.
#[derive(Debug)]
struct Kept(Option<Child>);

impl Kept {
    fn said(&mut self, max_output: u64) -> io::Result<Take<pipe::Receiver>> {
        Ok(receiver(self.0.as_mut().ok_or(io::ErrorKind::NotFound)?)?.take(max_output))
    }

    /// Waits for its end, after `stdout`; `is_cut`: whatever it still has to say would block it for ever.
    async fn end(&mut self, stdout: Vec<u8>, is_cut: bool) -> io::Result<Output> {
        let child = self.0.as_mut().ok_or(io::ErrorKind::NotFound)?;
        let process = Process::open(i32::try_from(child.id()).unwrap_or_default())?;
        if is_cut {
            process.signal(Signal::SIGKILL)?;
        }
        process.ended().await?;
        let status = child.wait()?;
        self.0 = None;
        Ok(Output { status, stdout })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // Not waited for yet, so the number is still its own.
            drop(child.kill());
            match Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn(reap(child))),
                // Before or after the loop nothing waits for us.
                Err(_) => drop(child.wait()),
            }
        }
    }
}

/// Takes a child's status once it has ended, without blocking the loop until then.
async fn reap(mut child: Child) {
    if let Ok(process) = Process::open(i32::try_from(child.id()).unwrap_or_default()) {
        drop(process.ended().await);
    }
    drop(child.wait());
}

async fn first_line(kept: &mut Kept, max_output: u64) -> io::Result<Result<Vec<u8>, Output>> {
    let mut said = BufReader::new(kept.said(max_output)?);
    let mut stdout = Vec::new();
    said.read_until(b'\n', &mut stdout).await?;
    if stdout.pop_if(|last| *last == b'\n').is_some() {
        return Ok(Ok(stdout));
    }
    kept.end(stdout, said.get_ref().limit() == 0).await.map(Err)
}

async fn finish(kept: &mut Kept, max_output: u64) -> io::Result<Output> {
    let mut said = kept.said(max_output)?;
    let mut stdout = Vec::new();
    said.read_to_end(&mut stdout).await?;
    kept.end(stdout, said.limit() == 0).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    #[tokio::test]
    async fn output_and_status_come_back() {
        let done = start(Path::new("/bin/sh"), &["-c", "echo out; exit 3"])
            .unwrap()
            .output(Duration::from_secs(5), 100)
            .await
            .unwrap();
        assert_eq!((done.stdout.as_slice(), done.status.code()), (b"out\n".as_slice(), Some(3)));
    }

    #[tokio::test]
    async fn a_line_is_enough_and_one_without_is_told_by_its_end() {
        let line = async |script: &str, most| {
            start(Path::new("/bin/sh"), &["-c", script]).unwrap().line(Duration::from_secs(2), most).await
        };
        // What it does after its line is not waited for, and ended.
        let pid = String::from_utf8(line("echo $$; exec sleep 60", 100).await.unwrap().unwrap()).unwrap();
        let place = format!("/proc/{pid}");
        let gone = async {
            while Path::new(&place).exists() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(5), gone).await.unwrap();
        let ended = line("printf out; exit 3", 100).await.unwrap().unwrap_err();
        assert_eq!((ended.stdout.as_slice(), ended.status.code()), (b"out".as_slice(), Some(3)));
        let flood = line("exec tr '\\0' x </dev/zero", 1000).await.unwrap().unwrap_err();
        assert_eq!((flood.stdout.len(), flood.status.code()), (1000, None));
        assert!(matches!(line("exec sleep 60", 100).await, Err(HelperError::TimedOut { .. })));
    }

    #[tokio::test]
    async fn a_helper_that_hangs_or_floods_is_ended() {
        let hung = start(Path::new("/bin/sleep"), &["60"]).unwrap().output(Duration::from_millis(50), 10).await;
        assert!(matches!(hung, Err(HelperError::TimedOut { .. })));
        let flood =
            start(Path::new("/bin/cat"), &["/dev/zero"]).unwrap().output(Duration::from_secs(5), 1000).await.unwrap();
        assert_eq!(flood.stdout.len(), 1000);
    }
}
