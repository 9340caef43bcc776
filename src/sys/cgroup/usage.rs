//! What the processes of a cgroup used: CPU time, peak memory, bytes from and to disks.
//!
//! v1 and v2 say it in files of other names and forms; each is opened where it is
//! there and read while the group lives: afterwards even an open file gives ENODEV.
//! Called by `cri::oom`.

use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Of a file, at most this is looked at; `io.stat` has a line of some 100 bytes for each disk.
const ROOM: usize = 4096;

/// What was used; `None` where the kernel does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Microseconds on a CPU, user and system together.
    pub cpu_us: Option<u64>,
    /// The most memory used at a time, in bytes, page cache included.
    pub memory_peak_bytes: Option<u64>,
    /// Bytes read from block devices.
    pub io_read_bytes: Option<u64>,
    /// Bytes written to block devices.
    pub io_write_bytes: Option<u64>,
}

impl Usage {
    /// What is known now, else what was before.
    pub fn or(self, before: Self) -> Self {
        Self {
            cpu_us: self.cpu_us.or(before.cpu_us),
            memory_peak_bytes: self.memory_peak_bytes.or(before.memory_peak_bytes),
            io_read_bytes: self.io_read_bytes.or(before.io_read_bytes),
            io_write_bytes: self.io_write_bytes.or(before.io_write_bytes),
        }
    }
}

/// The files of one group, held open.
#[derive(Debug, Default)]
pub struct Meter {
    cpu: Option<File>,
    memory: Option<File>,
    io: Option<File>,
}

impl Meter {
    /// Opens what there is in the group's directories, one for each hierarchy.
    pub fn open<'a>(dirs: impl Iterator<Item = &'a Path>) -> Self {
        let mut meter = Self::default();
        meter.complete(dirs);
        meter
    }

    /// Opens what was not there before: a runtime joins one hierarchy of v1 after the other.
    pub fn complete<'a>(&mut self, dirs: impl Iterator<Item = &'a Path>) {
        for dir in dirs {
            let files = [&mut self.cpu, &mut self.memory, &mut self.io];
            if files.iter().all(|file| file.is_some()) {
                return;
            }
            // v1 has a cpu.stat too, which tells other things.
            let names = match dir.join("cgroup.controllers").exists() {
                false => ["cpuacct.usage", "memory.max_usage_in_bytes", "blkio.throttle.io_service_bytes"],
                true => ["cpu.stat", "memory.peak", "io.stat"],
            };
            for (file, name) in files.into_iter().zip(names).filter(|(file, _)| file.is_none()) {
                *file = File::open(dir.join(name)).ok();
            }
        }
    }

    /// What was used until now.
    pub fn read(&self) -> Usage {
        let text = |file: &Option<File>| {
            let (file, mut text) = (file.as_ref()?, vec![0; ROOM]);
            let length = file.read_at(&mut text, 0).ok()?;
            Some(String::from_utf8_lossy(&text[..length]).into_owned())
        };
        let io = text(&self.io);
        Usage {
            cpu_us: text(&self.cpu).and_then(|text| cpu_us(&text)),
            memory_peak_bytes: text(&self.memory).and_then(|text| text.trim().parse().ok()),
            io_read_bytes: io.as_deref().map(|text| io_bytes(text, ["Read", "rbytes"])),
            io_write_bytes: io.as_deref().map(|text| io_bytes(text, ["Write", "wbytes"])),
        }
    }
}

/// v1 has a number of nanoseconds, v2 lines of which one is `usage_usec N`.
fn cpu_us(text: &str) -> Option<u64> {
    match text.trim().parse::<u64>() {
        Ok(nanoseconds) => Some(nanoseconds / 1000),
        Err(_v2) => text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse().ok()),
    }
}

/// v1 has `8:0 Read N`, v2 `8:0 rbytes=N wbytes=N …`, a line or more for each disk.
fn io_bytes(text: &str, names: [&str; 2]) -> u64 {
    let words: Vec<&str> = text.split([' ', '\n', '=']).collect();
    let values =
        words.windows(2).filter(|pair| names.contains(&pair[0])).filter_map(|pair| pair[1].parse::<u64>().ok());
    values.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::files::scratch::Dir;
    use std::fs;

    #[test]
    fn both_forms_are_read() {
        let (v1, v2) = (Dir::new(), Dir::new());
        for (dir, name, text) in [
            (&v1, "cpuacct.usage", "1234567\n"),
            (&v1, "memory.max_usage_in_bytes", "4096\n"),
            (&v1, "blkio.throttle.io_service_bytes", "8:0 Read 10\n8:0 Write 20\n8:0 Total 30\n8:1 Read 1\nTotal 31\n"),
            (&v1, "cpu.stat", "nr_periods 0\n"),
            (&v2, "cgroup.controllers", ""),
            (&v2, "cpu.stat", "usage_usec 1234\nuser_usec 1000\n"),
            (&v2, "memory.peak", "4096\n"),
            (&v2, "io.stat", "8:0 rbytes=10 wbytes=20 rios=1\n8:1 rbytes=1 wbytes=0 rios=1\n"),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        for dir in [v1, v2] {
            let wanted = Usage {
                cpu_us: Some(1234),
                memory_peak_bytes: Some(4096),
                io_read_bytes: Some(11),
                io_write_bytes: Some(20),
            };
            assert_eq!(Meter::open([dir.path()].into_iter()).read(), wanted);
        }
        let nothing = Meter::open([Path::new("/no/such")].into_iter()).read();
        assert_eq!((nothing, nothing.or(Usage { cpu_us: Some(1), ..nothing }).cpu_us), (Usage::default(), Some(1)));
    }
}
