//! A user's passwords for registries: `~/.config/crane/registry.json`, which `ccon login`
//! keeps too.
//!
//! Read and written as that user, never as root. For the commands a person starts; a
//! supervisor gets credentials from craned only and never comes here.

pub mod document;

use crate::spec::Secret;
use crate::sys::as_user::User;
use crate::sys::user_file::{Content, UserFile, UserFileError};
use document::{Document, DocumentError};
use nix::errno::Errno;
use nix::unistd::{Gid, Uid, User as Passwd, geteuid, getgrouplist, getuid};
use std::ffi::CString;
use std::path::{Path, PathBuf};

/// Below the home directory.
const DIRS: [&str; 2] = [".config", "crane"];
const NAME: &str = "registry.json";

/// Why there are no credentials to be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// Nobody has that number.
    #[error("user {0} is unknown on this node, so there is no home for registry passwords; see getent passwd {0}")]
    Unknown(u32),
    /// The user data base does not answer.
    #[error("cannot look up user {uid}: {source}")]
    LookUp {
        /// The user.
        uid: u32,
        /// The cause.
        source: Errno,
    },
    /// The file is out of reach.
    #[error(transparent)]
    File(#[from] UserFileError),
    /// The file is not what it should be.
    #[error("cannot use {}: {source}; correct it or remove it", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: DocumentError,
    },
}

/// Whose credentials.
#[derive(Clone, Debug)]
pub struct Account {
    user: User,
    home: PathBuf,
}

impl Account {
    /// A user of the node. Of the caller's own home the environment says where it is, as it does for `ccon`.
    ///
    /// # Errors
    /// [`CredentialsError`] for a user nobody knows.
    pub fn of(uid: u32) -> Result<Self, CredentialsError> {
        let failed = |source| CredentialsError::LookUp { uid, source };
        let entry = Passwd::from_uid(Uid::from_raw(uid)).map_err(failed)?.ok_or(CredentialsError::Unknown(uid))?;
        let name = CString::new(entry.name.as_bytes()).map_err(|_| failed(Errno::EINVAL))?;
        let groups = getgrouplist(&name, entry.gid).map_err(failed)?.into_iter().map(Gid::as_raw).collect();
        let own = uid == getuid().as_raw() && uid == geteuid().as_raw();
        let told = std::env::var_os("HOME").map(PathBuf::from).filter(|home| own && home.is_absolute());
        Ok(Self { user: User { uid, gid: entry.gid.as_raw(), groups }, home: told.unwrap_or(entry.dir) })
    }

    /// The file, for people.
    pub fn path(&self) -> PathBuf {
        self.file().path()
    }

    /// What the file has for `registry`, and whether others may read it.
    ///
    /// # Errors
    /// [`CredentialsError`]; a file that is not there has nothing.
    pub fn find(&self, registry: &str) -> Result<(Option<(String, Secret)>, bool), CredentialsError> {
        let content = self.file().read()?;
        let exposed = content.as_ref().is_some_and(|content| content.exposed);
        let document = self.parse(content)?;
        Ok((document.find(registry).map_err(|source| self.bad(source))?, exposed))
    }

    /// Keeps a user name and a password for `registry`.
    ///
    /// # Errors
    /// [`CredentialsError`]; the file is then as before.
    pub fn keep(&self, registry: &str, username: &str, password: &Secret) -> Result<(), CredentialsError> {
        self.file().update(|content| {
            let mut document = self.parse(content)?;
            document.set(registry, username, password);
            Ok(document.to_bytes())
        })
    }

    /// Forgets those for `registry`; whether there were any.
    ///
    /// # Errors
    /// As [`Account::keep`].
    pub fn forget(&self, registry: &str) -> Result<bool, CredentialsError> {
        if self.parse(self.file().read()?)?.is_without(registry) {
            return Ok(false);
        }
        self.file().update(|content| {
            let mut document = self.parse(content)?;
            document.remove(registry);
            Ok::<_, CredentialsError>(document.to_bytes())
        })?;
        Ok(true)
    }

    fn file(&self) -> UserFile<'_> {
        UserFile { user: &self.user, home: Path::new(&self.home), dirs: &DIRS, name: NAME }
    }

    fn parse(&self, content: Option<Content>) -> Result<Document, CredentialsError> {
        let bytes = content.map(|content| content.bytes).unwrap_or_default();
        Document::parse(&bytes).map_err(|source| self.bad(source))
    }

    fn bad(&self, source: DocumentError) -> CredentialsError {
        CredentialsError::Document { path: self.path(), source }
    }
}

#[cfg(test)]
#[path = "credentials/tests.rs"]
mod tests;
