//! The way out of a local job, the same for every end: container, pod, processes, reapers.
//!
//! Each wait has a limit, and what is still there after it is said, never hidden.

use super::{Conductor, Event, STOP_LIMIT};
use crate::layout::TempDir;
use crate::local::plan::{CONTAINER_STEP, POD_STEP};
use crate::local::{STEPS, child, grpc};
use std::time::Duration;
use tokio::time::{Instant, interval, timeout};

/// A pod step reports within seconds and leaves a slow teardown to its reaper.
const POD_END_LIMIT: Duration = Duration::from_secs(60);

/// From the last report to the end of the process.
const EXIT_LIMIT: Duration = Duration::from_secs(15);

/// What a reaper may take for what a pod step could not finish.
const REAPER_LIMIT: Duration = Duration::from_secs(60);

/// How often a reaper's progress is looked at: it is nobody's child, so nothing wakes us.
const REAPER_LOOK: Duration = Duration::from_millis(50);

impl Conductor<'_> {
    /// Ends what runs, in craned's order.
    pub async fn clean_up(&mut self) {
        self.end_container().await;
        self.end_pod().await;
        self.wait_for_processes().await;
        self.finish_for_the_dead().await;
        self.wait_for_reapers().await;
        self.finish_display().await;
    }

    /// For the ways out on which the container step has not ended: a pod goes after its containers.
    async fn end_container(&mut self) {
        if self.container.is_none() || self.finished.contains(&CONTAINER_STEP) || self.stop_asked {
            return;
        }
        match self.ask_to_stop().await {
            Ok(()) => self.wait_for_last_report(CONTAINER_STEP, STOP_LIMIT).await,
            Err(error) => self.trouble.push(error.to_string()),
        }
    }

    /// Also the way to remove what a container step that died left in the pod.
    async fn end_pod(&mut self) {
        if self.pod.is_none() || self.finished.contains(&POD_STEP) {
            return;
        }
        match grpc::shut_down(self.place.step(POD_STEP)).await {
            Ok(()) => self.wait_for_last_report(POD_STEP, POD_END_LIMIT).await,
            Err(error) => self.trouble.push(error.to_string()),
        }
    }

    async fn wait_for_last_report(&mut self, step: u32, limit: Duration) {
        let until = Instant::now() + limit;
        while !self.finished.contains(&step) {
            match self.next(until).await {
                Event::Reported(_) => {}
                Event::Interrupted(signal) => (self.say)(&format!("{signal}: already ending; cleaning up first")),
                Event::Died(dead, status) => {
                    let error = self.died(dead, status);
                    self.trouble.push(error.to_string());
                    if dead.step == step {
                        return;
                    }
                }
                Event::TooLate => {
                    let error = self.silent(step, "its end", limit);
                    return self.trouble.push(error.to_string());
                }
            }
        }
    }

    /// Ends by force who does not go by himself, as craned does with a step's processes.
    async fn wait_for_processes(&mut self) {
        for mut supervisor in [self.container.take(), self.pod.take()].into_iter().flatten() {
            let (step, pid) = (supervisor.step(), supervisor.pid());
            match timeout(EXIT_LIMIT, supervisor.ended()).await {
                Ok(Ok(_)) if self.finished.contains(&step.step) => {}
                Ok(Ok(_)) => self.dead.push(step),
                Ok(Err(error)) => self.trouble.push(format!("cannot wait for process {pid} of step {step}: {error}")),
                Err(_) => {
                    let status = supervisor.end_now().await;
                    self.trouble.push(format!("the supervisor of step {step} did not go and was killed ({status})"));
                    self.dead.push(step);
                }
            }
        }
    }

    /// Does what dead supervisors had written down as still to be undone.
    async fn finish_for_the_dead(&mut self) {
        let temp_dir = TempDir::new(&self.request.node.temp_dir);
        for step in std::mem::take(&mut self.dead) {
            let dir = temp_dir.step(step);
            if !dir.path().exists() {
                continue;
            }
            match timeout(REAPER_LIMIT, child::reap(&self.request.program, &dir)).await {
                Ok(Ok(status)) if status.success() => {}
                Ok(Ok(status)) => self.trouble.push(format!("the clean-up of step {step} failed ({status})")),
                Ok(Err(error)) => self.trouble.push(format!("cannot start the clean-up of step {step}: {error}")),
                // `wait_for_reapers` says what is left.
                Err(_) => {}
            }
        }
    }

    /// A supervisor that could not finish in time leaves the rest to a detached reaper.
    async fn wait_for_reapers(&mut self) {
        let temp_dir = TempDir::new(&self.request.node.temp_dir);
        let owed =
            || STEPS.map(|step| temp_dir.step(self.place.step(step))).into_iter().filter(|dir| dir.path().exists());
        let all_gone = async {
            let mut look = interval(REAPER_LOOK);
            while owed().next().is_some() {
                look.tick().await;
            }
        };
        if timeout(REAPER_LIMIT, all_gone).await.is_err() {
            for dir in owed() {
                self.trouble.push(format!("the clean-up recorded in {} is not done", dir.path().display()));
            }
        }
    }

    /// After the clean-up: a reader of ours that takes its time must not keep a pod alive.
    async fn finish_display(&mut self) {
        let Some(display) = self.display.take() else {
            return;
        };
        tokio::select! {
            result = display.finish() => match result {
                Ok(last_line) => self.last_line = last_line,
                Err(error) => self.trouble.push(error.to_string()),
            },
            signal = self.interrupts.next() => self.trouble.push(format!("{signal}: the rest of the output is not shown")),
        }
    }
}
