//! A real registry (Debian's docker-registry) with a password, on loopback, behind a proxy
//! of ours that can slow it down and cut it off. Each image has a layer of its own, so that
//! no runtime has a part of it already.

use super::wait;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The user it knows.
pub const USER: &str = "tester";
/// How long it may take to answer.
const UP: Duration = Duration::from_secs(20);
/// Bytes passed on at once.
const PIECE: usize = 16 * 1024;

/// The registry; gone when dropped.
pub struct Registry {
    dir: PathBuf,
    password: String,
    port: u16,
    child: Mutex<Option<Child>>,
    proxy: Proxy,
}

impl Registry {
    /// A registry that wants `password`.
    pub fn start(password: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(format!("/var/tmp/cs-registry-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let port = free_port();
        // The password in no argument: a test looks for it there.
        let known = with_input("htpasswd", &["-iBn", USER], password);
        std::fs::write(dir.join("htpasswd"), known).unwrap();
        let config = format!(
            "version: 0.1\nlog: {{ level: warn }}\nhttp: {{ addr: '127.0.0.1:{port}' }}\n\
             storage: {{ filesystem: {{ rootdirectory: {0}/data }} }}\n\
             auth: {{ htpasswd: {{ realm: test, path: {0}/htpasswd }} }}\n",
            dir.display()
        );
        std::fs::write(dir.join("config.yml"), config).unwrap();
        let registry =
            Self { proxy: Proxy::start(port), dir, password: password.to_owned(), port, child: Mutex::new(None) };
        registry.come_back();
        registry
    }

    /// `host:port` for references.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.proxy.port)
    }

    /// Ends it at once, and every connection to it.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.proxy.cut();
    }

    /// Starts it again with all it had.
    pub fn come_back(&self) {
        let program = std::env::var("CRANE_TEST_REGISTRY").expect("scripts/testbed names a registry");
        let log = std::fs::File::create(self.dir.join("log")).unwrap();
        let mut command = Command::new(program);
        command.arg("serve").arg(self.dir.join("config.yml")).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        *self.child.lock().unwrap() = Some(command.spawn().expect("docker-registry starts"));
        wait::holds("the registry answers", UP, || TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok());
    }

    /// Passes on so many bytes in a second from now on; 0 is no limit.
    pub fn throttle(&self, bytes: u64) {
        self.proxy.shared.rate.store(bytes, Ordering::Relaxed);
    }

    /// Bytes passed on to clients so far.
    pub fn sent(&self) -> u64 {
        self.proxy.shared.sent.load(Ordering::Relaxed)
    }

