//! Image references, checked before any runtime is asked: runtimes disagree on bad ones,
//! and some ask the network first.
//!
//! `[REGISTRY[:PORT]/]NAME[:TAG][@DIGEST]`, or an image's id as the runtime gave it. Pure.

/// Bytes of registry and name together, and of a tag, as registries limit them.
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;
/// The registry of names that name none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Other names of it.
const DEFAULT_ALIASES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];

/// A well-formed reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference<'a> {
    registry: Option<&'a str>,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
    /// An id on this node, not a name.
    is_id: bool,
}

impl<'a> Reference<'a> {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it; continues a sentence.
    pub fn parse(text: &'a str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("missing".to_owned());
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(format!("{text:?} holds a blank or control character"));
        }
        if text.len() > 1024 {
            return Err(format!("{} bytes long; an image reference is shorter", text.len()));
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(format!("{text:?} begins with {scheme}://: leave that out"));
        }
        if is_sha256(text.strip_prefix("sha256:").unwrap_or(text)) {
            return Ok(Self { registry: None, tag: None, digest: None, is_id: true });
        }
        Self::of_parts(text).map_err(|problem| format!("{text:?} is no image reference: {problem}"))
    }

    fn of_parts(text: &'a str) -> Result<Self, String> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        digest.map_or(Ok(()), check_digest)?;
        // A colon before the last slash is a port's.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        tag.map_or(Ok(()), check_tag)?;
        if name.len() > NAME_MAX {
            return Err(format!("its name has {} bytes; {NAME_MAX} are the limit", name.len()));
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if is_registry(first) => (Some(first), path),
            _ => (None, name),
        };
        registry.map_or(Ok(()), check_registry)?;
        path.split('/').try_for_each(check_component)?;
        Ok(Self { registry, tag, digest, is_id: false })
    }

    /// The registry it is pulled from, as credentials for it are filed.
    pub fn registry(&self) -> String {
        registry_key(self.registry.unwrap_or(DEFAULT_REGISTRY))
    }

    /// Whether it may mean another image tomorrow: the tag latest or none. A digest is a
    /// version, and so is an id.
    pub fn moves(&self) -> bool {
        !self.is_id && self.digest.is_none() && self.tag.is_none_or(|tag| tag == "latest")
    }

    /// Whether it is an id, which no registry knows.
    pub fn is_id(&self) -> bool {
        self.is_id
    }
}

/// One spelling for a registry: no scheme, no path, lower case.
pub fn registry_key(text: &str) -> String {
    let host = text.trim().split_once("://").map_or(text.trim(), |(_, host)| host);
    let host = host.split('/').next().unwrap_or_default().to_ascii_lowercase();
    if DEFAULT_ALIASES.contains(&host.as_str()) { DEFAULT_REGISTRY.to_owned() } else { host }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// As every client tells a registry from the first part of a name.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first.eq_ignore_ascii_case("localhost")
}

