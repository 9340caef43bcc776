//! `login` and `logout`: keep a password for a registry where `ccon login` keeps it.
//!
//! Nothing is asked of the registry, as `ccon` does not either: it judges the password at
//! the next pull.

use crate::cli::account::{self, AccountError};
use crate::cli::output;
use crate::spec::Secret;
use crate::spec::reference::{check_registry, registry_key};
use crate::sys::terminal;
use clap::Args;
use std::io;
use std::process::ExitCode;

/// Options of `login`.
#[derive(Args, Debug)]
#[command(
    after_help = "The password is kept in ~/.config/crane/registry.json, readable by you alone and not encrypted."
)]
pub struct LoginOptions {
    /// The registry, such as registry.example.com or 10.0.0.1:5000.
    #[arg(value_name = "REGISTRY", value_parser = parse_registry)]
    pub registry: String,

    /// User name there; asked for if left out.
    #[arg(short = 'u', long)]
    pub username: Option<String>,

    /// Read the password from standard input.
    #[arg(long)]
    pub password_stdin: bool,
}

/// Options of `logout`.
#[derive(Args, Debug)]
pub struct LogoutOptions {
    /// The registry.
    #[arg(value_name = "REGISTRY", value_parser = parse_registry)]
    pub registry: String,
}

/// Why nothing was kept or forgotten.
#[derive(Debug, thiserror::Error)]
enum LoginError {
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error("nobody to ask for the {0}: give --username and --password-stdin")]
    NobodyThere(&'static str),
    #[error("nothing was kept: given up")]
    GivenUp,
    #[error("cannot ask for the {what}: {source}")]
    Ask { what: &'static str, source: io::Error },
    #[error("the user name {0:?} is empty or holds a colon or control character")]
    Username(String),
    #[error("nothing was kept: the password is empty")]
    NoPassword,
}

/// One spelling, or what is wrong with it.
pub fn parse_registry(text: &str) -> Result<String, String> {
    let key = registry_key(text);
    check_registry(&key).map(|()| key)
}

/// Keeps user name and password.
pub fn login(options: &LoginOptions) -> ExitCode {
    let kept = || -> Result<String, LoginError> {
        let account = account::of_caller()?;
        let username = match &options.username {
            Some(name) => name.clone(),
            None => ask("user name", |question| terminal::ask(&format!("{question}: ")))?,
        };
        if username.is_empty() || username.contains([':', '\0']) || username.contains(char::is_control) {
            return Err(LoginError::Username(username));
        }
        let password = if options.password_stdin {
            account::password_from_stdin()?
        } else {
            Secret::new(ask("password", |question| terminal::ask_hidden(&format!("{question}: ")))?)
        };
        if password.reveal().is_empty() {
            return Err(LoginError::NoPassword);
        }
        account.keep(&options.registry, &username, &password).map_err(AccountError::from)?;
        Ok(format!(
            "kept for {} in {}; the registry judges it at the next pull",
            options.registry,
            account.path().display()
        ))
    };
    conclude(kept())
}

/// Forgets them.
pub fn logout(options: &LogoutOptions) -> ExitCode {
    let forgotten = || -> Result<String, LoginError> {
        let account = account::of_caller()?;
        let known = account.forget(&options.registry).map_err(AccountError::from)?;
        let what = if known { "forgotten" } else { "there was nothing to forget" };
        Ok(format!("{what} for {} in {}", options.registry, account.path().display()))
    };
    conclude(forgotten())
}

fn ask(what: &'static str, how: impl FnOnce(&str) -> io::Result<String>) -> Result<String, LoginError> {
    if !terminal::is_there() {
        return Err(LoginError::NobodyThere(what));
    }
    how(what).map_err(|source| match source.kind() {
        io::ErrorKind::Interrupted => LoginError::GivenUp,
        _ => LoginError::Ask { what, source },
    })
}

fn conclude(result: Result<String, LoginError>) -> ExitCode {
    match result {
        Ok(words) => {
            output::say(&words);
            ExitCode::SUCCESS
        }
        Err(error) => {
            output::say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_has_one_spelling_or_is_refused() {
        assert_eq!(parse_registry("https://Registry.Example.com/v2/"), Ok("registry.example.com".into()));
        assert_eq!(parse_registry("10.0.0.1:5000"), Ok("10.0.0.1:5000".into()));
        for bad in ["", "a b", "h:port", "-h", "h:0"] {
            assert!(parse_registry(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
