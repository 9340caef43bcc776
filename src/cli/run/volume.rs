//! `-v`: a host path in the container, `HOST:CONTAINER[:ro|:rw]`.
//!
//! Pure. Whether the host path exists, and whether the job's user may have it,
//! is for the supervisor: it looks as that user.

use crate::local::plan::Mount;

/// A text that is no mount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// One part only.
    #[error("there is no colon in it: expected HOST:CONTAINER[:ro|:rw]")]
    NoColon,
    /// A path that is not there.
    #[error("the {0} path is empty: expected HOST:CONTAINER[:ro|:rw]")]
    Empty(&'static str),
    /// A container has no working directory to start from.
    #[error("the container path {0:?} is not absolute: it must begin with /")]
    Relative(String),
    /// Something after the container path.
    #[error("{0:?} after the container path is neither ro nor rw")]
    Mode(String),
}

/// Reads the value of `-v`; a path with a colon in it cannot be written.
pub fn parse(text: &str) -> Result<Mount, VolumeError> {
    let (host, rest) = text.split_once(':').ok_or(VolumeError::NoColon)?;
    let (path, mode) = match rest.split_once(':') {
        Some((path, mode)) => (path, Some(mode)),
        None => (rest, None),
    };
    for (name, path) in [("host", host), ("container", path)] {
        if path.is_empty() {
            return Err(VolumeError::Empty(name));
        }
    }
    if !path.starts_with('/') {
        return Err(VolumeError::Relative(path.to_owned()));
    }
    match mode {
        None | Some("ro" | "rw") => Ok(Mount { host: host.to_owned(), container: rest.to_owned() }),
        Some(mode) => Err(VolumeError::Mode(mode.to_owned())),
    }
}

/// The first host path that stands in `mounts` twice: craned's message has room for one container path each.
pub fn repeated(mounts: &[Mount]) -> Option<&str> {
    let before = |index: usize, host: &str| mounts[..index].iter().any(|mount| mount.host == host);
    mounts.iter().enumerate().find(|(index, mount)| before(*index, &mount.host)).map(|(_, mount)| mount.host.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mount(host: &str, container: &str) -> Mount {
        Mount { host: host.into(), container: container.into() }
    }

    #[test]
    fn every_form_of_a_mount_reads() {
        assert_eq!(parse("/srv/a:/data"), Ok(mount("/srv/a", "/data")));
        assert_eq!(parse("a b/c:/data:ro"), Ok(mount("a b/c", "/data:ro")));
        assert_eq!(parse(".:/x:rw"), Ok(mount(".", "/x:rw")));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, error) in [
            ("", VolumeError::NoColon),
            ("/srv", VolumeError::NoColon),
            (":/data", VolumeError::Empty("host")),
            ("/srv:", VolumeError::Empty("container")),
            ("/srv::ro", VolumeError::Empty("container")),
            ("/srv:data", VolumeError::Relative("data".into())),
            ("/srv:ro", VolumeError::Relative("ro".into())),
            ("/srv:/data:", VolumeError::Mode(String::new())),
            ("/srv:/data:z", VolumeError::Mode("z".into())),
            ("/srv:/data:RO", VolumeError::Mode("RO".into())),
            ("/srv:/data:ro:x", VolumeError::Mode("ro:x".into())),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_host_path_stands_once() {
        let mounts = [mount("/a", "/x"), mount("/b", "/x"), mount("/a", "/y:ro")];
        assert_eq!(repeated(&mounts), Some("/a"));
        assert_eq!(repeated(&mounts[..2]), None);
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "[/a:ro]{0,16}|.{0,8}") {
            if let Ok(mount) = parse(&text) {
                prop_assert_eq!(format!("{}:{}", mount.host, mount.container), text);
            }
        }
    }
}
