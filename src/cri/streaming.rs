//! Where a runtime streams what a container reads and writes: Exec, Attach, and the address
//! in their answers.
//!
//! The address holds a token that lets whoever knows it in, once: it is in no log and has no
//! debug form. It is followed only on this node, and without TLS, since the runtime's own
//! certificate could not be checked. Called by the commands that stream (`local`).

use super::call::{call, present};
use super::client::Client;
use crate::cri::api::{AttachRequest, ExecRequest};
use crate::cri::error::CriError;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Which of a program's streams are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What it reads.
    pub stdin: bool,
    /// What it writes to stdout.
    pub stdout: bool,
    /// What it writes to stderr; never with a terminal, which has one output.
    pub stderr: bool,
    /// Through a terminal.
    pub tty: bool,
}

/// An address that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressError {
    /// Not `http://HOST:PORT/PATH`.
    #[error("the runtime streams at an address that is not http://HOST:PORT/PATH (its scheme is {0:?})")]
    Odd(String),
    /// With TLS.
    #[error(
        "the runtime streams with TLS, which is not supported here; on one node it needs none \
         (enable_tls_streaming = false for containerd, stream_enable_tls = false for CRI-O)"
    )]
    Tls,
}

/// Where to stream, once.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// The runtime's streaming server.
    pub server: SocketAddr,
    /// With the token.
    path: String,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({}, token not shown)", self.server)
    }
}

impl Address {
    /// Reads the address of an answer.
    ///
    /// # Errors
    /// [`AddressError`], without the token.
    pub fn parse(url: &str) -> Result<Self, AddressError> {
        let scheme = || url.split_once("://").map_or("", |(scheme, _)| scheme).chars().take(16).collect();
        let odd = || AddressError::Odd(scheme());
        if url.starts_with("https://") {
            return Err(AddressError::Tls);
        }
        let rest = url.strip_prefix("http://").ok_or_else(odd)?;
        let (server, path) = rest.split_once('/').ok_or_else(odd)?;
        let plain = |byte: u8| byte.is_ascii_graphic();
        if path.is_empty() || !path.bytes().all(plain) {
            return Err(odd());
        }
        let server = match server.strip_prefix("localhost:") {
            Some(port) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port.parse().map_err(|_| odd())?),
            None => server.parse().map_err(|_| odd())?,
        };
        Ok(Self { server: somewhere(server), path: format!("/{path}") })
    }

    /// The path to ask for; a secret.
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// Who listens on every address listens on loopback too.
fn somewhere(mut server: SocketAddr) -> SocketAddr {
    if server.ip().is_unspecified() {
        server.set_ip(match server.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    server
}

impl Client {
    /// Where `command` can be started in a container that runs; it starts when somebody comes there.
    ///
    /// # Errors
    /// The runtime's, or no address in its answer.
    pub async fn exec(&self, container: &str, command: Vec<String>, wanted: Wanted) -> Result<String, CriError> {
        let mut client = self.runtime.clone();
        let Wanted { stdin, stdout, stderr, tty } = wanted;
        let request = ExecRequest { container_id: container.to_owned(), cmd: command, tty, stdin, stdout, stderr };
        let answer = call("Exec", Some(self.limits.look), request, |r| async move { client.exec(r).await }).await?;
        present("Exec", "url", answer.url)
    }

    /// Where a container's own program can be streamed from.
    ///
    /// # Errors
    /// As [`Client::exec`].
    pub async fn attach(&self, container: &str, wanted: Wanted) -> Result<String, CriError> {
        let mut client = self.runtime.clone();
        let Wanted { stdin, stdout, stderr, tty } = wanted;
        let request = AttachRequest { container_id: container.to_owned(), stdin, tty, stdout, stderr };
        let answer = call("Attach", Some(self.limits.look), request, |r| async move { client.attach(r).await }).await?;
        present("Attach", "url", answer.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_its_token_never_shown() {
        let address = Address::parse("http://127.0.0.1:41021/exec/s3cret").unwrap();
        assert_eq!((address.server.to_string().as_str(), address.path()), ("127.0.0.1:41021", "/exec/s3cret"));
        assert!(!format!("{address:?}").contains("s3cret"));
        assert_eq!(Address::parse("http://0.0.0.0:1/a/b").unwrap().server.to_string(), "127.0.0.1:1");
        assert_eq!(Address::parse("http://[::]:1/a").unwrap().server.to_string(), "[::1]:1");
        assert_eq!(Address::parse("http://localhost:7/a").unwrap().server.to_string(), "127.0.0.1:7");
    }

    #[test]
    fn anything_else_is_refused_without_the_token() {
        assert_eq!(Address::parse("https://127.0.0.1:1/exec/s3cret"), Err(AddressError::Tls));
        for url in [
            "",
            "http://",
            "http://h/exec/s3cret",
            "http://1.2.3.4/s3cret",
            "unix:///s3cret",
            "http://[::1]:1",
            "http://1.2.3.4:1/ s3cret\r\nX: y",
            "s3cret",
        ] {
            let error = Address::parse(url).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
