//! Where a runtime listens: `unix:///path` or a bare absolute path.

use std::fmt;
use std::path::{Path, PathBuf};

/// A runtime's unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(PathBuf);

/// Not an address of a unix socket.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EndpointError {
    /// Nothing given.
    #[error("is empty: give the runtime's socket, such as unix:///run/containerd/containerd.sock")]
    Empty,
    /// Neither `unix://` nor a path.
    #[error("{0:?} is not an absolute path: give unix:///path or /path")]
    NotAbsolute(String),
    /// A kernel limit: sun_path has 108 bytes.
    #[error("{0:?} is longer than the 107 bytes a unix socket path may have")]
    TooLong(String),
}

impl Endpoint {
    /// Reads an endpoint as administrators write it.
    ///
    /// # Errors
    /// [`EndpointError`]; its text continues a sentence that names the field.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        let path = text.trim().strip_prefix("unix://").unwrap_or(text.trim());
        match path {
            "" => Err(EndpointError::Empty),
            path if !path.starts_with('/') || path.contains('\0') => Err(EndpointError::NotAbsolute(text.to_owned())),
            path if path.len() > 107 => Err(EndpointError::TooLong(text.to_owned())),
            path => Ok(Self(PathBuf::from(path))),
        }
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_mean_the_same_socket() {
        assert_eq!(Endpoint::parse("unix:///run/c.sock"), Endpoint::parse("/run/c.sock"));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "unix://", "run/c.sock", "tcp://1.2.3.4:5", "unix://run/c.sock"] {
            assert!(Endpoint::parse(text).is_err(), "{text:?} was accepted");
        }
        assert!(matches!(Endpoint::parse(&format!("/{}", "x".repeat(107))), Err(EndpointError::TooLong(_))));
    }
}
