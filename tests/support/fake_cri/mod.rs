//! A scriptable CRI server: pods and containers in memory with a runtime's own
//! rules, and a real process as each container's init.
//!
//! It shows what real runtimes do rarely or not on demand: calls that hang,
//! replies that are lost, exit codes that are forgotten, and CRI-O's ways.

mod cgroup;
mod faults;
mod flavour;
mod images;
mod log;
mod process;
mod record;
mod service;
mod world;

pub use faults::{Fault, Method};
pub use flavour::Flavour;
pub use record::Call;

use super::server::UnixServer;
use crane_supervisor::cri::api::image_service_server::ImageServiceServer;
use crane_supervisor::cri::api::runtime_service_server::RuntimeServiceServer;
use crane_supervisor::cri::api::tasks::tasks_server::TasksServer;
use faults::Faults;
use record::Calls;
use service::Service;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use world::World;

/// An image that is always present.
pub const IMAGE: &str = "docker.io/library/alpine:latest";
/// An image only a pull with a password brings.
pub const PRIVATE_IMAGE: &str = "registry.test/private:1";
/// That password.
pub const PASSWORD: &str = "s3cret-of-the-registry";
/// An image only a pull brings.
pub const REMOTE_IMAGE: &str = "registry.test/app:1";

/// The fake; its sockets vanish with it.
pub struct FakeCri {
    world: Arc<World>,
    faults: Arc<Faults>,
    calls: Arc<Calls>,
    dir: PathBuf,
    images_apart: bool,
    servers: Mutex<Vec<UnixServer>>,
}

impl FakeCri {
    /// As containerd 1.6 and 1.7.
    pub fn containerd() -> Arc<Self> {
        Self::with(Flavour::containerd())
    }

    /// As CRI-O.
    pub fn crio() -> Arc<Self> {
        Self::with(Flavour::crio())
    }

    /// Any flavour, one socket for both services.
    pub fn with(flavour: Flavour) -> Arc<Self> {
        Self::new(flavour, false)
    }

    /// Two sockets: the runtime's knows no images, the other one nothing else.
    pub fn with_images_apart(flavour: Flavour) -> Arc<Self> {
        Self::new(flavour, true)
    }

