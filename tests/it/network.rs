//! Pods with a network of their own, on real runtimes: ports are published, and a taken one
//! is refused with its own reason, as is a network that fails.

use crate::support::init::Edit;
use crate::support::job::Job;
use crate::support::runtime::{Runtime, on_each};
use crate::support::supervisor::Supervisor;
use crate::support::{LONG, wait};
use crane_supervisor::wire::crane::JobStatus;
use crane_supervisor::wire::crane::pod_job_additional_meta::{NamespaceMode, PortMapping};
use crane_supervisor::wire::crane::supervisor::InitSupervisorRequest;
use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A port of the node that no other test has.
fn port_of(job: &Job) -> u16 {
    20_000 + u16::try_from(job.id() % 20_000).unwrap()
}

fn publish(init: &mut InitSupervisorRequest, host: u16) {
    init.pod().namespace.get_or_insert_default().network = NamespaceMode::Pod.into();
    init.pod().ports = vec![PortMapping { container_port: 8080, host_port: host.into(), ..PortMapping::default() }];
}

/// A pod step that is to fail; its reason.
fn refused(job: &Job, port: u16) -> String {
    let mut init = job.facts.pod_step();
    publish(&mut init, port);
    let mut pod: Supervisor = job.start(&init);
    let report = job.craned.wait_for(0, JobStatus::Failed, LONG);
    assert_eq!(report.exit_code, 323, "{}", report.reason);
    pod.shut_down();
    job.ended(&mut pod);
    report.reason
}

#[test]
fn a_published_port_leads_into_the_pod_and_is_not_given_twice() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let port = port_of(&job);
        let pod = job.pod_with(|init| publish(init, port));
        let script = "ip route; echo hello from the pod | nc -l -p 8080";
        let mut step = job.container_with(1, &["sh", "-c", script], |init| publish(init, port));
        step.execute();
        wait::holds("the route is printed", LONG, || job.output_so_far(1).contains("default via "));
        let route = job.output_so_far(1);
        let gateway = route.split("default via ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().to_owned();

        let mut other = Job::on(runtime);
        other.facts.places.temp = job.places().temp.clone();
        let reason = refused(&other, port);
        assert!(reason.contains(&format!("TCP port {port}: already published by job {}", job.id())), "{reason}");

        let mut heard = String::new();
        wait::holds("the port answers", LONG, || {
            let Ok(mut stream) = TcpStream::connect((gateway.as_str(), port)) else { return false };
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            stream.read_to_string(&mut heard).is_ok() && !heard.is_empty()
        });
        assert_eq!(heard, "hello from the pod\n");
        assert_eq!(job.ended(&mut step).final_status(), JobStatus::Completed);
        job.end_pod(pod);
    });
}

#[test]
fn a_port_that_a_program_has_is_refused() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let taken = TcpListener::bind(("0.0.0.0", 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let reason = refused(&job, port);
        assert!(reason.contains(&format!("TCP port {port}: in use by a program of this node")), "{reason}");
    });
}

/// The runtime's bridge plugin, which fails for one job while this is held.
struct FailingBridge {
    plugin: PathBuf,
    real: PathBuf,
    /// There after the first failure.
    failed: PathBuf,
}

/// Held while a bridge plugin may fail.
static BRIDGE: Mutex<()> = Mutex::new(());

/// How often.
#[derive(PartialEq)]
enum Fails {
    Once,
    Always,
}

impl FailingBridge {
    fn of(runtime: &Runtime, job: &Job, fails: Fails, message: &str) -> Self {
        let endpoint = runtime.endpoint();
        let socket = Path::new(endpoint.strip_prefix("unix://").unwrap());
        let plugin = socket.parent().unwrap().join("cni-bin/bridge");
        let real = fs::read_link(&plugin).unwrap();
        let failed = plugin.with_extension(format!("failed-{}", job.id()));
        // An earlier run's would pass for this one's.
        let _ = fs::remove_dir(&failed);
        let may_pass = if fails == Fails::Once { format!("mkdir {} && ", failed.display()) } else { String::new() };
        let told = format!(r#"{{"cniVersion":"1.0.0","code":11,"msg":"{message}"}}"#);
        let text = format!(
            "#!/bin/sh\ncase $CNI_COMMAND$CNI_ARGS in ADD*=job-{}-*) {may_pass}echo '{told}' && exit 1 ;; esac\nexec {} \"$@\"\n",
            job.id(),
            real.display()
        );
        let new = plugin.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        // In one step: other jobs' pods go on meanwhile.
        fs::rename(new, &plugin).unwrap();
        Self { plugin, real, failed }
    }
}

impl Drop for FailingBridge {
    fn drop(&mut self) {
        let new = self.plugin.with_extension("new");
        symlink(&self.real, &new).and_then(|()| fs::rename(new, &self.plugin)).unwrap();
        let _ = fs::remove_dir(&self.failed);
    }
}

#[test]
fn a_network_that_cannot_be_had_is_told_with_the_plugins_words() {
    let _turn = BRIDGE.lock().unwrap_or_else(PoisonError::into_inner);
    on_each(|runtime| {
        let job = Job::on(runtime);
        let _failing = FailingBridge::of(runtime, &job, Fails::Always, "no address is left in the pool");
        let reason = refused(&job, port_of(&job));
        assert!(reason.contains("no address is left in the pool"), "{reason}");
        assert!(reason.contains("see its CNI configuration and plugins on this node"), "{reason}");
    });
}

/// Two pods at once on a fresh node: each makes the chain that both want, and one is told that it is there.
#[test]
fn a_packet_filter_that_another_changes_just_then_costs_no_pod() {
    let _turn = BRIDGE.lock().unwrap_or_else(PoisonError::into_inner);
    on_each(|runtime| {
        let job = Job::on(runtime);
        let busy = "running [/usr/sbin/iptables -t nat -N CNI-HOSTPORT-SETMARK --wait]: exit status 4: \
                    iptables v1.8.9 (nf_tables):  CHAIN_USER_ADD failed (File exists): chain CNI-HOSTPORT-SETMARK";
        let failing = FailingBridge::of(runtime, &job, Fails::Once, busy);
        let port = port_of(&job);
        let pod = job.pod_with(|init| publish(init, port));
        assert!(failing.failed.is_dir(), "the plugin was not asked");
        job.end_pod(pod);
    });
}
