//! `--input-fd N --output-fd M`: supervise one step, as craned starts it.
//!
//! The order is the contract's: decide, then change the process, then listen,
//! then answer, then go quiet. No thread exists before the privileges are set.

use crate::cleanup::claim::{self, Claim, ClaimError};
use crate::cleanup::entry::{About, Entry};
use crate::cleanup::guardian;
use crate::cleanup::journal::JournalError;
use crate::cleanup::reaper;
use crate::cli::output;
use crate::control::service::{QUEUE, Server};
use crate::control::socket::{self, SocketError};
use crate::control::{Request, Snapshot};
use crate::cri::client::{Client, Limits};
use crate::failpoint;
use crate::handshake::{self, Answer, HandshakeError, NotTaken, Received};
use crate::identity::look_up::LookUp;
use crate::ids::StepId;
use crate::layout::{self, LogDir, StepDir, TempDir};
use crate::logs::{resume, rotation};
use crate::spec::{Kind, StepSpec};
use crate::step::driver::Driver;
use crate::step::hooks::Hooks;
use crate::step::parts::Parts;
use crate::step::patience::UNSETTLED_REAPER;
use crate::sys::errand::{self, Errand};
use crate::sys::exit_events::ExitEvents;
use crate::sys::files::FilesError;
use crate::sys::guardian::Guardian;
use crate::sys::line::{Held, Line};
use crate::sys::{cgroup, crash, fds, files, memory, pidfd, privileges, signals};
use crate::telemetry::{self, Level, LogConfig, Telemetry, TelemetryError};
use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tracing::level_filters::LevelFilter;

/// A thread that copied output goes away after this long without any.
const THREAD_KEEP_ALIVE: Duration = Duration::from_millis(200);
/// Enough for the copy's buffer of 64 KiB.
const THREAD_STACK: usize = 256 * 1024;

