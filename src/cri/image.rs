//! What a failed pull means: for people, and for whether to try again.
//!
//! Runtimes give UNKNOWN for nearly everything a registry may answer, so the cause is read
//! from their words (containerd 1.6 to 2.1, CRI-O). Pure; never makes a call. What it does
//! not recognise is permanent and told as it came. Called by `cri::pull`.

use crate::cri::error::{Class, CriError};
use std::time::Duration;
use tonic::Code;

/// Why a pull failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The registry has no such image.
    Missing,
    /// No credentials, wrong ones, or no right to the image.
    Denied,
    /// The registry's name cannot be resolved.
    NoSuchHost,
    /// The registry does not answer, or its connection broke.
    Unreachable,
    /// The registry's certificate is not trusted, or it speaks no TLS.
    Tls,
    /// The registry asks to come back later.
    Busy,
    /// The registry failed.
    Server,
    /// The node has no room.
    DiskFull,
    /// The image is for other machines.
    Platform,
    /// What came is not what the digest names.
    Digest,
    /// The runtime cannot read the reference.
    Reference,
    /// The runtime went away.
    RuntimeAway,
    /// Something else.
    Other,
}

/// Words of runtimes and what they mean; the first that fits counts.
const WORDS: &[(&str, Trouble)] = &[
    ("no space left on device", Trouble::DiskFull),
    ("disk quota exceeded", Trouble::DiskFull),
    ("no match for platform", Trouble::Platform),
    ("no image found in manifest list for architecture", Trouble::Platform),
    ("unexpected commit digest", Trouble::Digest),
    ("failed to verify digest", Trouble::Digest),
    ("digest mismatch", Trouble::Digest),
    ("does not match expected digest", Trouble::Digest),
    ("invalid reference format", Trouble::Reference),
    ("unexpected commit size", Trouble::Unreachable),
    ("failed size validation", Trouble::Unreachable),
    ("toomanyrequests", Trouble::Busy),
    ("429 too many requests", Trouble::Busy),
    ("x509:", Trouble::Tls),
    ("certificate signed by unknown authority", Trouble::Tls),
    ("server gave http response to https client", Trouble::Tls),
    ("tls: first record does not look like", Trouble::Tls),
    ("remote error: tls", Trouble::Tls),
    ("no such host", Trouble::NoSuchHost),
    ("dial tcp: lookup", Trouble::Unreachable),
    ("server misbehaving", Trouble::Unreachable),
    ("temporary failure in name resolution", Trouble::Unreachable),
    ("connection refused", Trouble::Unreachable),
    ("connection reset by peer", Trouble::Unreachable),
    ("broken pipe", Trouble::Unreachable),
    ("no route to host", Trouble::Unreachable),
    ("network is unreachable", Trouble::Unreachable),
    ("handshake timeout", Trouble::Unreachable),
    ("i/o timeout", Trouble::Unreachable),
    ("timeout awaiting response headers", Trouble::Unreachable),
    ("unexpected eof", Trouble::Unreachable),
    ("short read", Trouble::Unreachable),
    ("context canceled", Trouble::Unreachable),
    ("context deadline exceeded", Trouble::Unreachable),
    ("401 unauthorized", Trouble::Denied),
    ("403 forbidden", Trouble::Denied),
    ("authorization failed", Trouble::Denied),
    ("authentication required", Trouble::Denied),
    ("unauthorized", Trouble::Denied),
    ("pull access denied", Trouble::Denied),
    ("requested access to the resource is denied", Trouble::Denied),
    ("insufficient_scope", Trouble::Denied),
    ("no basic auth credentials", Trouble::Denied),
    ("500 internal server error", Trouble::Server),
    ("502 bad gateway", Trouble::Server),
    ("503 service unavailable", Trouble::Server),
    ("504 gateway timeout", Trouble::Server),
    ("manifest unknown", Trouble::Missing),
    ("name unknown", Trouble::Missing),
    ("404 not found", Trouble::Missing),
    (": not found", Trouble::Missing),
    (": eof", Trouble::Unreachable),
];

/// What containerd puts before the cause, each with a quoted name or without.
const PREFIXES: [&str; 6] = [
    "rpc error: code = ",
    "failed to pull and unpack image",
    "failed to resolve reference",
    "failed to resolve image",
    "failed to copy",
    "failed to do request",
];

/// Bytes of a cause in a reason; the whole of it is in the log.
const CAUSE_MAX: usize = 240;
/// Tries of one pull, the first one included.
const TRIES: u32 = 6;
/// The same where there was no progress: each of them took its whole limit.
const STALLED_TRIES: u32 = 2;

impl Trouble {
    /// Reads it from a failed call.
    pub fn of(error: &CriError) -> Self {
        let CriError::Refused { code, message, .. } = error else {
            return if error.class() == Class::Unsure { Self::RuntimeAway } else { Self::Other };
        };
        let text = message.to_lowercase();
        let told = WORDS.iter().find(|(words, _)| text.contains(words)).map(|(_, trouble)| *trouble);
        match code {
            Code::NotFound if told == Some(Self::Platform) => Self::Platform,
            Code::NotFound => Self::Missing,
            // The connection to the runtime broke; a cause in it is our own socket's.
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded => Self::RuntimeAway,
            Code::Unauthenticated | Code::PermissionDenied => Self::Denied,
            _ => told.unwrap_or(if error.class() == Class::Unsure { Self::RuntimeAway } else { Self::Other }),
        }
    }

