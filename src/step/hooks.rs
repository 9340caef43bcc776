//! Prologs and epilogs of a step: when they run, as whom, with what, and what follows.
//!
//! Pod steps run theirs as root, container steps as the job's user. They run in a process
//! that was forked before we gave up privileges (`sys::errand`); a step without hooks has
//! no such process. Called by the stages and at the undoing.

use crate::exit_code;
use crate::identity::user::User;
use crate::layout;
use crate::logs::line::{Ending, Record, Stream};
use crate::logs::stamp;
use crate::spec::{Kind, Secret, StepSpec, Work};
use crate::step::effects::Effects;
use crate::step::event::Failure;
use crate::step::stages::Found;
use crate::sys::errand::{Account, Done, Errand, Order};
use crate::sys::helper::SEARCH_PATH;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// How much longer than its programs an order may take.
const ANSWERING: Duration = Duration::from_secs(10);
/// An answer is the programs' output and little more.
const ANSWER_MAX: usize = 64 << 20;

/// The hooks of one step.
#[derive(Debug)]
pub struct Hooks {
    process: RefCell<Result<Errand, String>>,
    stream: Mutex<Option<UnixStream>>,
    number: Cell<u64>,
    /// The prologs' turn has come, so the epilogs' will.
    owed: Cell<bool>,
}

impl Hooks {
    /// The hooks of a step, with the process to run them in where there are any.
    pub fn new(process: Option<io::Result<Errand>>) -> Self {
        let process = process.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
        Self {
            process: RefCell::new(process.map_err(|error| error.to_string())),
            stream: Mutex::new(None),
            number: Cell::new(0),
            owed: Cell::new(false),
        }
    }

    /// Runs the prologs.
    ///
    /// # Errors
    /// 329 with the program and how it failed.
    pub async fn prologs(&self, spec: &StepSpec, user: Option<&User>) -> Result<Effects, Failure> {
        let hooks = &spec.hooks;
        let failed = |problem: String| Failure::new(exit_code::PROLOG_FAILED, format!("prolog {problem}"));
        if !hooks.any() {
            return Ok(Effects::default());
        }
        if let Some(problem) = &hooks.unusable {
            return Err(failed(problem.clone()));
        }
        self.owed.set(true);
        if hooks.prologs.is_empty() {
            return Ok(Effects::default());
        }
        tracing::info!(programs = ?hooks.prologs, "running prologs");
        let order = order(spec, user, hooks.prologs.clone(), &Effects::default());
        let order = order.map_err(|error| failed(error.to_string()))?;
        let done =
            self.run(Order { limit: hooks.prolog_limit, ..order }).await.map_err(|error| failed(error.to_string()))?;
        if let Some(problem) = done.failure {
            return Err(failed(problem));
        }
        let effects = Effects::read(&done.output);
        for problem in &effects.refused {
            tracing::warn!(problem, "a prolog's line is left out");
        }
        print(spec, &effects.prints);
        Ok(effects)
    }

    /// Runs the epilogs, once, where the prologs' turn had come; a failure is said and no more.
    async fn epilogs(&self, spec: &StepSpec, user: Option<&User>, effects: &Effects) {
        let hooks = &spec.hooks;
        if !self.owed.replace(false) || hooks.epilogs.is_empty() {
            return;
        }
        tracing::info!(programs = ?hooks.epilogs, "running epilogs");
        // craned does not wait for us at the job's end; they go on without us.
        let outcome = match order(spec, user, hooks.epilogs.clone(), effects) {
            Ok(order) => self.run(Order { limit: hooks.epilog_limit, outlives: true, ..order }).await,
            Err(error) => Err(error),
        };
        match outcome.map(|done| done.failure) {
            Ok(None) => tracing::info!("epilogs done"),
            Ok(Some(problem)) => tracing::warn!(problem, "an epilog failed"),
            Err(error) => tracing::warn!(%error, "epilogs did not run"),
        }
    }

    /// Dropped, a program that does not outlive us is ended.
    async fn run(&self, mut order: Order) -> io::Result<Done> {
        let mut stream = self.stream.lock().await;
        if stream.is_none() {
            let process = self.process.borrow();
            let errand = process.as_ref().map_err(|problem| io::Error::other(problem.clone()))?;
            let socket = errand.socket.try_clone()?;
            socket.set_nonblocking(true)?;
            *stream = Some(UnixStream::from_std(socket)?);
        }
        let Some(stream) = stream.as_mut() else { return Err(io::ErrorKind::NotConnected.into()) };
        order.number = self.number.get().wrapping_add(1);
        self.number.set(order.number);
        let limit = order.limit.saturating_add(ANSWERING);
        let mut interest = Interest { stream, state: Asked::Partly };
        let asked = timeout(limit, ask(&mut interest, &order)).await;
        asked.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// The epilogs of a step, as work of its own.
pub fn at_end(hooks: &Rc<Hooks>, spec: &Rc<StepSpec>, found: &Found) -> impl Future<Output = ()> + use<> {
    let (hooks, spec) = (Rc::clone(hooks), Rc::clone(spec));
    let (user, effects) = (found.user.clone(), Rc::clone(&found.effects));
    async move { hooks.epilogs(&spec, user.as_ref(), &effects).await }
}

/// How much of an order is on its way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Partly,
    Wholly,
    Answered,
}

/// Says, when it is dropped too early, that nobody waits any more.
struct Interest<'a> {
    stream: &'a mut UnixStream,
    state: Asked,
}

