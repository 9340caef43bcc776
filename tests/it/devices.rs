//! CDI devices on real runtimes: there, or the step fails with its reason.

use crate::support::init::Edit;
use crate::support::job::Job;
use crate::support::runtime::{Runtime, on_each};
use crane_supervisor::wire::crane::{JobStatus, StepStatusChangeRequest};
use std::path::Path;

/// Describes one device, which is a variable, where the testbed's runtime looks.
fn describe(runtime: &Runtime) {
    let testbed = std::env::var("CRANE_TESTBED_DIR").expect("run scripts/test");
    let file = Path::new(&testbed).join(runtime.name()).join("cdi/crane-test.json");
    let text = r#"{ "cdiVersion": "0.5.0", "kind": "crane.test/dev",
        "devices": [ { "name": "one", "containerEdits": { "env": [ "CDI_DEVICE=here" ] } } ] }"#;
    std::fs::write(file, text).unwrap();
}

fn run_with(job: &Job, device: &str) -> StepStatusChangeRequest {
    job.run_with(&["sh", "-c", "echo [$CDI_DEVICE]"], |init| init.container().cdi_devices = vec![device.into()])
}

#[test]
fn a_device_is_in_the_container_or_nothing_runs() {
    on_each(|runtime| {
        describe(runtime);
        let job = Job::on(runtime);
        let report = run_with(&job, "crane.test/dev=one");
        if runtime.name() == "containerd-1.6" {
            assert_eq!((report.final_status(), report.exit_code), (JobStatus::Failed, 323));
            assert!(report.reason.contains("knows no CDI"), "{}", report.reason);
        } else {
            assert_eq!(report.final_status(), JobStatus::Completed, "{}", report.reason);
            assert_eq!(job.output(1, "stdout"), "[here]\n");
        }
    });
}

#[test]
fn an_unknown_device_is_named() {
    on_each(|runtime| {
        for (device, why) in [("crane.test/dev=none", "crane.test/dev=none"), ("none", "is not vendor/class=device")] {
            let report = run_with(&Job::on(runtime), device);
            assert_eq!((report.final_status(), report.exit_code), (JobStatus::Failed, 323), "{}", report.reason);
            assert!(report.reason.contains(why), "{}", report.reason);
        }
    });
}
