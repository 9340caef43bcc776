//! Starts the real binary as craned does, and speaks to its control socket.
//!
//! bash does the last step, because only it can set `argv[0]`, ignore SIGPIPE
//! and place two descriptors without unsafe code here; the process stays the
//! same one.

use super::wait;
use crane_supervisor::wire::crane::supervisor::supervisor_client::SupervisorClient;
use crane_supervisor::wire::crane::supervisor::{
    ChangeStepTimeConstraintRequest, CheckStatusReply, CheckStatusRequest, InitSupervisorRequest,
    MigrateSshProcToCgroupRequest, QueryStepEnvReply, QueryStepEnvRequest, ReceivePmixPortRequest,
    ShutdownSupervisorRequest, StepExecutionRequest, SupervisorReady, TerminateStepReply, TerminateStepRequest,
};
use crane_supervisor::wire::crane::{ErrCode, TerminateSource};
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_crane-supervisor");

/// What the kernel calls a guardian.
const GUARDIAN: &str = "crane-guardian";

/// Where craned looks for control sockets.
pub const SOCKET_DIR: &str = "/tmp/crane";

/// Where our ends of the pipes are in the supervisor.
const PLACE: &str =
    "trap '' PIPE; eval \"$SETUP\"; exec -a \"$TITLE\" \"$@\" 3<&0 4>&1 </dev/null >\"$OUT\" 2>\"$ERR\"";

/// How to start one supervisor.
pub struct Start<'a> {
    /// Where stdout and stderr are caught.
    pub dir: &'a Path,
    /// The job's number: marks the process, and names it with `step`.
    pub job: u32,
    /// The step's number.
    pub step: u32,
    /// The arguments; craned's own by default.
    pub args: Vec<String>,
    /// The program; ours by default.
    pub program: PathBuf,
    /// Shell text run in a private mount namespace before the binary, as root.
    pub private: Option<String>,
    /// More of its environment.
    pub env: Vec<(String, String)>,
    /// In the first network namespace, where the kernel tells of ended processes.
    pub outside: bool,
}

impl<'a> Start<'a> {
    /// As craned does it.
    pub fn like_craned(dir: &'a Path, job: u32, step: u32) -> Self {
        let args = ["--input-fd", "3", "--output-fd", "4"].map(String::from).to_vec();
        let (private, env) = (None, Vec::new());
        Self { dir, job, step, args, program: BINARY.into(), private, env, outside: false }
    }

    /// Starts the process; nothing is sent yet.
    pub fn spawn(mut self) -> Supervisor {
        let (input, to) = std::io::pipe().expect("pipes are available");
        let (from, output) = std::io::pipe().expect("pipes are available");
        let path = |kind: &str| self.dir.join(format!("{}.{}.{kind}", self.job, self.step));
        let (stdout, stderr) = (path("stdout"), path("stderr"));
        let mut command = match self.private {
            Some(_) => Command::new("unshare"),
            None if self.outside => Command::new("nsenter"),
            None => Command::new("bash"),
        };
        if let Some(setup) = &mut self.private {
            // The binary itself may lie where the setup hides things.
            let seen = self.dir.join("binary");
            let bind = format!(
                "touch {0} && mount --bind {1} {0} && set -- {0} \"${{@:2}}\"",
                seen.display(),
                self.program.display()
            );
            *setup = format!("{bind} && {setup}");
            command.args(["-m", "--propagation", "private", "bash"]);
        }
        if self.outside {
            command.args([format!("--net={}", outer_network().display()), "bash".into()]);
        }
        command.envs(std::mem::take(&mut self.env));
        command.args(["-c", PLACE, "bash"]).arg(&self.program).args(&self.args);
        command.env("SETUP", self.private.unwrap_or_default());
        command.env("TITLE", format!("csupervisor: [{}.{}]", self.job, self.step));
        command.env("OUT", &stdout).env("ERR", &stderr);
        command.env(super::init::MARK, self.job.to_string());
        let child = command.stdin(input).stdout(output).spawn().expect("bash and unshare are installed");
        let socket = Path::new(SOCKET_DIR).join(format!("step_{}.{}.sock", self.job, self.step));
        Supervisor { child, to: Some(to), from, socket, stderr, step: self.step, client: None, status: None }
    }
}

