//! Whether anything comes into a runtime's image store.
//!
//! Looks at how full its file systems are and, of containerd, at what it is downloading.
//! Others write there too: that looks like progress, so a pull is never called stuck that is
//! not, and on a busy disk one that is may not be noticed. Reads sizes only.

use nix::sys::statvfs::statvfs;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// How long a file system may take to answer; longer tells nothing.
const ANSWER: Duration = Duration::from_secs(5);
/// What grows less between two looks is somebody's log.
const GROWTH: u64 = 64 * 1024;
/// Downloads looked at, at most.
const DOWNLOADS: usize = 1024;
/// containerd's downloads under way, beside its snapshots.
const INGEST: &str = "io.containerd.content.v1.content/ingest";
/// Where CRI-O puts a layer before it unpacks it.
const STAGING: &str = "/var/tmp";

/// What was there at one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Store {
    /// Bytes used of each file system.
    used: Vec<u64>,
    /// Bytes of all downloads under way, and how many.
    downloads: (u64, usize),
}

impl Store {
    /// Where to look, given where a runtime keeps images.
    pub(super) fn places(mountpoint: &str) -> Vec<PathBuf> {
        let store = Path::new(mountpoint);
        if !store.is_absolute() {
            return Vec::new();
        }
        let ingest = store.parent().map(|root| root.join(INGEST)).filter(|ingest| ingest.is_dir());
        vec![store.to_owned(), ingest.unwrap_or_else(|| STAGING.into())]
    }

    /// Whether something came since `before`.
    pub(super) fn grew_since(&self, before: &Self) -> bool {
        let grew = |(now, before): (&u64, &u64)| now.abs_diff(*before) >= GROWTH;
        self.downloads != before.downloads
            || self.used.len() != before.used.len()
            || self.used.iter().zip(&before.used).any(grew)
    }

    fn of(places: &[PathBuf]) -> Option<Self> {
        let used = places.iter().map(|place| used(place)).collect::<Option<Vec<_>>>()?;
        let ingest = places.iter().filter(|place| place.ends_with(INGEST));
        let downloads = ingest.flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten().take(DOWNLOADS));
        let sizes: Vec<u64> =
            downloads.filter_map(|entry| Some(fs::metadata(entry.path().join("data")).ok()?.len())).collect();
        Some(Self { used, downloads: (sizes.iter().sum(), sizes.len()) })
    }
}

fn used(place: &Path) -> Option<u64> {
    let space = statvfs(place).ok()?;
    // Narrower than 64 bits on some architectures.
    #[allow(clippy::useless_conversion)]
    let (blocks, free, size) =
        (u64::from(space.blocks()), u64::from(space.blocks_free()), u64::from(space.fragment_size()));
    Some(blocks.saturating_sub(free).saturating_mul(size))
}

/// Looks once, on a thread of its own; `None` where that cannot be told.
pub(super) async fn look(places: Vec<PathBuf>) -> Option<Store> {
    timeout(ANSWER, spawn_blocking(move || Store::of(&places))).await.ok()?.ok()?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(used: u64, bytes: u64, downloads: usize) -> Store {
        Store { used: vec![used, 7], downloads: (bytes, downloads) }
    }

    #[test]
    fn a_download_or_much_on_the_disk_is_progress_and_a_log_is_not() {
        let before = store(1 << 30, 100, 1);
        assert!(!before.grew_since(&before));
        assert!(!store((1 << 30) + 4096, 100, 1).grew_since(&before));
        assert!(store((1 << 30) + GROWTH, 100, 1).grew_since(&before));
        assert!(store((1 << 30) - GROWTH, 100, 1).grew_since(&before));
        assert!(store(1 << 30, 101, 1).grew_since(&before));
        assert!(store(1 << 30, 100, 2).grew_since(&before));
    }

    #[test]
    fn relative_places_are_none_and_other_runtimes_stage_elsewhere() {
        assert!(Store::places("images").is_empty() && Store::places("").is_empty());
        assert_eq!(Store::places("/no/store"), [Path::new("/no/store"), Path::new(STAGING)]);
        assert_eq!(Store::of(&["/no/store".into()]), None);
        assert!(Store::of(&["/".into()]).is_some());
    }
}
