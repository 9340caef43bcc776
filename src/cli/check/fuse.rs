//! bindfs and what it needs.

use crate::cli::check::kernel::knows_file_system;
use crate::cli::check::line::{LIMIT, Level, Line, fail, ok, warn, within};
use crate::cli::check::places;
use crate::config::Config;
use crate::mounts::bindfs::find_program;
use crate::sys::helper;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// A version is one line.
const SAID_MAX: u64 = 4096;
const DEVICE: &str = "/dev/fuse";

/// All of it: failures where `BindFs` is on, else only warnings.
pub async fn look(config: &Config) -> Vec<Line> {
    let section = &config.container.bind_fs;
    let mut lines = vec![
        program("BindfsBinary", &section.bindfs_binary, "apt install bindfs").await,
        program("FusermountBinary", &section.fusermount_binary, "apt install fuse3").await,
        device(),
    ];
    if section.enabled {
        let remedy = "chown root and chmod 0700: bindfs mounts of jobs are in it";
        let (key, dir) = ("MountBaseDir", config.mount_base_dir());
        let what = dir.display().to_string();
        lines.extend(within(key, &what, move || vec![places::roots(key, Level::Warn, &dir, remedy)]).await);
        return lines;
    }
    for line in lines.iter_mut().filter(|line| line.level == Level::Fail) {
        line.level = Level::Warn;
        line.found.push_str(" (BindFs is off: needed only where file systems map no ids)");
    }
    lines
}

async fn program(key: &'static str, name: &str, remedy: &str) -> Line {
    let path = match find_program(key, name) {
        Ok(path) => path,
        Err(error) => {
            return fail("bindfs", error.to_string(), format!("{remedy}, or correct Container: BindFs: {key}:"));
        }
    };
    let said = match helper::start(&path, &["--version"]) {
        Ok(started) => started.output(LIMIT, SAID_MAX).await,
        Err(error) => Err(error),
    };
    match said {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            ok("bindfs", format!("{} is {}", path.display(), text.lines().next().unwrap_or_default()))
        }
        Ok(output) => warn(
            "bindfs",
            format!("{} --version ended with {}", path.display(), output.status),
            "see whether it is the right program",
        ),
        Err(error) => fail("bindfs", error.to_string(), format!("correct Container: BindFs: {key}:")),
    }
}

fn device() -> Line {
    let is_device = fs::metadata(DEVICE).is_ok_and(|found| found.file_type().is_char_device());
    match (is_device, knows_file_system("fuse")) {
        (true, true) => ok("fuse", format!("{DEVICE} is there, and the kernel has FUSE")),
        (true, false) => fail("fuse", "the kernel has no FUSE", "modprobe fuse"),
        (false, _) if Path::new(DEVICE).exists() => {
            fail("fuse", format!("{DEVICE} is no device"), "remove it; modprobe fuse")
        }
        (false, _) => fail("fuse", format!("{DEVICE} is missing"), "modprobe fuse; in a container, pass the device in"),
    }
}