/// The network namespace of whoever started the testbed we are in; our own where that is none.
fn outer_network() -> PathBuf {
    let network = |pid: i32| PathBuf::from(format!("/proc/{pid}/ns/net"));
    let parent = |pid: &i32| procfs::process::Process::new(*pid).ok()?.stat().ok().map(|stat| stat.ppid);
    let us = std::process::id().cast_signed();
    let ours = std::fs::read_link(network(us)).expect("we have a network namespace");
    let above = std::iter::successors(Some(us), parent).take_while(|pid| *pid > 0);
    let is_other = |pid: &i32| std::fs::read_link(network(*pid)).is_ok_and(|theirs| theirs != ours);
    above.into_iter().find(is_other).map_or_else(|| network(us), network)
}

/// One supervisor process; killed when dropped.
pub struct Supervisor {
    child: Child,
    to: Option<PipeWriter>,
    from: PipeReader,
    /// Its control socket.
    pub socket: PathBuf,
    stderr: PathBuf,
    /// The step's number.
    pub step: u32,
    client: Option<Client>,
    status: Option<ExitStatus>,
}

impl Supervisor {
    /// Sends the init message as craned frames it, and keeps the pipe open as craned does.
    pub fn send(&mut self, init: &InitSupervisorRequest) {
        self.send_raw(&init.encode_length_delimited_to_vec());
    }

    /// Sends any bytes; that the other end is gone is not an error here.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        if let Some(to) = &mut self.to {
            let _ = to.write_all(bytes);
        }
    }

    /// Does anyone still hold the reading end of the input?
    pub fn input_is_open(&mut self) -> bool {
        self.to.as_mut().is_some_and(|to| to.write_all(b"x").is_ok())
    }

    /// Ends the input.
    pub fn close_input(&mut self) {
        self.to = None;
    }

    /// The answer on the output pipe: `None` where there was none within `limit`.
    pub fn ready(&mut self, limit: Duration) -> Option<bool> {
        let end = Instant::now() + limit;
        let mut frame = Vec::new();
        while wait::readable(&self.from, end.saturating_duration_since(Instant::now())) {
            let mut byte = [0; 64];
            let count = self.from.read(&mut byte).expect("the pipe is ours");
            frame.extend_from_slice(&byte[..count]);
            if let Ok(answer) = SupervisorReady::decode_length_delimited(&*frame)
                && !frame.is_empty()
            {
                return Some(answer.ok);
            }
            if count == 0 {
                return None;
            }
        }
        None
    }

    /// The process, which craned knows by this number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end; fails the test after `limit`.
    #[track_caller]
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        self.exit_within(limit).unwrap_or_else(|| {
            panic!(
                "supervisor of step {} (pid {}) still runs after {limit:?}; stderr: {}",
                self.step,
                self.pid(),
                self.stderr()
            )
        })
    }

    /// The end, if it comes within `limit`.
    pub fn exit_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        if self.status.is_none() && wait::process_end(self.pid(), limit) {
            self.status = self.child.wait().ok();
        }
        self.status
    }

    /// SIGKILL, and reaped.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        self.status = self.child.wait().ok();
    }

    /// Its guardian, while it has one.
    pub fn guardian(&self) -> Option<i32> {
        let parent = i32::try_from(self.pid()).expect("a pid fits");
        let look = || {
            let all = procfs::process::all_processes().expect("/proc is there").flatten();
            let mut stats = all.filter_map(|process| process.stat().ok());
            stats.find(|stat| stat.ppid == parent && stat.comm == GUARDIAN).map(|stat| stat.pid)
        };
        // It gives itself its name, a moment after it was forked.
        wait::until(Duration::from_secs(1), look)
    }

    /// SIGKILL to its guardian and then to it: nobody of ours is left to undo anything.
    pub fn kill9_unguarded(&mut self) {
        let guardian = self.guardian().expect("every supervisor has a guardian");
        kill(Pid::from_raw(guardian), Signal::SIGKILL).expect("the guardian is ours to kill");
        self.kill9();
        // While it is dying, `cleanup` would leave the step to it.
        wait::process_end(guardian as u32, Duration::from_secs(5));
    }

    /// Sends any signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid fits"));
        kill(pid, signal).expect("the supervisor is ours to signal");
    }

    /// What it wrote to stderr so far.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Its control socket's client, connected at first use.
    pub fn client(&mut self) -> &mut Client {
        self.client.get_or_insert_with(|| Client::new(&self.socket))
    }

    /// ExecuteStep, which must be answered SUCCESS.
    #[track_caller]
    pub fn execute(&mut self) {
        let code = self.client().execute().expect("ExecuteStep is answered");
        assert_eq!(code, ErrCode::Success, "ExecuteStep");
    }

    /// TerminateStep, which must be answered ok.
    #[track_caller]
    pub fn terminate(&mut self, source: TerminateSource) {
        assert!(self.client().terminate(source).expect("TerminateStep is answered").ok, "TerminateStep");
    }

    /// ShutdownSupervisor, which must be answered.
    #[track_caller]
    pub fn shut_down(&mut self) {
        self.client().shut_down().expect("ShutdownSupervisor is answered");
    }

    /// CheckStatus, which must be answered.
    #[track_caller]
    pub fn check(&mut self) -> CheckStatusReply {
        self.client().check().expect("CheckStatus is answered")
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.kill9();
        }
    }
}

