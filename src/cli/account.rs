//! Whose registry passwords a command uses: the caller's, also through sudo.

use crate::cli::output;
use crate::cli::run::user::{self, UserError};
use crate::credentials::{Account, CredentialsError};
use crate::spec::Secret;
use nix::unistd::geteuid;
use std::io::{self, Read};

/// Bytes of a password.
const PASSWORD_MAX: u64 = 64 * 1024;

/// Why there is no password.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// Who called sudo is not known.
    #[error(transparent)]
    User(#[from] UserError),
    /// The file.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// Standard input cannot be read.
    #[error("cannot read the password from standard input: {0}")]
    Input(#[source] io::Error),
    /// It is empty or no text.
    #[error("the password on standard input {0}")]
    Password(&'static str),
}

/// The caller's account; through sudo, that of who called it.
pub fn of_caller() -> Result<Account, AccountError> {
    let uid = if geteuid().is_root() { user::job_user(None)?.uid } else { geteuid().as_raw() };
    Ok(Account::of(uid)?)
}

/// What `account` has for `registry`; says so where others may read it.
pub fn find(account: &Account, registry: &str) -> Result<Option<(String, Secret)>, CredentialsError> {
    let (found, exposed) = account.find(registry)?;
    if exposed {
        let path = account.path();
        output::say(&format!("others can read the passwords in {0}: chmod 600 {0}", path.display()));
    }
    Ok(found)
}

/// A password from standard input; one line end after it is not part of it.
pub fn password_from_stdin() -> Result<Secret, AccountError> {
    let mut text = String::new();
    let read = io::stdin().take(PASSWORD_MAX + 1).read_to_string(&mut text);
    match read {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(AccountError::Password("is not UTF-8")),
        Err(error) => return Err(AccountError::Input(error)),
        Ok(_) if text.len() as u64 > PASSWORD_MAX => return Err(AccountError::Password("is too long")),
        Ok(_) => {}
    }
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() { Err(AccountError::Password("is empty")) } else { Ok(Secret::new(text)) }
}
