use super::*;
use crate::sys::files::scratch::Dir;
use nix::sys::stat::Mode;
use proptest::prelude::*;
use std::path::PathBuf;

/// A container's directories as containerd makes them, and its log.
struct Runtime {
    dir: Dir,
    fifo: PathBuf,
    log: PathBuf,
}

impl Runtime {
    fn new() -> Self {
        let dir = Dir::new();
        let io = dir.path().join("containers/abc/io/123");
        fs::create_dir_all(&io).unwrap();
        let (fifo, log) = (io.join("abc-stdout"), dir.path().join("log"));
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        fs::write(&log, "t stdout P on\n").unwrap();
        Self { dir, fifo, log }
    }

    /// The supervisor's part, and the shim's end of the FIFO.
    fn held(&self) -> (Spill, File) {
        let fifos = Fifos::open(self.dir.path(), "abc");
        assert_eq!(fifos.0.len(), 1);
        let watch = Watch::new(&self.log, Duration::ZERO).unwrap();
        (Spill::new(&self.log, fifos, &watch), OpenOptions::new().write(true).open(&self.fifo).unwrap())
    }

    /// The records of the log, without their times.
    fn logged(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap();
        log.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), future).await.expect("it does not hang") })
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[test]
fn what_the_runtime_left_goes_on_where_its_log_ends() {
    let runtime = Runtime::new();
    run(async {
        let (spill, mut shim) = runtime.held();
        shim.write_all(b"e\ntwo\n\nend").unwrap();
        fs::remove_file(&runtime.fifo).unwrap();
        drop(shim);
        let spilled = spill.finish(&Notify::new(), soon()).await;
        assert_eq!(spilled, Spilled { saved: 10, missing: false });
        assert_eq!(runtime.logged(), ["stdout P on", "stdout F e", "stdout F two", "stdout F ", "stdout P end"]);
    });
}

#[test]
fn what_is_taken_at_the_removal_makes_room_for_all_the_rest() {
    let runtime = Runtime::new();
    run(async {
        let (spill, shim) = runtime.held();
        let text = vec![b'x'; 300_000];
        let written = tokio::task::spawn_blocking(move || (&shim).write_all(&text));
        fs::remove_file(&runtime.fifo).unwrap();
        let changed = Notify::new();
        changed.notify_one();
        // The shim is done before anybody says that the container has ended.
        tokio::select! {
            biased;
            () = spill.watch(&changed) => {}
            written = written => written.unwrap().unwrap(),
        }
        let spilled = spill.finish(&changed, soon()).await;
        assert_eq!(spilled, Spilled { saved: 300_000, missing: false });
        let logged = runtime.logged();
        let (longest, text) = logged[1..].iter().fold((0, 0), |(longest, all), record| {
            let length = record.strip_prefix("stdout P ").unwrap().len();
            (length.max(longest), all + length)
        });
        assert_eq!((longest, text), (MAX_TEXT, 300_000));
    });
}

#[test]
fn nothing_is_taken_from_a_runtime_that_may_still_read() {
    let runtime = Runtime::new();
    run(async {
        let (spill, mut shim) = runtime.held();
        let log = OpenOptions::new().append(true).open(&runtime.log).unwrap();
        shim.write_all(b"later\n").unwrap();
        let now = Instant::now() + Duration::from_millis(20);
        assert_eq!(spill.finish(&Notify::new(), now).await, Spilled::default());
        assert_eq!(runtime.logged(), ["stdout P on"]);
        drop(log);
        drop(shim);
        assert_eq!(spill.finish(&Notify::new(), soon()).await, Spilled { saved: 6, missing: false });
    });
}

#[test]
fn a_runtime_that_vanishes_in_the_middle_is_noticed_and_the_rest_is_kept() {
    let runtime = Runtime::new();
    run(async {
        let (spill, mut shim) = runtime.held();
        let log = OpenOptions::new().append(true).open(&runtime.log).unwrap();
        let changed = Notify::new();
        let events = async {
            changed.notify_one();
            tokio::task::yield_now().await;
            (&log).write_all(b"t stdout F line\n").unwrap();
            drop(log);
            changed.notify_one();
            while !spill.cut.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            biased;
            () = spill.watch(&changed) => {}
            () = events => {}
        }
        shim.write_all(b"after\n").unwrap();
        drop(shim);
        assert_eq!(spill.finish(&changed, soon()).await, Spilled { saved: 6, missing: true });
        assert_eq!(runtime.logged().last().unwrap(), "stdout F after");
    });
}

#[test]
fn what_is_no_fifo_or_no_name_is_left_alone() {
    let runtime = Runtime::new();
    fs::write(runtime.fifo.with_file_name("abc-stderr"), "no FIFO").unwrap();
    assert_eq!(Fifos::open(runtime.dir.path(), "abc").0.len(), 1);
    for (dir, container) in [(runtime.dir.path(), "../containers/abc"), (Path::new("/nowhere"), "abc")] {
        assert!(Fifos::open(dir, container).0.is_empty());
    }
}

proptest! {
    #[test]
    fn records_are_the_text_again(text in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200), long in 0..3 * MAX_TEXT) {
        let text = [text, vec![b'y'; long]].concat();
        let mut again = Vec::new();
        let (mut log, mut clock) = (Vec::new(), Duration::from_secs(1));
        write_records(&mut log, &mut clock, "stderr", &text).unwrap();
        let times: Vec<_> = log.split_inclusive(|byte| *byte == b'\n').map(|record| &record[..stamp::LENGTH]).collect();
        prop_assert!(times.is_sorted_by(|one, next| one < next), "two records have one time");
        for record in log.split_inclusive(|byte| *byte == b'\n') {
            let record = &record[stamp::LENGTH..];
            let (flag, text) = record.strip_prefix(b" stderr ").unwrap().split_at(2);
            again.extend_from_slice(if flag == b"F " { text } else { &text[..text.len() - 1] });
        }
        prop_assert_eq!(again, text);
    }
}
