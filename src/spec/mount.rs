//! Host directories and files a container asks for.
//!
//! Pure: what is at a source is found out later, as the user.

use super::Rejection;
use crate::wire::crane::supervisor::InitSupervisorRequest;
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

const FIELD: &str = "container_meta.mounts";
/// Far more than anyone needs; each costs the node a mount.
const MAX: usize = 128;
/// PATH_MAX, its NUL included (path_resolution(7)).
const PATH_MAX: usize = 4096;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    /// On the node, absolute.
    pub source: PathBuf,
    /// In the container: absolute, without `.`, `..`, doubled or trailing slashes.
    pub target: PathBuf,
    /// Not to be written through.
    pub read_only: bool,
}

/// The administrator's bindfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindfsSpec {
    /// `BindfsBinary`: a path, or a name in the system's directories.
    pub program: String,
    /// `FusermountBinary`, likewise.
    pub fusermount: String,
    /// `MountBaseDir`, absolute.
    pub base: PathBuf,
}

/// Reads `container_config.bindfs`; a relative MountBaseDir is below CraneBaseDir.
pub(super) fn bindfs(init: &InitSupervisorRequest) -> Result<Option<BindfsSpec>, Rejection> {
    const FIELD: &str = "container_config.bindfs";
    let Some(config) = init.container_config.as_ref().and_then(|config| config.bindfs.as_ref()) else {
        return Ok(None);
    };
    let or = |text: &str, otherwise: &str| if text.is_empty() { otherwise.to_owned() } else { text.to_owned() };
    let texts = [&config.bindfs_binary, &config.fusermount_binary, &config.mount_base_dir];
    if texts.iter().any(|text| text.contains('\0')) {
        return Err(Rejection::new(FIELD, "holds NUL"));
    }
    let base = Path::new(&init.crane_base_dir).join(or(&config.mount_base_dir, "/mnt/crane"));
    if base.components().any(|part| part == Component::ParentDir) {
        return Err(Rejection::new(FIELD, format!("mount_base_dir {:?} holds '..'", config.mount_base_dir)));
    }
    Ok(Some(BindfsSpec {
        program: or(&config.bindfs_binary, "bindfs"),
        fusermount: or(&config.fusermount_binary, "fusermount3"),
        base,
    }))
}

/// Reads `mounts`; parents come before what is mounted inside them.
pub(super) fn read(mounts: &HashMap<String, String>, cwd: &Path) -> Result<Vec<MountSpec>, Rejection> {
    if mounts.len() > MAX {
        return Err(Rejection::new(FIELD, format!("{} mounts; {MAX} are the limit", mounts.len())));
    }
    let mut read = mounts.iter().map(|(host, inside)| mount(host, inside, cwd)).collect::<Result<Vec<_>, _>>()?;
    read.sort_by(|a, b| a.target.cmp(&b.target));
    match read.windows(2).find(|pair| pair[0].target == pair[1].target) {
        None => Ok(read),
        Some(pair) => Err(Rejection::new(
            FIELD,
            format!(
                "{} and {} are both to be mounted at {}",
                pair[0].source.display(),
                pair[1].source.display(),
                pair[0].target.display()
            ),
        )),
    }
}

fn mount(host: &str, inside: &str, cwd: &Path) -> Result<MountSpec, Rejection> {
    let (target, read_only) = match inside.strip_suffix(":ro") {
        Some(path) => (path, true),
        None => (inside.strip_suffix(":rw").unwrap_or(inside), false),
    };
    Ok(MountSpec { source: source(host, cwd)?, target: target_path(target)?, read_only })
}

fn source(host: &str, cwd: &Path) -> Result<PathBuf, Rejection> {
    let wrong = |problem: &str| Err(Rejection::new(FIELD, format!("source {host:?} {problem}")));
    match Path::new(host) {
        _ if host.is_empty() => wrong("is empty"),
        _ if host.contains('\0') => wrong("holds NUL"),
        _ if host.len() >= PATH_MAX => wrong("is longer than a path may be"),
        path if path.components().any(|part| part == Component::ParentDir) => {
            wrong("holds '..': write the path without it")
        }
        path => Ok(cwd.join(path)),
    }
}

fn target_path(inside: &str) -> Result<PathBuf, Rejection> {
    let wrong = |problem: &str| Err(Rejection::new(FIELD, format!("container path {inside:?} {problem}")));
    let path = Path::new(inside);
    if inside.contains('\0') || inside.len() >= PATH_MAX {
        return wrong("holds NUL or is longer than a path may be");
    }
    if !path.is_absolute() {
        return wrong("is not absolute");
    }
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => return wrong("holds '..': write the path without it"),
            Component::CurDir | Component::Prefix(_) => {}
            Component::RootDir | Component::Normal(_) => plain.push(part),
        }
    }
    if plain == Path::new("/") {
        return wrong("would hide the whole image");
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_one(host: &str, inside: &str) -> Result<MountSpec, String> {
        let mounts = HashMap::from([(host.to_owned(), inside.to_owned())]);
        read(&mounts, Path::new("/work")).map(|mut read| read.remove(0)).map_err(|rejection| rejection.reason)
    }

    #[test]
    fn a_relative_source_is_below_the_working_directory() {
        let spec = |source: &str, target: &str, read_only| MountSpec {
            source: source.into(),
            target: target.into(),
            read_only,
        };
        assert_eq!(read_one("in", "/data"), Ok(spec("/work/in", "/data", false)));
        assert_eq!(read_one("/in", "//data/./x/:ro"), Ok(spec("/in", "/data/x", true)));
        assert_eq!(read_one("/in", "/data:rw"), Ok(spec("/in", "/data", false)));
        assert_eq!(read_one("/in", "/da:ta"), Ok(spec("/in", "/da:ta", false)));
    }

    #[test]
    fn what_cannot_be_mounted_has_its_own_words() {
        for (host, inside, word) in [
            ("", "/data", "is empty"),
            ("/a/../b", "/data", "holds '..'"),
            ("../b", "/data", "holds '..'"),
            ("/a", "data", "is not absolute"),
            ("/a", "", "is not absolute"),
            ("/a", ":ro", "is not absolute"),
            ("/a", "/", "would hide the whole image"),
            ("/a", "//.:ro", "would hide the whole image"),
            ("/a", "/x/../y", "holds '..'"),
            ("/a\0", "/x", "holds NUL"),
        ] {
            let reason = read_one(host, inside).unwrap_err();
            assert!(reason.starts_with(FIELD) && reason.contains(word), "{host:?} {inside:?}: {reason}");
        }
    }

    #[test]
    fn a_target_is_taken_once_and_parents_come_first() {
        let mounts = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(host, inside)| ((*host).to_owned(), (*inside).to_owned()));
            read(&pairs.collect(), Path::new("/w"))
        };
        let twice = mounts(&[("/a", "/data"), ("/b", "/data/")]).unwrap_err().reason;
        assert!(twice.contains("both to be mounted at /data"), "{twice}");
        let sorted = mounts(&[("/b", "/data/in"), ("/a", "/data")]).unwrap();
        assert_eq!(sorted[0].target, Path::new("/data"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(host in ".{0,40}", inside in ".{0,40}") {
            if let Ok(spec) = read_one(&host, &inside) {
                prop_assert!(spec.source.is_absolute() && spec.target.is_absolute());
                prop_assert!(spec.target.components().all(|part| part != Component::ParentDir));
            }
        }
    }
}
