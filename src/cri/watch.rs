//! Learning a container's end.
//!
//! The end of the init we hold is a hint; ContainerStatus is asked then, and
//! slowly in between. No event stream is needed.

use crate::cri::api::{ContainerState, ContainerStatusResponse};
use crate::cri::client::{Client, Detail};
use crate::cri::error::Class;
use crate::cri::start::{Held, end, hold, pid_of, state};
use crate::cri::witness::{Certainty, RuntimeWord, judge};
use crate::outcome::{End, Outcome};
use crate::sys::pidfd::Process;
use crate::sys::ticks::Ticks;
use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// How often the runtime is asked although nothing hints at an end.
const SLOW: Duration = Duration::from_secs(180);
/// The same without a process to hold.
const BLIND: Duration = Duration::from_secs(1);
/// First and longest wait between two questions once the process has ended.
const EAGER: (Duration, Duration) = (Duration::from_millis(3), Duration::from_secs(1));
/// What a healthy runtime needs at most to notice an end; asked at full speed so long.
const HEALTHY: Duration = Duration::from_millis(500);
/// How long a runtime may take to kill a container whose shim died, before we do.
const ORPHANED: Duration = Duration::from_secs(5);
/// How long the runtime may take to notice an end the kernel has told us.
const RUNTIME_WORD_LIMIT: Duration = Duration::from_secs(30);

/// When the runtime is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstLook {
    /// When something hints at an end.
    OnHint,
    /// At once.
    Now,
}

/// Waits for the container's end and says how it ended.
pub async fn until_end(client: &Client, held: &Held, first: FirstLook) -> Outcome {
    let watcher = Watcher { client, held, turns: Ticks::every(SLOW), is_gone: Cell::new(false) };
    // What was seen while it started may not be its init; what the runtime names is.
    watcher.correct().await;
    let mut first = first;
    loop {
        if first == FirstLook::OnHint {
            watcher.hint().await;
        }
        first = FirstLook::OnHint;
        if let Some(outcome) = watcher.ask().await {
            return outcome;
        }
    }
}

struct Watcher<'a> {
    client: &'a Client,
    held: &'a Held,
    /// When to ask although nothing hints at an end.
    turns: Ticks,
    /// The process that the runtime names is not there (any more).
    is_gone: Cell<bool>,
}

/// What one answer of the runtime means.
enum Answer {
    Ended(RuntimeWord),
    Runs,
    Away,
}

