//! What a container without a user namespace may keep of root's privileges: nothing, or
//! what the node's administrator wrote down. Never what a user asks for.
//!
//! Runs in the look-up's helper, so that no supervisor carries a YAML parser's memory.

use crate::config::Config;
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
