//! A slow clock that wakes the process once a period.
//!
//! The runtime's own timers wake it up to three times for one long wait, as they
//! move from coarse to fine; with hundreds of quiet steps on a node that shows.

use crate::sys::async_fd;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

/// Ticks of one period, the first after a whole one.
#[derive(Debug)]
pub struct Ticks {
    period: Duration,
    /// `None` where the kernel gave no timer: then the runtime's serves.
    timer: Option<AsyncFd<OwnedFd>>,
}

impl Ticks {
    /// Begins to tick. Must be called within the runtime.
    pub fn every(period: Duration) -> Self {
        let timer = timer(period).inspect_err(|error| tracing::debug!(%error, "no timer descriptor")).ok();
        Self { period, timer }
    }

    /// Waits for the next tick; ticks that came meanwhile count as one. May be dropped at any time.
    pub async fn tick(&self) {
        let Some(timer) = &self.timer else { return sleep(self.period).await };
        loop {
            let Ok(mut ready) = timer.readable().await else { return sleep(self.period).await };
            // Reading takes the count of ticks, and EAGAIN says that none has come.
            let ticked = nix::unistd::read(timer.get_ref(), &mut [0; 8]).is_ok();
            ready.clear_ready();
            if ticked {
                return;
            }
        }
    }
}

fn timer(period: Duration) -> io::Result<AsyncFd<OwnedFd>> {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
    timer.set(Expiration::Interval(TimeSpec::from_duration(period)), TimerSetTimeFlags::empty())?;
    async_fd::readable(timer.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[tokio::test]
    async fn it_ticks_once_a_period() {
        let ticks = Ticks::every(Duration::from_millis(30));
        let begun = Instant::now();
        ticks.tick().await;
        ticks.tick().await;
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(60) && took < Duration::from_secs(5), "{took:?}");
    }
}