    fn new(flavour: Flavour, images_apart: bool) -> Arc<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cs-fake-{}-{number}", std::process::id());
        let dir = Path::new("/var/tmp").join(&name);
        std::fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("cannot make {}: {e}", dir.display()));
        let fake = Self {
            world: Arc::new(World::new(flavour, &name)),
            faults: Arc::default(),
            calls: Arc::default(),
            dir,
            images_apart,
            servers: Mutex::default(),
        };
        fake.start();
        Arc::new(fake)
    }

    /// How it behaves.
    pub fn flavour(&self) -> &Flavour {
        self.world.flavour()
    }

    /// `unix:///path` of the runtime service.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.dir.join("cri.sock").display())
    }

    /// `unix:///path` of the image service.
    pub fn image_endpoint(&self) -> String {
        let name = if self.images_apart { "images.sock" } else { "cri.sock" };
        format!("unix://{}", self.dir.join(name).display())
    }

    /// Goes away as a stopped runtime does: containers live on.
    pub fn stop(&self) {
        self.servers.lock().unwrap().clear();
    }

    /// Comes (back) on the same sockets.
    pub fn start(&self) {
        let service = Service::new(&self.world, &self.faults, &self.calls);
        let runtime = RuntimeServiceServer::new(service.clone());
        let tasks = (self.flavour().name == "containerd").then(|| TasksServer::new(service.clone()));
        let images = ImageServiceServer::new(service);
        let socket = self.dir.join("cri.sock");
        let servers = if self.images_apart {
            let image_socket = self.dir.join("images.sock");
            vec![UnixServer::start(&socket, runtime), UnixServer::start(&image_socket, images)]
        } else {
            vec![UnixServer::start(&socket, service::all(runtime, images, tasks))]
        };
        *self.servers.lock().unwrap() = servers;
    }

    /// Breaks every connection; new ones are taken.
    pub fn cut_connections(&self) {
        self.servers.lock().unwrap().iter().for_each(UnixServer::cut_connections);
    }

    /// The next `times` calls of `method` get `fault`, after those asked for already.
    pub fn fault(&self, method: Method, times: usize, fault: Fault) {
        self.faults.add(method, times, fault);
    }

    /// Every call of every method hangs until [`FakeCri::release`].
    pub fn freeze(&self) {
        self.faults.freeze();
    }

    /// Lets all hanging calls go on, and forgets what was scripted.
    pub fn release(&self) {
        self.faults.release();
    }

    /// Ends from now on are shown as 255 / `Unknown`, as after a restart of containerd 1.7.
    pub fn forget_exit_codes(&self) {
        self.world.forget_exit_codes();
    }

    /// All output reaches the log only `lag` after the end was shown.
    pub fn write_logs_after(&self, lag: Duration) {
        self.world.write_logs_after(lag);
    }

    /// Ends are shown as EXITED only after `lag`; from now on, and those not shown yet.
    pub fn show_exits_after(&self, lag: Duration) {
        self.world.show_exits_after(lag);
    }

    /// From now on containers get these groups beside those asked for, as containerd 1.6
    /// gives them those of the image's /etc/group.
    pub fn give_image_groups(&self, groups: &[u32]) {
        self.world.give_image_groups(groups);
    }

    /// From now on `condition` (NetworkReady, RuntimeReady) is false, with this message.
    pub fn lack(&self, condition: &str, message: &str) {
        self.world.lack(condition, message);
    }

    /// From now on a verbose Status shows this configuration, as containerd does its own.
    pub fn show_config(&self, json: &str) {
        self.world.show_config(json);
    }

    /// An image without a name is present.
    pub fn hold_image(&self, id: &str) {
        self.world.hold_image(id);
    }

    /// Makes the directory in which it seems to keep images; what it seems to download goes
    /// below the directory returned.
    pub fn make_image_store(&self) -> PathBuf {
        let store = self.world.image_store();
        let ingest = store.with_file_name("io.containerd.content.v1.content").join("ingest");
        for dir in [&store, &ingest] {
            std::fs::create_dir_all(dir).unwrap_or_else(|e| panic!("cannot make {}: {e}", dir.display()));
        }
        ingest
    }

    /// Every call so far, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.all()
    }

    /// The methods called so far, in order.
    pub fn methods(&self) -> Vec<Method> {
        self.calls.all().into_iter().map(|call| call.method).collect()
    }

    /// The requests of type `T` so far, in order.
    pub fn requests<T: Clone + 'static>(&self) -> Vec<T> {
        self.calls.all().iter().filter_map(|call| call.request.downcast_ref::<T>().cloned()).collect()
    }

    /// Waits until `method` has been called `count` times.
    #[track_caller]
    pub fn wait_for(&self, method: Method, count: usize, limit: Duration) {
        let called = || self.methods().iter().filter(|m| **m == method).count();
        super::wait::holds(&format!("{count} calls of {method:?}"), limit, || called() >= count);
    }

    /// How many container processes were ever started for `job`.
    pub fn starts_of(&self, job: u32) -> usize {
        self.world.starts_of(job)
    }

    /// The pids of the containers of `job` that run.
    pub fn pids_of(&self, job: u32) -> Vec<u32> {
        self.world.pids_of(job)
    }

    /// What is left of `job`, one line each.
    pub fn left_of(&self, job: u32) -> Vec<String> {
        self.world.left_of(job)
    }

    /// Removes all of `job`.
    pub fn purge(&self, job: u32) {
        self.world.purge(job);
    }
}

impl Drop for FakeCri {
    fn drop(&mut self) {
        self.stop();
        self.world.kill_all();
        let _ = std::fs::remove_dir_all(&self.dir);
        let _ = self.world.image_store().parent().map(std::fs::remove_dir_all);
    }
}
