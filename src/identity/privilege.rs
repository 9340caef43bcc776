//! What a container without a user namespace may keep of root's privileges: nothing, or
//! what the node's administrator wrote down. Never what a user asks for. And how much of
//! its output is kept.
//!
//! Runs in the look-up's helper, so that no supervisor carries a YAML parser's memory.

use crate::config::{Config, size};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The capabilities of `Supervisor: Container: Capabilities:`, and what is wrong with them.
///
/// A node without the file keeps none. The file must be root's alone to write: what is in
/// it is given to containers.
pub fn kept(path: &Path) -> (Vec<String>, Option<String>) {
    match read(path) {
        Ok(names) => (names, None),
        Err(problem) => (Vec::new(), Some(format!("Supervisor.Container.Capabilities is not honoured: {problem}"))),
    }
}

/// The bytes of `Supervisor: Container: MaxUserLogSize:`, and what is wrong with them; a node without has no limit.
pub fn output_cap(path: &Path) -> (Option<u64>, Option<String>) {
    if !path.exists() {
        return (None, None);
    }
    let read = || -> Result<Option<u64>, String> {
        let (config, _notes) = Config::read(path).map_err(|error| error.to_string())?;
        let text = config.supervisor.container.max_user_log_size;
        text.as_deref().map(size::parse).transpose().map_err(|error| error.to_string())
    };
    match read() {
        Ok(cap) => (cap.filter(|cap| *cap > 0), None),
        Err(problem) => (None, Some(format!("Supervisor.Container.MaxUserLogSize is not honoured: {problem}"))),
    }
}

fn read(path: &Path) -> Result<Vec<String>, String> {
    let meta = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        meta => meta.map_err(|error| format!("cannot look at {}: {error}", path.display()))?,
    };
    let (config, _notes) = Config::read(path).map_err(|error| error.to_string())?;
    let names = config.supervisor.container.capabilities;
    if !names.is_empty() && (meta.uid() != 0 || meta.mode() & 0o022 != 0) {
        return Err(format!("{} can be written by others than root", path.display()));
    }
    names.iter().map(|name| known(name)).collect()
}

/// In CRI's spelling, without CAP_; ALL is refused, as it would be every future one too.
fn known(name: &str) -> Result<String, String> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    match format!("CAP_{short}").parse::<caps::Capability>() {
        Ok(_) => Ok(short.to_owned()),
        Err(_) => Err(format!("{name:?} is no capability of capabilities(7)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    fn file(name: &str, text: &str, mode: u32) -> PathBuf {
        let path = std::env::temp_dir().join(format!("privilege-{name}-{}", std::process::id()));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_cap_is_read_and_a_bad_one_is_none_and_said() {
        for (text, cap, said) in [
            ("Supervisor: {Container: {MaxUserLogSize: 2M}}", Some(2 << 20), false),
            ("Supervisor: {}", None, false),
            ("Supervisor: {Container: {MaxUserLogSize: much}}", None, true),
        ] {
            let path = file("cap", text, 0o644);
            let (found, problem) = output_cap(&path);
            assert_eq!((found, problem.is_some()), (cap, said), "{text}: {problem:?}");
        }
        assert_eq!(output_cap(Path::new("/no/such/file")), (None, None));
    }

    #[test]
    fn only_the_administrator_gives_and_only_what_there_is() {
        let text = "Supervisor:\n  Container:\n    Capabilities: [CAP_SYS_PTRACE, net_bind_service]\n";
        let good = file("good", text, 0o644);
        assert_eq!(kept(&good), (vec!["SYS_PTRACE".into(), "NET_BIND_SERVICE".into()], None));
        let open = file("open", text, 0o666);
        let all = file("all", "Supervisor: { Container: { Capabilities: [ALL] } }", 0o644);
        let odd = file("odd", "Supervisor: [", 0o644);
        for path in [&open, &all, &odd] {
            let (names, problem) = kept(path);
            assert!(names.is_empty() && problem.is_some(), "{}", path.display());
        }
        let none = file("none", "CraneBaseDir: /var/crane\n", 0o666);
        assert_eq!(kept(&none), (vec![], None));
        for path in [good, open, all, odd, none] {
            fs::remove_file(path).unwrap();
        }
        assert_eq!(kept(Path::new("/no/such/file")), (vec![], None));
    }
}