/// `host`, `host:port`, `[v6]:port`.
pub fn check_registry(registry: &str) -> Result<(), String> {
    let bad = |what: &str| Err(format!("{registry:?} is no registry: {what}"));
    let (host, port) = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (Err(host), None),
        Some((host, port)) => (Err(host), Some(port.strip_prefix(':').unwrap_or(port))),
        None => registry.split_once(':').map_or((Ok(registry), None), |(host, port)| (Ok(host), Some(port))),
    };
    let digits = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    if port.is_some_and(|port| !digits(port) || !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return bad("its port is not a number from 1 to 65535");
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    match host {
        Ok(name) if !name.split('.').all(label) => bad("its host may have letters, digits, dots and inner hyphens"),
        Err(address) if address.parse::<std::net::Ipv6Addr>().is_err() => bad("no IPv6 address between the brackets"),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Lower case, digits, and between them one dot, one or two underscores, or hyphens.
fn check_component(part: &str) -> Result<(), String> {
    if part.is_empty() {
        return Err("a part of its name is empty".to_owned());
    }
    if part.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(format!("{part:?} has upper-case letters, which names of images have not"));
    }
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let between = |separator: &str| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-');
    let separators = part.split(|c: char| c.is_ascii() && is_word(c as u8));
    if part.bytes().next().is_some_and(is_word)
        && part.bytes().last().is_some_and(is_word)
        && separators.clone().all(between)
    {
        return Ok(());
    }
    Err(format!("{part:?} may have lower-case letters and digits, with . _ __ or - between them"))
}

fn check_tag(tag: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if tag.is_empty() || tag.len() > TAG_MAX || !tag.bytes().all(good) || tag.starts_with(['.', '-']) {
        return Err(format!("the tag {tag:?} may have up to {TAG_MAX} letters, digits, _ . and -, not . or - first"));
    }
    Ok(())
}

/// The algorithms that runtimes verify.
fn check_digest(digest: &str) -> Result<(), String> {
    let (algorithm, hex) = digest.split_once(':').unwrap_or((digest, ""));
    let digits = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(format!("the digest {digest:?} is none of sha256:…, sha384:…, sha512:…")),
    };
    let is_hex = hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if hex.len() != digits || !is_hex {
        return Err(format!("a digest of {algorithm} has {digits} digits 0-9 a-f"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn good_references_are_taken_and_say_where_they_are_from() {
        for (text, registry, moves) in [
            ("alpine", "docker.io", true),
            ("alpine:latest", "docker.io", true),
            ("library/alpine:3.20", "docker.io", false),
            ("localhost/bb:1", "localhost", false),
            ("localhost:5000/a", "localhost:5000", true),
            ("127.0.0.1:5000/tb/bb:1", "127.0.0.1:5000", false),
            ("REGISTRY.Example.com/a-b/c_d/e__f.g:V1.0_rc-2", "registry.example.com", false),
            ("index.docker.io/x:1", "docker.io", false),
            ("[::1]:5000/a:1", "[::1]:5000", false),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!((reference.registry().as_str(), reference.moves()), (registry, moves), "{text}");
        }
        for text in [format!("a@sha256:{HEX}"), format!("h:1/a:latest@sha256:{HEX}"), format!("a@sha512:{HEX}{HEX}")] {
            let reference = Reference::parse(&text).unwrap();
            assert!(!reference.moves() && !reference.is_id(), "{text}");
        }
        for id in [HEX.to_owned(), format!("sha256:{HEX}")] {
            let reference = Reference::parse(&id).unwrap();
            assert!(reference.is_id() && !reference.moves(), "{id}");
        }
    }

    #[test]
    fn bad_references_are_refused_and_told_apart() {
        for (text, word) in [
            ("", "missing"),
            ("a b", "blank"),
            ("a\u{7}", "control"),
            ("docker://alpine", "leave that out"),
            ("UPPER/x:1", "upper-case"),
            ("h.io/Alpine", "upper-case"),
            ("a//b", "empty"),
            ("/a", "empty"),
            ("a/", "empty"),
            (":1", "empty"),
            ("a:", "tag"),
            ("a:-x", "tag"),
            ("a:b:c", "may have lower-case"),
            ("h:0/a", "port"),
            ("h:70000/a", "port"),
            ("h:+5/a", "port"),
            ("-h.io/a", "host"),
            ("h..io/a", "host"),
            ("[::1/a", "no registry"),
            ("[::g]/a", "no image reference"),
            ("a---b/_c", "may have lower-case"),
            ("a..b", "may have lower-case"),
            ("ä", "may have lower-case"),
            ("a@md5:00", "none of sha256"),
            ("a@sha256:00", "64 digits"),
            ("a@sha256", "64 digits"),
            ("a@", "none of sha256"),
        ] {
            let problem = Reference::parse(text).unwrap_err();
            assert!(problem.contains(word), "{text:?}: {problem}");
        }
        let (long_name, long_tag) = ("a".repeat(256), format!("a:{}", "b".repeat(129)));
        assert!(Reference::parse(&long_name).is_err() && Reference::parse(&long_tag).is_err());
        assert!(Reference::parse(&"a".repeat(1 << 20)).unwrap_err().len() < 100);
    }

    #[test]
    fn a_registry_has_one_spelling() {
        for text in ["https://h.io/v1/", "http://H.io", "h.io", " h.io "] {
            assert_eq!(registry_key(text), "h.io");
        }
        assert_eq!(registry_key("https://index.docker.io/v1/"), "docker.io");
    }
}
