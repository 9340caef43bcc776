//! craned's contract as a table: `tests/scenarios.yaml`. Each entry is a whole job on each
//! real runtime: a pod, one container step, what craned calls meanwhile, and every report
//! in order. What an entry can say is what the types below have; `{root}` in it is the
//! job's scratch directory, `{job}` its number, `{big}` a text of nearly 128 KiB.

use crate::support::init::Edit;
use crate::support::job::Job;
use crate::support::runtime::{Runtime, on_each};
use crate::support::supervisor::Supervisor;
use crate::support::{LONG, wait};
use crane_supervisor::wire::crane::signal::SignalFlag;
use crane_supervisor::wire::crane::supervisor::InitSupervisorRequest;
use crane_supervisor::wire::crane::supervisor::init_supervisor_request::JobLifecycleHookConfig;
use crane_supervisor::wire::crane::{JobStatus, ResourceInNodeV3, Signal, StepStatusChangeRequest, TerminateSource};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of `{big}`: with `BIG=` and a NUL the 128 KiB that execve(2) takes.
const BIG: usize = 131_072 - 5;
/// Scenarios of one runtime at once: most of their time is waiting.
const AT_ONCE: usize = 4;

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    name: String,
    /// Executable files to make below `{root}`, by name.
    #[serde(default)]
    files: BTreeMap<String, String>,
    /// `job_lifecycle_hook_config`, of both steps.
    #[serde(default)]
    hooks: Hooks,
    #[serde(default)]
    step: Step,
    #[serde(default)]
    calls: Vec<Call>,
    expect: Expect,
}

/// Paths as craned sends them.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Hooks {
    prologs: Vec<String>,
    epilogs: Vec<String>,
    task_prologs: Vec<String>,
    task_epilogs: Vec<String>,
    prolog_timeout: u32,
    epilog_timeout: u32,
    both_timeout: u32,
    max_output: u64,
}

/// Changes of the container step's message.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Step {
    /// 1 is the primary one.
    number: Option<u32>,
    /// For `sh -c`; else `command` and `args` as they are.
    script: Option<String>,
    command: Option<String>,
    args: Vec<String>,
    workdir: Option<String>,
    time_limit: Option<i64>,
    /// Seconds from now.
    deadline_in: Option<i64>,
    started_ago: Option<i64>,
    signals: Vec<Before>,
    init_env: BTreeMap<String, String>,
    step_env: BTreeMap<String, String>,
    user_env: BTreeMap<String, String>,
    slurm: bool,
    get_user_env: bool,
    cpus: Option<f64>,
    memory: Option<u64>,
    memory_and_swap: Option<u64>,
    cpu_ids: Vec<u32>,
    pull_policy: Option<String>,
    image: Option<String>,
    cdi: Vec<String>,
    task_prolog: Option<String>,
    task_epilog: Option<String>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Before {
    number: i32,
    seconds: u32,
    #[serde(default)]
    batch_only: bool,
}

/// What craned does next, or what is waited for.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Call {
    Execute,
    /// Until the container's output holds this.
    Output(String),
    /// Until a file below `{root}` is there.
    File(String),
    Terminate(String),
    /// Seconds from the step's start.
    Limit(i64),
    /// Seconds from now.
    DeadlineIn(i64),
    NoDeadline,
    Status(String),
    Env(String, String),
    /// Nothing ends within so many milliseconds.
    GoesOnFor(u64),
    /// craned must hear of the end before it does more.
    Ended,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    /// Of the container step, in order.
    #[serde(default = "usual")]
    reports: Vec<String>,
    status: String,
    code: u32,
    /// Part of the reason; a reason where this is not given is a failure.
    #[serde(default)]
    reason: String,
    /// All of stdout as the user finds it.
    output: Option<String>,
    /// Parts of stdout.
    #[serde(default)]
    contains: Vec<String>,
    /// What may not be in stdout.
    #[serde(default)]
    lacks: Vec<String>,
    /// The pod's end.
    #[serde(default = "completed")]
    pod: String,
    /// What a file below `{root}` holds at the end.
    #[serde(default)]
    files: BTreeMap<String, String>,
    /// Parts of the step's own log.
    #[serde(default)]
    log: Vec<String>,
}

fn usual() -> Vec<String> {
    ["Starting", "Completing"].map(String::from).into()
}