    /// Pushes an image with a shell and a layer of `mib` MiB nobody has; its reference.
    pub fn push(&self, name: &str, mib: u64) -> String {
        let layout = self.dir.join("layout");
        make_layout(&layout, mib);
        let token = base64_of(&format!("{USER}:{}", self.password));
        let auth = self.dir.join("auth.json");
        let host = format!("127.0.0.1:{}", self.port);
        std::fs::write(&auth, format!(r#"{{"auths":{{"{host}":{{"auth":"{token}"}}}}}}"#)).unwrap();
        let pushed = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false", "--dest-authfile"])
            .arg(&auth)
            .args([format!("oci:{}", layout.display()), format!("docker://{host}/{name}")])
            .output()
            .expect("skopeo is installed");
        assert!(pushed.status.success(), "skopeo: {}", String::from_utf8_lossy(&pushed.stderr));
        std::fs::remove_file(auth).unwrap();
        std::fs::remove_dir_all(layout).unwrap();
        format!("{}/{name}", self.host())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// What a program makes of its input.
fn with_input(program: &str, args: &[&str], input: &str) -> Vec<u8> {
    let mut child =
        Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it is installed");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}: {}", output.status);
    output.stdout
}

/// Base64 of `text`.
pub fn base64_of(text: &str) -> String {
    String::from_utf8(with_input("base64", &["-w0"], text)).unwrap()
}

/// The testbed's image with one more layer, as an OCI layout.
fn make_layout(layout: &Path, mib: u64) {
    let bed = PathBuf::from(std::env::var("CRANE_TESTBED_DIR").expect("run inside scripts/testbed"));
    std::fs::create_dir_all(layout.join("extra")).unwrap();
    run("tar", &["-C", &text(layout), "-xf", &text(&bed.join("images/shell.tar"))]);
    let mut random = std::fs::File::open("/dev/urandom").unwrap().take(mib << 20 | 4096);
    std::io::copy(&mut random, &mut std::fs::File::create(layout.join("extra/ballast")).unwrap()).unwrap();
    let layer = layout.join("layer");
    run("tar", &["-C", &text(&layout.join("extra")), "-cf", &text(&layer), "ballast"]);
    std::fs::remove_dir_all(layout.join("extra")).unwrap();
    let (layer_digest, layer_size) = add_blob(layout, &layer);
    let mut index = json(&layout.join("index.json"));
    let mut manifest = json(&blob(layout, index["manifests"][0]["digest"].as_str().unwrap()));
    let mut config = json(&blob(layout, manifest["config"]["digest"].as_str().unwrap()));
    config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(layer_digest.clone().into());
    describe(&mut manifest["config"], add_json(layout, &config));
    let mut descriptor = manifest["layers"][0].clone();
    describe(&mut descriptor, (layer_digest, layer_size));
    manifest["layers"].as_array_mut().unwrap().push(descriptor);
    let media_type = index["manifests"][0]["mediaType"].clone();
    index["manifests"] = serde_json::json!([{ "mediaType": media_type }]);
    describe(&mut index["manifests"][0], add_json(layout, &manifest));
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
}

fn describe(descriptor: &mut serde_json::Value, (digest, size): (String, u64)) {
    descriptor["digest"] = digest.into();
    descriptor["size"] = size.into();
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn blob(layout: &Path, digest: &str) -> PathBuf {
    layout.join("blobs").join(digest.replace(':', "/"))
}

fn add_json(layout: &Path, value: &serde_json::Value) -> (String, u64) {
    let new = layout.join("new");
    std::fs::write(&new, value.to_string()).unwrap();
    add_blob(layout, &new)
}

fn add_blob(layout: &Path, file: &Path) -> (String, u64) {
    let sum = Command::new("sha256sum").arg(file).output().unwrap().stdout;
    let digest = format!("sha256:{}", String::from_utf8(sum).unwrap().split(' ').next().unwrap());
    std::fs::rename(file, blob(layout, &digest)).unwrap();
    let size = std::fs::metadata(blob(layout, &digest)).unwrap().len();
    (digest, size)
}

fn run(program: &str, args: &[&str]) {
    assert!(Command::new(program).args(args).status().unwrap().success(), "{program} {args:?}");
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[derive(Default)]
struct Shared {
    rate: AtomicU64,
    sent: AtomicU64,
    over: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

/// Passes connections on; ends when dropped.
struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    fn start(to: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (port, shared) = (listener.local_addr().unwrap().port(), Arc::<Shared>::default());
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if serving.over.load(Ordering::Relaxed) {
                    break;
                }
                // A registry that is down refuses; we can only close.
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)) else { continue };
                let both = || (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (kept_client, kept_server) = both();
                serving.open.lock().unwrap().extend([kept_client, kept_server]);
                let ((up_from, up_to), (down_to, down_from)) = (both(), both());
                let shared = Arc::clone(&serving);
                std::thread::spawn(move || pass(up_from, up_to, None));
                std::thread::spawn(move || pass(down_from, down_to, Some(&shared)));
            }
        });
        Self { port, shared }
    }

    fn cut(&self) {
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.cut();
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

/// Until either end is closed; slowly where the one throttle all share says so.
fn pass(mut from: TcpStream, mut to: TcpStream, slowed: Option<&Shared>) {
    let mut piece = vec![0; PIECE];
    while let Ok(count @ 1..) = from.read(&mut piece) {
        let begun = Instant::now();
        if to.write_all(&piece[..count]).is_err() {
            break;
        }
        let Some(shared) = slowed else { continue };
        shared.sent.fetch_add(count as u64, Ordering::Relaxed);
        let rate = shared.rate.load(Ordering::Relaxed);
        if rate > 0 {
            let due = Duration::from_secs_f64(count as f64 / rate as f64);
            wait::pause(due.saturating_sub(begun.elapsed()));
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