impl Watcher<'_> {
    /// Waits for something that makes asking worthwhile.
    async fn hint(&self) {
        let Some((process, _)) = self.held.init() else {
            sleep(BLIND).await;
            return;
        };
        tokio::select! {
            result = process.ended() => {
                // Before anything else: the runtime is about to remove the cgroup that counts.
                self.held.count();
                if let Err(error) = result {
                    tracing::warn!(%error, pid = process.pid, "cannot watch the container's init; asking the runtime instead");
                    sleep(BLIND).await;
                }
            }
            () = self.turns.tick() => {}
        }
    }

    /// Asks until the runtime knows what the kernel already told; `None`: it still runs.
    async fn ask(&self) -> Option<Outcome> {
        let begun = Instant::now();
        let mut pause = EAGER.0;
        let mut answering = Answering::default();
        loop {
            let runs = match self.look().await {
                Ok(Answer::Ended(word)) if self.outlives(&word).await => return Some(outlived(&word)),
                Ok(Answer::Ended(word)) => return Some(self.judge(end(self.held), Some(&word))),
                Ok(Answer::Runs) if self.corrected().await => return None,
                Ok(Answer::Runs) => true,
                // Its end will wake us, whenever the runtime is back.
                Ok(Answer::Away) if self.held.init().is_some() && !self.has_ended() => return None,
                Ok(Answer::Away) => false,
                Err(Gone) => return Some(self.judge(end(self.held), None)),
            };
            answering.note(runs, Instant::now());
            if begun.elapsed() > RUNTIME_WORD_LIMIT {
                match end(self.held) {
                    Some(known @ (_, Certainty::Named)) => {
                        tracing::warn!("the runtime does not know of the container's end; the kernel's word counts");
                        return Some(self.judge(Some(known), None));
                    }
                    // A runtime that will not notice, and an old kernel or an init that nobody held: nobody
                    // can tell. What was only seen may not have been the init: that one may run.
                    _ if runs
                        && answering.time > RUNTIME_WORD_LIMIT
                        && (self.held.has_ended() || self.is_gone.get()) =>
                    {
                        return Some(self.judge(None, None));
                    }
                    Some(_) | None => {}
                }
            }
            sleep(pause).await;
            pause = if begun.elapsed() < HEALTHY { pause } else { (pause * 2).min(EAGER.1) };
        }
    }

    fn judge(&self, kernel: Option<(End, Certainty)>, runtime: Option<&RuntimeWord>) -> Outcome {
        let memory = self.held.memory();
        tracing::debug!(?kernel, runtime = ?runtime.map(|word| (word.exit_code, &word.reason)), ?memory, "container ended");
        judge(kernel, runtime, memory)
    }

    async fn look(&self) -> Result<Answer, Gone> {
        match self.client.status(&self.held.id, Detail::Brief).await {
            Ok(status) => Ok(match (state(&status), word(status)) {
                (ContainerState::ContainerExited, Some(word)) => Answer::Ended(word),
                _ => Answer::Runs,
            }),
            Err(error) if error.class() == Class::Gone => Err(Gone),
            Err(error) => {
                tracing::debug!(%error, "cannot ask the runtime for the container's end yet");
                Ok(Answer::Away)
            }
        }
    }

    /// The runtime calls a container ended whose process runs: its shim died, and with it the way
    /// to learn or end anything. Some runtimes kill the process then, others leave it alive.
    async fn outlives(&self, word: &RuntimeWord) -> bool {
        let Some((process, Certainty::Named)) = self.held.init() else { return false };
        if process.has_ended() {
            return false;
        }
        tracing::warn!(exit_code = word.exit_code, pid = process.pid, "the runtime calls the container ended; it runs");
        if timeout(ORPHANED, process.ended()).await.is_err()
            && let Err(error) = self.held.kill()
        {
            tracing::warn!(%error, "the container goes on without its runtime; its cgroup is ended with the step");
        }
        true
    }

    /// The container runs: is it right that we wait on, with a better process
    /// to hold where ours cannot be its init?
    async fn corrected(&self) -> bool {
        match self.held.init() {
            Some((process, Certainty::Named)) => !process.has_ended(),
            Some((process, Certainty::Seen)) if !process.has_ended() => true,
            Some(_) | None => self.correct().await,
        }
    }

    /// Holds the process the runtime names; tells whether it may still run.
    async fn correct(&self) -> bool {
        let status = self.client.status(&self.held.id, Detail::WithPid).await;
        let held = self.held.init();
        self.is_gone.set(false);
        let Some(named) = status.ok().as_ref().and_then(pid_of) else { return held.is_none() };
        let init = match held {
            // Seen and named: nothing could be surer.
            Some((process, _)) if process.pid == named => Some((process, Certainty::Named)),
            held => {
                // Any other error says nothing of the process.
                let gone = |error: io::Error| error.raw_os_error() == Some(libc::ESRCH);
                let init = hold(&self.held.id, named);
                self.is_gone.set(init.is_none() && Process::open(named).is_err_and(gone));
                init.or(held)
            }
        };
        // The runtime may not have noticed the end of the one it names.
        let runs = init.as_ref().map_or(!self.is_gone.get(), |(process, _)| !process.has_ended());
        self.held.replace(init);
        runs
    }

    /// Whether the process is gone, also on kernels that cannot say how it ended.
    fn has_ended(&self) -> bool {
        self.held.init().is_some_and(|(process, _)| process.has_ended())
    }
}

/// How long a runtime had to notice an end: one that was away has just come back, and knows no more
/// than it did before.
#[derive(Default)]
struct Answering {
    /// Between answers that followed one another.
    time: Duration,
    last: Option<Instant>,
}

impl Answering {
    fn note(&mut self, answers: bool, now: Instant) {
        if let (true, Some(last)) = (answers, self.last) {
            self.time += now.saturating_duration_since(last);
        }
        self.last = answers.then_some(now);
    }
}

fn outlived(word: &RuntimeWord) -> Outcome {
    Outcome::Lost {
        reason: format!(
            "the runtime lost the container while it ran (it says {} {:?}; did its shim die?), so it was ended",
            word.exit_code, word.reason
        ),
    }
}

/// The runtime does not know the container any more.
struct Gone;

fn word(status: ContainerStatusResponse) -> Option<RuntimeWord> {
    let status = status.status?;
    Some(RuntimeWord { exit_code: status.exit_code, reason: status.reason, message: status.message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_away_is_no_time_to_notice_an_end() {
        let begun = Instant::now();
        let mut answering = Answering::default();
        for (second, answers, wanted) in
            [(0, true, 0), (20, true, 20), (21, false, 20), (60, false, 20), (70, true, 20), (75, true, 25)]
        {
            answering.note(answers, begun + Duration::from_secs(second));
            assert_eq!(answering.time, Duration::from_secs(wanted), "after {second} s");
        }
    }
}