    /// Whether the same pull may work a moment later.
    pub fn is_transient(self) -> bool {
        match self {
            Self::Unreachable | Self::Busy | Self::Server | Self::RuntimeAway => true,
            Self::Missing
            | Self::Denied
            | Self::NoSuchHost
            | Self::Tls
            | Self::DiskFull
            | Self::Platform
            | Self::Digest
            | Self::Reference
            | Self::Other => false,
        }
    }

    fn words(self, registry: &str) -> String {
        let text = match self {
            Self::Missing => return format!("{registry} has no such image or tag, or it is private: check the name"),
            Self::Denied => {
                return format!("{registry} refuses access: log in with \"ccon login {registry}\" and submit again");
            }
            Self::NoSuchHost => {
                return format!("the node knows no host named {registry}: check the name, or the node's DNS");
            }
            Self::Unreachable => return format!("{registry} cannot be reached from this node, or broke off"),
            Self::Tls => {
                return format!(
                    "no trusted TLS connection to {registry}: the administrator must tell the runtime of its certificate"
                );
            }
            Self::Busy => {
                return format!("{registry} answers too few requests of this node: log in, or try again later");
            }
            Self::Server => return format!("{registry} has an error of its own: try again later"),
            Self::DiskFull => "the node's disk for images is full: tell the administrator",
            Self::Platform => "the image has no variant for this node's architecture",
            Self::Digest => "what the registry sent does not have the digest asked for: the image is damaged there",
            Self::Reference => "the runtime cannot read this image name",
            Self::RuntimeAway => "the container runtime went away and did not come back in time",
            Self::Other => "the container runtime refuses",
        };
        text.to_owned()
    }
}

/// Why there is no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// The runtime could not.
    #[error("cannot pull image {image}: {} ({cause})", trouble.words(registry))]
    Failed {
        /// The reference.
        image: String,
        /// Its registry.
        registry: String,
        /// What it comes to.
        trouble: Trouble,
        /// The runtime's words, in part, without secrets.
        cause: String,
    },
    /// Nothing came for a while.
    #[error(
        "cannot pull image {image}: nothing came from {registry} for {} s; is the registry or the network stuck?",
        limit.as_secs()
    )]
    Stalled {
        /// The reference.
        image: String,
        /// Its registry.
        registry: String,
        /// For how long.
        limit: Duration,
    },
    /// The whole pull took too long.
    #[error("cannot pull image {image}: it takes longer than the {} s that are set for a pull", limit.as_secs())]
    TookTooLong {
        /// The reference.
        image: String,
        /// The limit.
        limit: Duration,
    },
}

impl PullError {
    /// How long to wait before the next try, after `tries` of them; `None`: give up.
    /// `spread`, from 0 to 1, keeps a thousand nodes apart.
    pub fn again_after(&self, tries: u32, spread: f64) -> Option<Duration> {
        let most = match self {
            Self::Failed { trouble, .. } if trouble.is_transient() => TRIES,
            Self::Stalled { .. } => STALLED_TRIES,
            Self::Failed { .. } | Self::TookTooLong { .. } => return None,
        };
        let seconds = f64::from(1_u32 << tries.saturating_sub(1).min(4));
        (tries < most).then(|| Duration::from_secs_f64(seconds * (0.5 + spread.clamp(0.0, 1.0) / 2.0)))
    }
}

/// The part of a runtime's message that tells something new, on one line.
pub fn cause(error: &CriError) -> String {
    let CriError::Refused { message, .. } = error else { return error.to_string() };
    let mut rest = message.as_str();
    while let Some(after) = PREFIXES.iter().find_map(|prefix| rest.strip_prefix(prefix)) {
        rest = after.split_once(": ").map_or("", |(_, rest)| rest).trim_start();
        rest = rest.strip_prefix("desc = ").unwrap_or(rest);
    }
    let told = if rest.is_empty() { message } else { rest };
    told.chars().map(|c| if c.is_control() { ' ' } else { c }).take(CAUSE_MAX).collect()
}

/// A registry's text without what it may repeat of ours: the password, and of every
/// address in it the user part and the query, where tokens and signatures are.
pub fn redact(text: &str, password: &str) -> String {
    let text = if password.is_empty() { text.to_owned() } else { text.replace(password, "(not shown)") };
    let mut pieces = text.split("://");
    let mut clean = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let end = piece.find(|c: char| c.is_whitespace() || c == '"' || c == '\'').unwrap_or(piece.len());
        let (address, rest) = piece.split_at(end);
        let (address, query) = address.split_once('?').map_or((address, ""), |(address, _)| (address, "?(not shown)"));
        let authority = address.find('/').unwrap_or(address.len());
        let address = address[..authority].rfind('@').map_or(address, |at| &address[at + 1..]);
        clean.extend(["://", address, query, rest]);
    }
    clean
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
