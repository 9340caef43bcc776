//! Steps without a container go to CraneSched's own supervisor, which must find all as
//! craned left it: a stand-in started by us and one started by craned itself write down
//! the same. No runtime is needed.

use crate::support::SOON;
use crate::support::init::Edit;
use crate::support::job::Job;
use crate::support::supervisor::Start;
use crane_supervisor::wire::crane::supervisor::InitSupervisorRequest;
use crane_supervisor::wire::crane::{JobType, StepType};
use prost::Message;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where CraneSched installs its own.
const DEFAULT: &str = "/usr/libexec";

/// A change of a message.
type Edition = fn(&mut InitSupervisorRequest);

/// Compiles the stand-in.
fn stand_in(job: &Job) -> PathBuf {
    let program = job.places().root.join("stand-in");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/stand_in.c");
    let done = Command::new("cc").arg(source).arg("-o").arg(&program).status().expect("a C compiler is installed");
    assert!(done.success(), "the stand-in does not compile");
    program
}

/// A batch step as craned sends it.
fn batch(job: &Job) -> InitSupervisorRequest {
    let mut init = job.facts.container_step(1, &[]);
    let spec = init.spec();
    (spec.container_meta, spec.pod_meta) = (None, None);
    spec.set_type(JobType::Batch);
    init
}

/// Shell text that makes `program` the one at the default place.
fn installed(program: &Path) -> String {
    format!(
        "mkdir -p {DEFAULT} && mount -t tmpfs tmpfs {DEFAULT} && cp {} {DEFAULT}/csupervisor && umask 027 && ulimit -c 77",
        program.display()
    )
}

/// What the stand-in wrote when it got `message`, by us or directly.
fn record(job: &Job, step: u32, program: Option<&Path>, private: String, message: &[u8]) -> Vec<u8> {
    let mut start = Start::like_craned(&job.places().root, job.id(), step);
    start.private = Some(private);
    if let Some(program) = program {
        start.program = program.into();
    }
    let mut process = start.spawn();
    process.send_raw(message);
    if program.is_some() {
        process.close_input();
    }
    assert_eq!(process.ready(SOON), Some(true), "the stand-in answers; stderr: {}", process.stderr());
    assert!(process.wait_exit(SOON).success());
    std::fs::read(job.places().root.join(format!("{}.{step}.stdout", job.id()))).unwrap()
}

/// All but the message, and but what differs by the test's own doing.
fn about_itself(record: &[u8], message: &[u8]) -> String {
    let text = String::from_utf8_lossy(&record[..record.len() - message.len()]).into_owned();
    text.lines().filter(|line| !line.starts_with("environment SETUP=")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_step_without_a_container_is_handed_over_as_craned_left_it() {
    let job = Job::without_runtime();
    let program = stand_in(&job);
    let edits: [(&str, Edition); 5] = [
        ("batch", |_| {}),
        ("interactive", |init| init.spec().set_type(JobType::Interactive)),
        ("a daemon step without a pod", |init| init.spec().set_step_type(StepType::Daemon)),
        // cbatch --pod: a script, although a pod is described.
        ("the script of a job with a pod", |init| init.spec().pod_meta = Some(Default::default())),
        ("more than any pipe holds", |init| {
            let long = "x".repeat(3 << 20);
            init.env.insert("LONG".into(), long);
        }),
    ];
    for (name, edit) in edits {
        let mut init = batch(&job);
        edit(&mut init);
        // A field nobody knows yet, at the end: it must be passed on too.
        let body = [init.encode_to_vec(), vec![0xa2, 0x38, 3, 1, 2, 3]].concat();
        let message = crane_supervisor::handshake::frame::encode(&body);
        let ours = record(&job, 1, None, installed(&program), &message);
        let craneds = record(&job, 1, Some(&program), installed(&program), &message);
        let [ours_text, craneds_text] = [&ours, &craneds].map(|bytes| about_itself(bytes, &message));
        assert_eq!(ours_text.lines().count(), craneds_text.lines().count(), "{name}");
        for (ours, craneds) in ours_text.lines().zip(craneds_text.lines()) {
            assert_eq!(ours, craneds, "{name}");
        }
        assert!(ours_text.contains("descriptor 3") && ours_text.contains("umask 27"), "{ours_text}");
        assert!(ours.ends_with(&message), "{name}: the message is not the same");
        assert!(job.supervisor_log(1).is_empty(), "a log of ours: {}", job.supervisor_log(1));
    }
}

#[test]
fn the_administrator_names_the_one_to_hand_over_to() {
    let job = Job::without_runtime();
    let program = stand_in(&job);
    let config = format!(
        "mount -t tmpfs tmpfs /etc && mkdir /etc/crane && \
         echo 'Supervisor: {{ Container: {{ ProcessSupervisor: {} }} }}' >/etc/crane/config.yaml",
        program.display()
    );
    let message = batch(&job).encode_length_delimited_to_vec();
    assert!(record(&job, 1, None, config, &message).ends_with(&message));
}

#[test]
fn without_anyone_to_hand_over_to_the_step_is_refused_with_the_reason() {
    let ours = format!("cp $1 {DEFAULT}/csupervisor");
    let cases = [
        ("missing", "true", "No such file"),
        ("not executable", "touch csupervisor", "Permission denied"),
        ("no program", "echo >csupervisor; chmod +x csupervisor", "Exec format error"),
        ("ourselves", &ours, "that is crane-supervisor itself"),
    ];
    for (name, setup, reason) in cases {
        let job = Job::without_runtime();
        let mut start = Start::like_craned(&job.places().root, job.id(), 1);
        start.private =
            Some(format!("mkdir -p {DEFAULT} && mount -t tmpfs tmpfs {DEFAULT} && (cd {DEFAULT} && {setup})"));
        let mut process = start.spawn();
        process.send(&batch(&job));
        assert_eq!(process.ready(SOON), Some(false), "{name}: stderr: {}", process.stderr());
        assert!(!process.wait_exit(SOON).success(), "{name}");
        for text in [process.stderr(), job.supervisor_log(1)] {
            assert!(text.contains(reason) && text.contains("/usr/libexec/csupervisor"), "{name}: {text}");
        }
    }
}
