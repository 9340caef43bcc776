//! Steps without a container: handed to CraneSched's own supervisor, as if craned had
//! started that itself.
//!
//! Everything of the process is still craned's here, and stays so: only the program
//! changes. Whoever takes over reads the very bytes craned wrote, from the same
//! descriptor, and answers on the same one.

use crate::config::{Config, DEFAULT_PATH, DEFAULT_PROCESS_SUPERVISOR};
use crate::handshake::Answer;
use crate::ids::StepId;
use crate::sys::refeed;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Blocks in which two programs are compared.
const BLOCK: usize = 64 * 1024;

/// A step could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// The other supervisor is not there, or the kernel does not run it.
    #[error(
        "cannot hand step {id}, which has no container, to the process supervisor {program}: {source}; install \
         CraneSched's csupervisor there, or name it by Supervisor: Container: ProcessSupervisor: in {DEFAULT_PATH}"
    )]
    Program {
        /// The step.
        id: StepId,
        /// Who should have taken it.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is this very program, which would hand the step to itself for ever.
    #[error(
        "cannot hand step {id}, which has no container, to the process supervisor {program}: that is crane-supervisor \
         itself; name CraneSched's csupervisor by Supervisor: Container: ProcessSupervisor: in {DEFAULT_PATH}"
    )]
    Ourselves {
        /// The step.
        id: StepId,
        /// Where we are.
        program: PathBuf,
    },
    /// The message or the answer's descriptor could not be passed on.
    #[error("cannot pass the init message of step {id} on to {program}: {source}")]
    PassOn {
        /// The step.
        id: StepId,
        /// Who should have taken it.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A step for the process supervisor. Its debug form has no byte of the message: passwords are in it.
pub struct HandOver {
    /// Which step.
    pub id: StepId,
    /// The message as craned wrote it, its length first.
    pub(super) frame: Vec<u8>,
    /// Where craned wrote it.
    pub(super) input: RawFd,
}

impl fmt::Debug for HandOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HandOver of step {}, {} bytes", self.id, self.frame.len())
    }
}

impl HandOver {
    /// Becomes the process supervisor, with our own arguments; returns only if that failed.
    pub fn perform(self, answer: &Answer, arguments: Vec<OsString>) -> HandOverError {
        let (program, id) = (process_supervisor(Path::new(DEFAULT_PATH)), self.id);
        match is_ourselves(&program) {
            Ok(false) => {}
            Ok(true) => return HandOverError::Ourselves { id, program },
            Err(source) => return HandOverError::Program { id, program, source },
        }
        let passed = refeed::replace_input(self.input, &self.frame)
            .and_then(|()| refeed::keep_across_exec(answer.0.as_fd(), true));
        if let Err(source) = passed {
            return HandOverError::PassOn { id, program, source };
        }
        let source = refeed::become_program(&program, arguments);
        HandOverError::Program { id, program, source }
    }
}

/// The administrator's word, else the place CraneSched installs it to. A file that cannot
/// be read, or that others can write, says nothing: a mistake in it must not end batch jobs.
fn process_supervisor(config: &Path) -> PathBuf {
    let roots = fs::metadata(config).is_ok_and(|meta| meta.uid() == 0 && meta.mode() & 0o022 == 0);
    let named = roots.then(|| Config::read(config).ok()).flatten();
    let named = named.and_then(|(config, _notes)| config.supervisor.container.process_supervisor);
    named.filter(|path| path.is_absolute()).unwrap_or_else(|| DEFAULT_PROCESS_SUPERVISOR.into())
}

/// The same file, or a copy of it.
fn is_ourselves(program: &Path) -> io::Result<bool> {
    let (theirs, ours) = (fs::metadata(program)?, fs::metadata(crate::sys::helper::OURSELVES)?);
    if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()) {
        return Ok(true);
    }
    Ok(theirs.is_file() && theirs.len() == ours.len() && same_content(program)?)
}

fn same_content(program: &Path) -> io::Result<bool> {
    let (mut theirs, mut ours) = (File::open(program)?, File::open(crate::sys::helper::OURSELVES)?);
    let (mut left, mut right) = (vec![0; BLOCK], vec![0; BLOCK]);
    loop {
        let count = ours.read(&mut left)?;
        let (left, right) = (left.get(..count).unwrap_or_default(), right.get_mut(..count).unwrap_or_default());
        match theirs.read_exact(right) {
            Ok(()) if left != right => return Ok(false),
            Ok(()) if count == 0 => return Ok(true),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn named(name: &str, text: &str, mode: u32) -> PathBuf {
        let path = std::env::temp_dir().join(format!("hand-over-{name}-{}", std::process::id()));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let program = process_supervisor(&path);
        fs::remove_file(path).unwrap();
        program
    }

    #[test]
    fn the_administrator_names_the_process_supervisor() {
        let text = "Supervisor: { Container: { ProcessSupervisor: /opt/crane/csupervisor } }";
        assert_eq!(named("good", text, 0o644), Path::new("/opt/crane/csupervisor"));
        let relative = "Supervisor: { Container: { ProcessSupervisor: csupervisor } }";
        for (name, text, mode) in
            [("open", text, 0o666), ("odd", "Supervisor: [", 0o644), ("relative", relative, 0o644)]
        {
            assert_eq!(named(name, text, mode), Path::new(DEFAULT_PROCESS_SUPERVISOR), "{name}");
        }
        assert_eq!(process_supervisor(Path::new("/no/such/file")), Path::new(DEFAULT_PROCESS_SUPERVISOR));
    }

    #[test]
    fn a_copy_of_ourselves_is_ourselves() {
        let copy = std::env::temp_dir().join(format!("hand-over-copy-{}", std::process::id()));
        fs::copy(crate::sys::helper::OURSELVES, &copy).unwrap();
        assert!(is_ourselves(&copy).unwrap() && is_ourselves(Path::new(crate::sys::helper::OURSELVES)).unwrap());
        let mut bytes = fs::read(&copy).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&copy, bytes).unwrap();
        assert!(!is_ourselves(&copy).unwrap() && !is_ourselves(Path::new("/bin/sh")).unwrap());
        fs::remove_file(copy).unwrap();
    }
}
