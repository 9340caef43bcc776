//! Output on real runtimes: every byte once and in order, whatever happens meanwhile.

use crate::support::job::Job;
use crate::support::runtime::on_each;
use crane_supervisor::wire::crane::supervisor::InitSupervisorRequest;

/// `count` numbered lines and the end.
fn count(lines: u32) -> String {
    format!("i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); done")
}

fn numbered(lines: u32) -> String {
    (0..lines).map(|i| format!("line {i}\n")).collect()
}

fn bounded(init: &mut InitSupervisorRequest, bytes: u64, files: u64) {
    (init.max_log_file_size, init.max_log_file_num) = (bytes, files);
}

/// The files of the container's log, in bytes, the newest first.
fn files(job: &Job) -> Vec<u64> {
    let log = job.places().logs.join(format!("{}.1.container.log", job.id()));
    let file = |n: u64| std::fs::metadata(crane_supervisor::layout::segment(&log, n)).ok();
    (0..100).map_while(file).map(|file| file.len()).collect()
}

#[test]
fn rotation_bounds_the_nodes_disk_and_loses_no_line() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let report = job.run_with(&["sh", "-c", &count(60_000)], |init| bounded(init, 200_000, 3));
        assert_eq!((report.exit_code, report.reason.as_str()), (0, ""));
        assert!(job.output(1, "stdout") == numbered(60_000), "lines differ");
        let files = files(&job);
        let total: u64 = files.iter().sum();
        assert!(files.len() <= 3 && total < 2_000_000, "{files:?}");
        assert!(job.user_log(1).len() as u64 > total, "nothing was dropped from the node: {files:?}");
    });
}