impl Drop for Interest<'_> {
    fn drop(&mut self) {
        match self.state {
            Asked::Answered => {}
            // An empty order; the socket has room for it.
            Asked::Wholly => drop(self.stream.try_write(&0u32.to_le_bytes())),
            // Half an order would be taken for the beginning of the next.
            Asked::Partly => drop(nix::sys::socket::shutdown(
                std::os::fd::AsRawFd::as_raw_fd(self.stream),
                nix::sys::socket::Shutdown::Both,
            )),
        }
    }
}

async fn ask(interest: &mut Interest<'_>, order: &Order) -> io::Result<Done> {
    let bytes = serde_json::to_vec(order)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    interest.stream.write_all(&length.to_le_bytes()).await?;
    interest.stream.write_all(&bytes).await?;
    drop(bytes);
    interest.state = Asked::Wholly;
    loop {
        let length = usize::try_from(interest.stream.read_u32_le().await?).map_err(io::Error::other)?;
        if length > ANSWER_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut answer = vec![0; length];
        interest.stream.read_exact(&mut answer).await?;
        let done: Done = serde_json::from_slice(&answer)?;
        // Another's is the answer to an order that was given up.
        if done.number == order.number {
            interest.state = Asked::Answered;
            return Ok(done);
        }
    }
}

/// As whom, and where. No way of not knowing the job's user leads to root.
fn account(spec: &StepSpec, user: Option<&User>) -> io::Result<(Option<Account>, PathBuf)> {
    match (spec.kind, &spec.work, user) {
        (Kind::Pod, _, _) => Ok((None, PathBuf::from("/"))),
        (Kind::PrimaryContainer | Kind::CommonContainer, Ok(Work::Container(work)), Some(user)) => {
            let account = Account { uid: user.uid, gid: user.gid, groups: user.groups.clone() };
            Ok((Some(account), work.cwd.clone()))
        }
        (Kind::PrimaryContainer | Kind::CommonContainer, _, _) => Err(io::Error::other("the job's user is not known")),
    }
}

fn order(spec: &StepSpec, user: Option<&User>, programs: Vec<PathBuf>, effects: &Effects) -> io::Result<Order> {
    let mut environment = environment(spec, user, effects);
    environment.entry("PATH".to_owned()).or_insert_with(|| SEARCH_PATH.to_owned());
    let (account, directory) = account(spec, user)?;
    let group = spec.cgroup.strip_prefix("/sys/fs/cgroup").map(str::to_owned);
    // Root's are no part of the job: its limits and its end must not reach them.
    let group = group.filter(|_| account.is_some());
    let (number, limit, outlives) = (0, Duration::ZERO, false);
    let max_output = spec.hooks.max_output;
    Ok(Order { number, programs, account, environment, directory, limit, max_output, outlives, group })
}

fn environment(spec: &StepSpec, user: Option<&User>, effects: &Effects) -> BTreeMap<String, String> {
    match spec.kind {
        Kind::Pod => spec.hooks.root_env.clone(),
        Kind::PrimaryContainer | Kind::CommonContainer => {
            let mut env = spec.env.clone();
            effects.apply(&mut env);
            let own = user.map(|user| [("HOME", &user.home), ("SHELL", &user.shell), ("USER", &user.name)]);
            for (key, value) in own.into_iter().flatten() {
                env.entry(key.to_owned()).or_insert_with(|| Secret::new(value));
            }
            // What execve(2) does not take would keep all of them from running.
            let usable = |key: &str, value: &str| crate::spec::check_variable(key, value).is_ok();
            env.into_iter()
                .filter(|(key, value)| usable(key, value.reveal()))
                .map(|(key, value)| (key, value.reveal().to_owned()))
                .collect()
        }
    }
}

/// The lines come before the container's own: the runtime appends to the file.
fn print(spec: &StepSpec, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    match spec.kind {
        Kind::Pod => lines.iter().for_each(|line| tracing::info!(line, "a prolog prints")),
        Kind::PrimaryContainer | Kind::CommonContainer => {
            let file = spec.log_dir.container_log(spec.id);
            if let Err(error) = append(&file, lines) {
                tracing::warn!(%error, file = layout::container_log_name(spec.id), "a prolog's lines are lost");
            }
        }
    }
}

fn append(file: &Path, lines: &[String]) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = stamp::rfc3339_micros(now);
    let mut bytes = Vec::new();
    for line in lines {
        let record =
            Record { time: &time, stream: Stream::Stdout, ending: Ending::Full, tags: &[], text: line.as_bytes() };
        record.write_to(&mut bytes);
    }
    OpenOptions::new().append(true).open(file)?.write_all(&bytes)
}
