//! Bounded waiting: for a condition, for a process, for a descriptor.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Looks again and again until `look` finds something; `None` after `limit`.
pub fn until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        pause(Duration::from_millis(10));
    }
}

/// [`until`] for a plain condition, which fails the test when it never holds.
#[track_caller]
pub fn holds(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    assert!(until(limit, || condition().then_some(())).is_some(), "not within {limit:?}: {what}");
}

/// Lets `time` pass. Only for tests whose subject is that nothing happens in it.
pub fn pause(time: Duration) {
    let _ = poll(&mut [], Some(&timespec(time)));
}

/// True once `fd` has data, end of file or an error; false after `limit`.
pub fn readable(fd: impl AsFd, limit: Duration) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&timespec(limit))), Ok(n) if n > 0)
}

/// True once process `pid` has ended (reaped or not); false after `limit`.
pub fn process_end(pid: u32, limit: Duration) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return true;
    };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => readable(fd, limit),
        Err(_) => true,
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec::try_from(time).expect("test limits are small")
}