/// The eight calls of the control socket, each with craned's deadline of 5 s.
pub struct Client {
    runtime: tokio::runtime::Runtime,
    stub: SupervisorClient<Channel>,
}

impl Client {
    /// Connects at the first call, and again after a connection broke.
    pub fn new(socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        let channel = runtime.block_on(async { channel(socket, super::RPC) });
        Self { runtime, stub: SupervisorClient::new(channel) }
    }

    /// ExecuteStep.
    pub fn execute(&mut self) -> Result<ErrCode, Status> {
        answer(self.runtime.block_on(self.stub.execute_step(StepExecutionRequest {}))).map(|r| r.code())
    }

    /// CheckStatus.
    pub fn check(&mut self) -> Result<CheckStatusReply, Status> {
        answer(self.runtime.block_on(self.stub.check_status(CheckStatusRequest {})))
    }

    /// TerminateStep.
    pub fn terminate(&mut self, source: TerminateSource) -> Result<TerminateStepReply, Status> {
        let request = TerminateStepRequest { terminate_source: source.into() };
        answer(self.runtime.block_on(self.stub.terminate_step(request)))
    }

    /// ChangeStepTimeConstraint: seconds from the start, and Unix seconds.
    pub fn change_time(&mut self, limit: Option<i64>, deadline: Option<i64>) -> Result<bool, Status> {
        let request = ChangeStepTimeConstraintRequest { time_limit_seconds: limit, deadline_time: deadline };
        answer(self.runtime.block_on(self.stub.change_step_time_constraint(request))).map(|r| r.ok)
    }

    /// QueryEnvMap.
    pub fn query_env(&mut self) -> Result<QueryStepEnvReply, Status> {
        answer(self.runtime.block_on(self.stub.query_env_map(QueryStepEnvRequest {})))
    }

    /// MigrateSshProcToCgroup.
    pub fn migrate_ssh(&mut self, pid: i32) -> Result<ErrCode, Status> {
        let request = MigrateSshProcToCgroupRequest { pid };
        answer(self.runtime.block_on(self.stub.migrate_ssh_proc_to_cgroup(request))).map(|r| r.err_code())
    }

    /// ShutdownSupervisor.
    pub fn shut_down(&mut self) -> Result<(), Status> {
        answer(self.runtime.block_on(self.stub.shutdown_supervisor(ShutdownSupervisorRequest {}))).map(|_| ())
    }

    /// ReceivePmixPort.
    pub fn pmix_port(&mut self) -> Result<bool, Status> {
        answer(self.runtime.block_on(self.stub.receive_pmix_port(ReceivePmixPortRequest {}))).map(|r| r.ok)
    }
}

/// A lazy channel to a unix socket; every call has `limit`.
pub fn channel(socket: &Path, limit: Duration) -> Channel {
    let socket = socket.to_owned();
    let endpoint = Endpoint::from_static("http://localhost").timeout(limit).connect_timeout(limit);
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    }))
}

fn answer<T>(result: Result<Response<T>, Status>) -> Result<T, Status> {
    result.map(Response::into_inner)
}