fn completed() -> String {
    "Completed".into()
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

#[track_caller]
fn status(name: &str) -> JobStatus {
    JobStatus::from_str_name(name).unwrap_or_else(|| panic!("{name} is no status"))
}

/// One scenario on its own job.
struct Play<'a> {
    job: &'a Job,
    scenario: &'a Scenario,
}

impl Play<'_> {
    fn text(&self, text: &str) -> String {
        let root = self.job.places().root.display().to_string();
        let big = "x".repeat(BIG);
        text.replace("{root}", &root).replace("{job}", &self.job.id().to_string()).replace("{big}", &big)
    }

    fn number(&self) -> u32 {
        self.scenario.step.number.unwrap_or(1)
    }

    fn change(&self, init: &mut InitSupervisorRequest) {
        let step = &self.scenario.step;
        init.job_lifecycle_hook_config = Some(self.hooks());
        init.spec().task_prolog = self.text(step.task_prolog.as_deref().unwrap_or_default());
        init.spec().task_epilog = self.text(step.task_epilog.as_deref().unwrap_or_default());
        if let Some(limit) = step.time_limit {
            init.time_limit(limit);
        }
        if let Some(seconds) = step.deadline_in {
            init.deadline(now() + seconds);
        }
        if let Some(ago) = step.started_ago {
            init.spec().start_time = Some(prost_types::Timestamp { seconds: now() - ago, nanos: 0 });
        }
        init.spec().signals = step.signals.iter().map(signal).collect();
        let pairs = |map: &BTreeMap<String, String>| -> Vec<_> {
            map.iter().map(|(key, value)| (key.clone(), self.text(value))).collect()
        };
        init.env.extend(pairs(&step.init_env));
        init.spec().env.extend(pairs(&step.step_env));
        init.container().env.extend(pairs(&step.user_env));
        init.enable_slurm_compatible_env = step.slurm;
        init.spec().get_user_env = step.get_user_env;
        if let Some(workdir) = &step.workdir {
            init.container().workdir = workdir.clone();
        }
        init.container().cdi_devices = step.cdi.clone();
        if let Some(policy) = &step.pull_policy {
            init.image().pull_policy = policy.clone();
        }
        if let Some(image) = &step.image {
            init.image().image = image.clone();
        }
        let share = ResourceInNodeV3 {
            cpu_count: step.cpus.unwrap_or_default(),
            memory_bytes: step.memory.unwrap_or_default(),
            memory_sw_bytes: step.memory_and_swap.unwrap_or_default(),
            cpu_ids: step.cpu_ids.clone(),
        };
        init.spec().task_res_map = [(0, share)].into();
    }

    fn hooks(&self) -> JobLifecycleHookConfig {
        let hooks = &self.scenario.hooks;
        let texts = |paths: &[String]| paths.iter().map(|path| self.text(path)).collect();
        JobLifecycleHookConfig {
            prologs: texts(&hooks.prologs),
            epilogs: texts(&hooks.epilogs),
            task_prologs: texts(&hooks.task_prologs),
            task_epilogs: texts(&hooks.task_epilogs),
            prolog_timeout: hooks.prolog_timeout,
            epilog_timeout: hooks.epilog_timeout,
            prolog_epilog_timeout: hooks.both_timeout,
            max_output_size: hooks.max_output,
        }
    }

    fn run(&self) {
        for (name, content) in &self.scenario.files {
            let path = self.job.places().root.join(name);
            std::fs::write(&path, self.text(content)).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let pod = self.job.pod_with(|init| init.job_lifecycle_hook_config = Some(self.hooks()));
        let step = &self.scenario.step;
        let script = step.script.as_ref().map(|script| self.text(script));
        let mut command: Vec<&str> = match &script {
            Some(script) => vec!["sh", "-c", script],
            // An empty command is none.
            None => vec![step.command.as_deref().unwrap_or_default()],
        };
        command.extend(step.args.iter().map(String::as_str));
        let mut process = self.job.container_with(self.number(), &command, |init| self.change(init));
        let usual = [Call::Execute];
        let calls = if self.scenario.calls.is_empty() { &usual[..] } else { &self.scenario.calls };
        for call in calls {
            self.call(call, &mut process);
        }
        let report = self.job.ended(&mut process);
        self.check(&report);
        let end = self.job.end_pod(pod);
        assert_eq!(end.final_status(), status(&self.scenario.expect.pod), "the pod: {}", end.reason);
        for (name, content) in &self.scenario.expect.files {
            let found = std::fs::read_to_string(self.job.places().root.join(name)).unwrap_or_default();
            assert_eq!(found, self.text(content), "{name}");
        }
    }

    fn call(&self, call: &Call, process: &mut Supervisor) {
        match call {
            Call::Execute => process.execute(),
            Call::Output(text) => wait::holds(&format!("{text} is printed"), LONG, || {
                String::from_utf8_lossy(&self.job.runtime_log(self.number())).contains(text.as_str())
            }),
            Call::File(name) => {
                wait::holds(&format!("{name} is there"), LONG, || self.job.places().root.join(name).exists());
            }
            Call::Terminate(source) => {
                let source = TerminateSource::from_str_name(&format!("TERMINATE_SOURCE_{source}"));
                process.terminate(source.expect("a source of craned's"));
            }
            Call::Limit(seconds) => assert!(process.client().change_time(Some(*seconds), None).unwrap()),
            Call::DeadlineIn(seconds) => {
                assert!(process.client().change_time(None, Some(now() + seconds)).unwrap());
            }
            Call::NoDeadline => assert!(process.client().change_time(None, Some(0)).unwrap()),
            Call::Status(name) => assert_eq!(process.check().status(), status(name)),
            Call::Env(key, value) => {
                let env = process.client().query_env().unwrap().env;
                assert_eq!(env.get(key), Some(&self.text(value)), "QueryEnvMap: {key}");
            }
            Call::GoesOnFor(milliseconds) => {
                let ended = process.exit_within(Duration::from_millis(*milliseconds));
                assert_eq!(ended, None, "the step goes on");
            }
            Call::Ended => {
                self.job.craned.wait_for(self.number(), JobStatus::Completing, LONG);
            }
        }
    }

    fn check(&self, report: &StepStatusChangeRequest) {
        let (expect, number) = (&self.scenario.expect, self.number());
        let reports: Vec<_> = expect.reports.iter().map(|name| status(name)).collect();
        assert_eq!(self.job.craned.statuses(number), reports, "reports");
        let told = (report.final_status(), report.exit_code);
        assert_eq!(told, (status(&expect.status), expect.code), "reason: {}", report.reason);
        assert_eq!(report.reason.is_empty(), expect.reason.is_empty(), "reason: {}", report.reason);
        assert!(report.reason.contains(&self.text(&expect.reason)), "reason: {}", report.reason);
        if expect.output.is_some() || !expect.contains.is_empty() {
            let output = self.job.output(number, "stdout");
            if let Some(whole) = &expect.output {
                assert_eq!(output, self.text(whole), "output");
            }
            for part in &expect.contains {
                assert!(output.contains(&self.text(part)), "{part} is not in the output: {output}");
            }
            for part in &expect.lacks {
                assert!(!output.contains(&self.text(part)), "{part} is in the output: {output}");
            }
        }
        let log = self.job.supervisor_log(number);
        for part in &expect.log {
            assert!(log.contains(&self.text(part)), "{part} is not in the log");
        }
    }
}

fn signal(before: &Before) -> Signal {
    let flag = if before.batch_only { SignalFlag::BatchOnly } else { SignalFlag::None };
    Signal { signal_number: before.number, signal_time: before.seconds, signal_flag: flag.into() }
}

fn play(runtime: &Runtime, scenario: &Scenario) -> Result<(), String> {
    let run = || {
        let job = Job::on(runtime);
        Play { job: &job, scenario }.run();
    };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).map_err(|why| {
        let text = why.downcast_ref::<String>().cloned();
        text.or_else(|| why.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}

#[test]
fn every_scenario_of_the_table_ends_as_it_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios.yaml");
    let table: Vec<Scenario> = serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let wanted = std::env::var("CRANE_TEST_SCENARIO").unwrap_or_default();
    let chosen: Vec<_> = table.iter().filter(|scenario| scenario.name.contains(&wanted)).collect();
    on_each(|runtime| {
        let next = std::sync::atomic::AtomicUsize::new(0);
        let failed = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    while let Some(scenario) = chosen.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                        if let Err(why) = play(runtime, scenario) {
                            failed.lock().unwrap().push(format!("{}: {why}", scenario.name));
                        }
                    }
                });
            }
        });
        let failed = failed.into_inner().unwrap();
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    });
}
