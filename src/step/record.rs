//! Puts a step's final record together, and on disk beside everything else.

use crate::logs::stamp;
use crate::outcome::{Outcome, Verdict};
use crate::report::record::{self, Image, Output, Record, VERSION};
use crate::spec::{Kind, StepSpec};
use crate::step::history::History;
use crate::step::patience::KEEP_LIMIT;
use crate::step::stages::Found;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

/// What the driver knows at the end.
pub(super) struct Known<'a> {
    pub spec: &'a StepSpec,
    pub found: &'a Found,
    pub history: &'a History,
    pub outcome: Option<&'a Outcome>,
    pub verdict: Verdict,
    pub output: Option<crate::logs::copy::CopySummary>,
    pub handed_over: bool,
}

/// A record on its way to the disk.
#[derive(Debug, Default)]
pub(super) struct Writing(Option<JoinHandle<()>>);

impl Writing {
    /// Begins, once; later calls change nothing.
    pub(super) fn begin(&mut self, known: Known<'_>) {
        if self.0.is_none() {
            let path = known.spec.log_dir.record(known.spec.id);
            let record = known.record();
            self.0 = Some(spawn_blocking(move || {
                if let Err(error) = record::write(&path, &record) {
                    tracing::warn!(%error, "the step has no final record");
                }
            }));
        }
    }

    /// Waits until it is there; a disk that hangs must not hold the process.
    pub(super) async fn finish(self) {
        if let Some(writing) = self.0
            && timeout(KEEP_LIMIT, writing).await.is_err()
        {
            tracing::warn!("the disk of the log directory does not answer: the step has no final record");
        }
    }
}

impl Known<'_> {
    fn record(self) -> Record {
        let Self { spec, found, history, outcome, verdict, output, handed_over } = self;
        Record {
            version: VERSION,
            job: spec.id.job,
            step: spec.id.step,
            kind: kind(spec.kind).to_owned(),
            node: spec.node.clone(),
            uid: spec.uid,
            outcome: outcome.cloned(),
            verdict,
            phases: history.phases(Instant::now(), written),
            pod: found.pod.as_ref().map(|pod| pod.id.clone()),
            container: found.container.clone(),
            image: spec
                .container()
                .map(|work| Image { reference: work.image.reference.clone(), digest: found.image.clone() }),
            output: output.map(|copy| Output {
                written_bytes: copy.written,
                copied_bytes: copy.copied,
                dropped_bytes: copy.left + copy.removed,
                rotations: copy.rotations,
                recovered_bytes: copy.spilled.saved,
                may_be_missing: copy.spilled.missing,
                problem: copy.warning,
            }),
            usage: found.held.as_ref().and_then(|held| held.used()),
            handed_over,
        }
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Pod => "pod",
        Kind::PrimaryContainer | Kind::CommonContainer => "container",
    }
}

fn written(time: SystemTime) -> String {
    let stamp = stamp::rfc3339_micros(time.duration_since(UNIX_EPOCH).unwrap_or_default());
    String::from_utf8_lossy(&stamp).into_owned()
}