/// A step that could not be taken.
#[derive(Debug, thiserror::Error)]
enum SuperviseError {
    #[error("cannot close foreign descriptors: {0}")]
    Descriptors(#[source] io::Error),
    #[error("cannot take over signals: {0}")]
    Signals(#[source] io::Error),
    #[error("cannot create log_dir {path}: {source}")]
    LogDir { path: String, source: io::Error },
    #[error("log_dir: {0}")]
    Log(#[from] TelemetryError),
    #[error("log_dir: {0}")]
    ContainerLog(#[from] FilesError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("cannot start the event loop: {0}")]
    Runtime(#[source] io::Error),
}

/// Everything a step holds once it is taken.
struct Taken {
    spec: StepSpec,
    claim: Claim,
    listener: UnixListener,
    early: Early,
}

/// What is had while one thread is all there is, or before privileges go.
struct Early {
    guardian: Option<Guardian>,
    line: Option<Line>,
    /// For hooks; none without any.
    errand: Option<io::Result<Errand>>,
    exits: Option<ExitEvents>,
    look_up: LookUp,
}

/// Takes the step on these descriptors and sees it to its end.
pub fn run(input: Option<i32>, output: Option<i32>) -> ExitCode {
    let answer = match Answer::claim(input, output) {
        Ok(answer) => answer,
        Err(error) => return refuse(&error, None),
    };
    let spec = match handshake::receive(input) {
        Ok(Received::Ours(spec)) => *spec,
        Ok(Received::Theirs(step, log)) => {
            // Comes back only if nobody took it.
            let error = HandshakeError::from(step.perform(&answer, std::env::args_os().collect()));
            note_refusal(&error, log);
            return refuse(&error, Some(answer));
        }
        Err(NotTaken { error, log }) => {
            note_refusal(&error, log);
            return refuse(&error, Some(answer));
        }
    };
    let (telemetry, early) = match settle(&spec, &answer) {
        Ok(settled) => settled,
        Err(error) => return refuse(&error, Some(answer)),
    };
    match take(spec, early) {
        Ok((taken, runtime)) => supervise(taken, runtime, telemetry, answer),
        Err(error) => {
            tracing::error!(%error, "step refused");
            refuse(&error, Some(answer))
        }
    }
}

fn refuse(error: &dyn std::error::Error, answer: Option<Answer>) -> ExitCode {
    output::say(&error.to_string());
    if let Some(Err(error)) = answer.map(|answer| answer.send(false)) {
        output::say(&error.to_string());
    }
    ExitCode::FAILURE
}

/// Craned's users see a refusal only as a number: the step's log says why.
fn note_refusal(error: &HandshakeError, log: Option<(LogDir, StepId)>) {
    let Some((dir, step)) = log.filter(|(dir, _)| dir.path().is_dir()) else { return };
    let config = LogConfig { path: dir.supervisor_log(step), level: Level::Info, max_bytes: 0, max_files: 0, step };
    if let Ok(_telemetry) = telemetry::start(config) {
        tracing::error!(%error, "step refused");
    }
}

/// From here on the process is a supervisor's.
fn settle(spec: &StepSpec, answer: &Answer) -> Result<(Telemetry, Early), SuperviseError> {
    fds::close_others(&mut [answer.number()]).map_err(SuperviseError::Descriptors)?;
    memory::limit_arenas();
    // With everything that we give up below.
    let errand = spec.hooks.any().then(errand::start);
    signals::drop_foreign().map_err(SuperviseError::Signals)?;
    // Needs a privilege that is given up next.
    let exits = listen_for_ends(spec);
    let unsettled = privileges::settle();
    // Its place is here: our last moment alone, the log has a thread.
    let (connected, problem) = connect(spec).map_or_else(|error| (None, Some(error)), |made| (Some(made), None));
    let (line, held) = connected.unzip();
    let guardian = guardian::start(spec.id, &spec.temp_dir.step(spec.id), held);
    failpoint::pass(|| "guardian started".into());
    // A name service takes its time: it may, while we get ready and craned comes to ExecuteStep.
    let look_up = LookUp::begin(spec.uid, &spec.gids, spec.subids());
    let telemetry = open_log(spec)?;
    for problem in unsettled {
        tracing::warn!(%problem, "going on without");
    }
    if let Err(error) = &guardian {
        tracing::warn!(%error, "no guardian: killed, this process would leave its clean-up to others");
    }
    if let Some(error) = problem {
        tracing::debug!(%error, "no connection to the runtime yet; killed, this process would cut off what the runtime makes");
    }
    let exits = exits.unwrap_or_else(|error| {
        tracing::warn!(%error, "this kernel (before 6.15) will not tell how the container ends; only the runtime can");
        None
    });
    Ok((telemetry, Early { guardian: guardian.ok(), line, exits, errand, look_up }))
}

/// What something is made over. Without one, killed in the middle of it we cut it off.
fn connect(spec: &StepSpec) -> io::Result<(Line, Held)> {
    let line = Line::open(spec.runtime.path())?;
    let held = line.held()?;
    Ok((line, held))
}

/// The second witness of an end, where pidfds are none.
fn listen_for_ends(spec: &StepSpec) -> io::Result<Option<ExitEvents>> {
    match spec.kind {
        Kind::PrimaryContainer | Kind::CommonContainer if !pidfd::tells_ends() => ExitEvents::listen().map(Some),
        Kind::Pod | Kind::PrimaryContainer | Kind::CommonContainer => Ok(None),
    }
}

fn take(spec: StepSpec, early: Early) -> Result<(Taken, Runtime), SuperviseError> {
    let log = spec.log_dir.supervisor_log(spec.id);
    failpoint::pass(|| "before claim".into());
    let about = About { uid: Some(spec.uid), image: spec.container().map(|work| work.image.reference.clone()) };
    let mut claim = Claim::take(&spec.temp_dir, spec.id, spec.runtime.path(), &log, about)?;
    let listener = match prepare_container_log(&spec, claim.dir()).and_then(|()| listen(&spec, &mut claim)) {
        Ok(listener) => listener,
        Err(error) => {
            claim.abandon();
            return Err(error);
        }
    };
    failpoint::pass(|| "listening".into());
    let runtime = event_loop().map_err(SuperviseError::Runtime)?;
    Ok((Taken { spec, claim, listener, early }, runtime))
}

fn open_log(spec: &StepSpec) -> Result<Telemetry, SuperviseError> {
    let dir = spec.log_dir.path();
    crate::cleanup::claim::make_dir(dir)
        .map_err(|source| SuperviseError::LogDir { path: dir.display().to_string(), source })?;
    let path = spec.log_dir.supervisor_log(spec.id);
    let level = level(spec.log.level);
    let config = LogConfig {
        path: path.clone(),
        level,
        max_bytes: spec.log.max_bytes,
        max_files: spec.log.max_files,
        step: spec.id,
    };
    let telemetry = telemetry::start(config)?;
    if let Err(error) = crash::install(&path, spec.id) {
        tracing::warn!(%error, "a crash may leave no note");
    }
    Ok(telemetry)
}

/// The output must be this run's and root's alone, and the file there before
/// anyone follows it: runtimes append to what they find.
fn prepare_container_log(spec: &StepSpec, dir: &StepDir) -> Result<(), SuperviseError> {
    match spec.kind {
        Kind::Pod => Ok(()),
        Kind::PrimaryContainer | Kind::CommonContainer => {
            let log = spec.log_dir.container_log(spec.id);
            resume::set_aside(&dir.copy(), &dir.copy_before());
            rotation::remove_older(&log);
            // An earlier run's would pass for ours.
            if let Err(error) = std::fs::remove_file(spec.log_dir.record(spec.id))
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "an earlier run's final record stays");
            }
            Ok(files::create_anew(&log, 0o600)?)
        }
    }
}

fn level(filter: LevelFilter) -> Level {
    match filter {
        LevelFilter::TRACE => Level::Trace,
        LevelFilter::DEBUG => Level::Debug,
        LevelFilter::INFO => Level::Info,
        LevelFilter::WARN => Level::Warn,
        LevelFilter::ERROR => Level::Error,
        _ => Level::Off,
    }
}

fn listen(spec: &StepSpec, claim: &mut Claim) -> Result<UnixListener, SuperviseError> {
    socket::check_directory(Path::new(layout::SOCKET_DIR))?;
    let path = layout::socket(spec.id);
    claim.journal.record(Entry::Socket { path: path.clone() })?;
    failpoint::pass(|| "socket named".into());
    Ok(socket::listen(&path)?)
}

fn event_loop() -> io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        // One may hang on the user's file system; the other keeps the outcome.
        .max_blocking_threads(2)
        .thread_keep_alive(THREAD_KEEP_ALIVE)
        .thread_stack_size(THREAD_STACK)
        .build()
}

fn supervise(taken: Taken, runtime: Runtime, telemetry: Telemetry, answer: Answer) -> ExitCode {
    let spec = &taken.spec;
    tracing::info!(kind = ?spec.kind, uid = spec.uid, version = env!("CARGO_PKG_VERSION"), "step taken");
    if let Err(error) = answer.send(true) {
        // Without our word craned gives the step up; holding it would leak it.
        tracing::error!(%error, "craned is gone");
        drop(socket::remove(&layout::socket(spec.id)));
        taken.claim.abandon();
        return ExitCode::FAILURE;
    }
    failpoint::pass(|| "told craned ready".into());
    if let Err(error) = fds::silence_standard() {
        tracing::warn!(%error, "cannot let go of craned's standard streams");
    }
    let volume = telemetry.volume();
    let done = runtime.block_on(async {
        drop(tokio::spawn(async move { signals::on_request(|| volume.turn()).await }));
        drive(taken).await
    });
    // A write to a hung file system must not hold the process.
    runtime.shutdown_background();
    let lost = telemetry.dropped_lines();
    if lost > 0 {
        tracing::warn!(lost, "lines of this log were lost");
    }
    drop(telemetry);
    done
}

/// After Ready and beside everything else: the kernel takes a grace period of 10 to 20 ms for a move.
fn leave_service(others: &[i32]) {
    if let Err(problem) = cgroup::leave_service() {
        tracing::warn!(%problem, "a restart of craned may end this step");
    }
    for problem in others.iter().filter_map(|pid| cgroup::take_from_service(*pid).err()) {
        tracing::warn!(%problem, "a restart of craned may end this step's guardian");
    }
}

async fn drive(taken: Taken) -> ExitCode {
    let Taken { spec, claim, listener, early: Early { guardian, line, exits, errand, look_up } } = taken;
    let hooks_pid = errand.as_ref().and_then(|errand| errand.as_ref().ok()).map(|errand| errand.pid);
    let others: Vec<i32> = guardian.as_ref().map(Guardian::pid).into_iter().chain(hooks_pid).collect();
    drop(tokio::task::spawn_blocking(move || leave_service(&others)));
    let (id, is_pod) = (spec.id, spec.kind == Kind::Pod);
    if is_pod {
        // Beside the step's own work, which must not wait for it.
        drop(tokio::spawn(reap_orphans(spec.temp_dir.clone(), id)));
    }
    let snapshot = Arc::new(Snapshot::new(id, is_pod, spec.env.clone(), user_cgroup(&spec)));
    let (sender, requests) = mpsc::channel::<Request>(QUEUE);
    let server = match Server::start(listener, &layout::socket(id), Arc::clone(&snapshot), sender) {
        Ok(server) => server,
        Err(error) => {
            tracing::error!(%error, "the control socket cannot be served");
            return ExitCode::FAILURE;
        }
    };
    let mut limits = Limits::default();
    if let Some(look) = spec.call_limit {
        limits.look = look;
        limits.away = look;
    }
    let client = Client::on(line, &spec.runtime, &spec.images, limits);
    let hooks = Hooks::new(errand);
    let making = client.clone();
    let (driver, first) = Driver::new(Parts { spec, client, claim, snapshot, requests, hooks, look_up, exits });
    let claim = driver.run(first).await;
    failpoint::pass(|| "step over".into());
    // The socket before the lock: a successor may claim the step right after.
    server.finish().await;
    let is_needless = claim.as_ref().is_some_and(Claim::is_handed_over) && !making.is_making();
    if let Some(guardian) = guardian.filter(|_| is_needless) {
        // One reaper is enough.
        guardian.dismiss();
    }
    failpoint::pass(|| "socket removed".into());
    if let Some(Err(error)) = claim.map(Claim::finish) {
        tracing::warn!(%error, "the step's directory is left over");
    }
    failpoint::pass(|| "directory removed".into());
    tracing::info!("done");
    ExitCode::SUCCESS
}

/// An earlier run of the job may have left steps that this one does not have.
async fn reap_orphans(temp: TempDir, id: StepId) {
    for dir in claim::orphans_beside(&temp, id) {
        let step = dir.path().display().to_string();
        match reaper::launch(&dir, UNSETTLED_REAPER, reaper::Begin::IfOrphaned).await {
            Ok(pid) => tracing::warn!(step, pid, "an earlier run of the job left this step; a reaper undoes it"),
            Err(error) => {
                tracing::warn!(step, %error, "an earlier run of the job left this step; crane-supervisor cleanup undoes it")
            }
        }
    }
}

/// `…/step_0/system` → `/…/step_0/user`, below the cgroup mount.
fn user_cgroup(spec: &StepSpec) -> Option<String> {
    let system = spec.cgroup.strip_prefix("/sys/fs/cgroup")?;
    let (step, _) = system.trim_end_matches('/').rsplit_once('/')?;
    Some(format!("{step}/user"))
}
