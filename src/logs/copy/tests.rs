use super::*;
use crate::sys::files::scratch::{Dir, Tmpfs};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::sync::{Mutex, mpsc};
use std::time::Instant;

const UID: u32 = 12345;
const LIMIT: Duration = Duration::from_secs(20);

fn run<T>(future: impl Future<Output = T>) -> T {
    run_with_pool("copy", future)
}

fn run_with_pool<T>(pool: &str, future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(Duration::from_millis(50))
        .thread_name(pool)
        .build()
        .unwrap();
    let result = runtime.block_on(future);
    runtime.shutdown_background();
    result
}

/// The log is there before the copy begins, as the supervisor makes it.
fn plan(dir: &Path, cwd: &Path) -> CopyPlan {
    let source = dir.join("7.1.container.log");
    let _ = File::create(&source);
    CopyPlan {
        source,
        bounds: Bounds { max_bytes: 0, max_files: 0 },
        reopen: Box::new(|| Box::pin(async { Ok(()) })),
        fifos: Fifos::default(),
        cwd: cwd.to_owned(),
        dir_name: "7.out".into(),
        file_name: "1.node.log".into(),
        user: User { uid: UID, gid: UID, groups: vec![UID + 1] },
        cap: None,
    }
}

/// Bytes that look like nothing, NUL and newline among them.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(length)
    .collect()
}

async fn until(mut done: impl FnMut() -> bool) {
    let reached = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LIMIT, reached).await.expect("reached in time");
}

#[test]
fn the_users_file_is_there_at_once_though_nothing_is_printed() {
    let dir = Dir::new();
    let home = dir.home(UID);
    let plan = plan(dir.path(), &home);
    let target = home.join("7.out/1.node.log");
    run(async {
        let copier = Copier::start(plan);
        until(|| target.exists()).await;
        let status = std::fs::metadata(&target).unwrap();
        assert_eq!((status.uid(), status.gid(), status.mode() & 0o777), (UID, UID, 0o600));
        assert_eq!(copier.drain(LIMIT).await, CopySummary::default());
    });
}

#[test]
fn what_a_writer_appends_meanwhile_arrives_byte_for_byte() {
    let dir = Dir::new();
    let home = dir.home(UID);
    let plan = plan(dir.path(), &home);
    let source = plan.source.clone();
    let bytes = noise(3_000_001);
    std::fs::write(&source, &bytes[..1000]).unwrap();
    let summary = run(async {
        let copier = Copier::start(plan);
        let rest = bytes[1000..].to_vec();
        let writer = std::thread::spawn(move || {
            let mut log = OpenOptions::new().append(true).open(source).unwrap();
            rest.chunks(777).for_each(|piece| log.write_all(piece).unwrap());
        });
        until(|| writer.is_finished()).await;
        copier.drain(LIMIT).await
    });
    assert_eq!(summary, CopySummary { written: 3_000_001, copied: 3_000_001, ..CopySummary::default() });
    assert!(std::fs::read(home.join("7.out/1.node.log")).unwrap() == bytes);
}

#[test]
fn output_arrives_while_the_container_runs() {
    let dir = Dir::new();
    let home = dir.home(UID);
    let plan = plan(dir.path(), &home);
    let target = home.join("7.out/1.node.log");
    run(async {
        let mut log = OpenOptions::new().append(true).open(&plan.source).unwrap();
        let copier = Copier::start(plan);
        for count in 1..=5 {
            log.write_all(b"line\n").unwrap();
            until(|| std::fs::metadata(&target).is_ok_and(|t| t.len() == 5 * count)).await;
        }
        drop(log);
        assert_eq!(copier.drain(LIMIT).await.copied, 25);
    });
}

#[test]
fn a_quiet_copy_keeps_no_thread() {
    let dir = Dir::new();
    let home = dir.home(UID);
    let plan = plan(dir.path(), &home);
    std::fs::write(&plan.source, "x").unwrap();
    let target = home.join("7.out/1.node.log");
    run_with_pool("quiet-copy", async {
        let copier = Copier::start(plan);
        until(|| std::fs::metadata(&target).is_ok_and(|t| t.len() == 1)).await;
        until(|| threads_named("quiet-copy") == 0).await;
        drop(copier);
    });
}

fn threads_named(name: &str) -> usize {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok())
        .filter(|comm| comm.trim_end() == name)
        .count()
}

#[test]
fn a_planted_link_is_one_warning_and_its_target_untouched() {
    let dir = Dir::new();
    let home = dir.home(UID);
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "root's").unwrap();
    symlink(&secret, home.join("7.out")).unwrap();
    let plan = plan(dir.path(), &home);
    std::fs::write(&plan.source, "12345").unwrap();
    let summary = run(async { Copier::start(plan).drain(LIMIT).await });
    let warning = summary.warning.unwrap();
    assert!(warning.contains("7.out") && warning.ends_with("5 bytes of output were not copied"), "{warning}");
    assert!(!warning.contains('\n'));
    assert_eq!((summary.copied, summary.left), (0, 5));
    assert_eq!(std::fs::read(&secret).unwrap(), b"root's");
}

#[test]
fn a_missing_working_directory_or_log_directory_is_a_warning() {
    let dir = Dir::new();
    let home = dir.home(UID);
    let gone = plan(dir.path(), &dir.path().join("gone"));
    let no_log = plan(&dir.path().join("gone"), &home);
    run(async {
        let warning = Copier::start(gone).drain(LIMIT).await.warning.unwrap();
        assert!(warning.contains("gone") && warning.contains("No such file"), "{warning}");
        let warning = Copier::start(no_log).drain(LIMIT).await.warning.unwrap();
        assert!(warning.contains("7.1.container.log"), "{warning}");
    });
}

#[test]
fn a_full_disk_stops_the_copy_and_counts_what_is_left() {
    let dir = Dir::new();
    let disk = Tmpfs::mount(dir.path(), 1 << 20);
    chown(disk.path(), Some(UID), Some(UID)).unwrap();
    let plan = plan(dir.path(), disk.path());
    let bytes = noise(3 << 20);
    std::fs::write(&plan.source, &bytes).unwrap();
    let summary = run(async { Copier::start(plan).drain(LIMIT).await });
    let warning = summary.warning.unwrap();
    assert!(warning.contains("1.node.log") && warning.contains("No space left"), "{warning}");
    assert_eq!(summary.copied + summary.left, 3 << 20);
    let copy = std::fs::read(disk.path().join("7.out/1.node.log")).unwrap();
    assert!(summary.copied > 0 && copy == bytes[..copy.len()] && copy.len() as u64 == summary.copied);
}

/// A target whose second write never returns, as on a network file system that is gone.
struct Hung {
    pipe: Option<(std::io::PipeReader, std::io::PipeWriter)>,
}

impl Sink for Hung {
    fn open(&mut self) -> Result<(), SinkError> {
        self.pipe = Some(std::io::pipe().unwrap());
        Ok(())
    }

    fn copy_from(&mut self, source: &mut Chain, copied: &AtomicU64) -> Result<(), SinkError> {
        let (_unread, writer) = self.pipe.as_mut().unwrap();
        super::super::sink::pump(source, writer, copied).unwrap();
        Ok(())
    }

    fn close(self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// As a network file system does that tells only then that there is no room.
struct RefusesAtTheEnd;

impl Sink for RefusesAtTheEnd {
    fn open(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    fn copy_from(&mut self, source: &mut Chain, copied: &AtomicU64) -> Result<(), SinkError> {
        super::super::sink::pump(source, std::io::sink(), copied).map_err(|_| unreachable!("a sink takes all"))
    }

    fn close(self) -> Result<(), SinkError> {
        let full = std::io::Error::from_raw_os_error(libc::EDQUOT);
        Err(SinkError::Close { path: "/home/user/7.out/1.node.log".into(), source: full })
    }
}

#[test]
fn a_copy_that_fails_at_the_very_end_is_said_and_no_more() {
    let dir = Dir::new();
    let source = dir.path().join("log");
    std::fs::write(&source, "2026-11-25T10:00:00.000000001Z stdout F line\n").unwrap();
    let summary = run(async {
        let plan = plan(dir.path(), dir.path());
        let copier = Copier::with_sink(
            source.clone(),
            dir.path().join("copy"),
            plan.bounds,
            plan.reopen,
            Fifos::default(),
            RefusesAtTheEnd,
        );
        copier.drain(Duration::from_secs(20)).await
    });
    let warning = summary.warning.expect("it is said");
    assert!(warning.contains("cannot close /home/user/7.out/1.node.log"), "{warning}");
}

#[test]
fn a_write_that_hangs_holds_up_neither_main_nor_the_end() {
    let dir = Dir::new();
    let source = dir.path().join("log");
    std::fs::write(&source, vec![b'x'; 1 << 20]).unwrap();
    let limit = Duration::from_millis(200);
    let begun = Instant::now();
    let summary = run(async {
        let plan = plan(dir.path(), dir.path());
        let hung = Hung { pipe: None };
        let copier =
            Copier::with_sink(source, "/home/u/7.out/1.log".into(), plan.bounds, plan.reopen, plan.fifos, hung);
        // Main goes on meanwhile.
        tokio::time::sleep(Duration::from_millis(20)).await;
        copier.drain(limit).await
    });
    assert!(begun.elapsed() < Duration::from_secs(5));
    let warning = summary.warning.unwrap();
    assert!(warning.contains("/home/u/7.out/1.log") && warning.contains("did not answer within 0.2 s"), "{warning}");
    assert_eq!(summary.copied + summary.left, 1 << 20);
    assert!(summary.left > 0);
}

/// Writes numbered lines as a runtime does: one write each, to whatever file it opened last.
struct Runtime {
    log: Arc<Mutex<Option<File>>>,
    path: PathBuf,
}

impl Runtime {
    fn on(path: &Path) -> Self {
        let log = OpenOptions::new().append(true).open(path).unwrap();
        Self { log: Arc::new(Mutex::new(Some(log))), path: path.to_owned() }
    }

    fn reopen(&self) -> Reopen {
        let (log, path) = (Arc::clone(&self.log), self.path.clone());
        Box::new(move || {
            *log.lock().unwrap() = Some(OpenOptions::new().append(true).create(true).open(&path).unwrap());
            Box::pin(async { Ok(()) })
        })
    }

    fn write(&self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            self.log.lock().unwrap().as_mut().unwrap().write_all(format!("line {number}\n").as_bytes()).unwrap();
            if number % 1000 == 0 {
                std::thread::yield_now();
            }
        }
    }
}

fn numbered(numbers: std::ops::Range<u32>) -> String {
    numbers.map(|number| format!("line {number}\n")).collect()
}

#[test]
fn every_line_is_copied_once_and_in_order_over_rotations() {
    const PARTS: u32 = 5;
    const LINES: u32 = PARTS * 80_000;
    let dir = Dir::new();
    let home = dir.home(UID);
    let mut plan = plan(dir.path(), &home);
    let runtime = Runtime::on(&plan.source);
    plan.bounds = Bounds { max_bytes: 100_000, max_files: 1000 };
    let (reopen, (tell, told)) = (runtime.reopen(), mpsc::channel());
    plan.reopen = Box::new(move || {
        // The writer may have finished.
        let _ = tell.send(());
        reopen()
    });
    let summary = run(async {
        let copier = Copier::start(plan);
        let writer = std::thread::spawn(move || {
            for part in 0..PARTS {
                runtime.write(part * (LINES / PARTS)..(part + 1) * (LINES / PARTS));
                // A fast machine would have written all before the second look.
                told.recv_timeout(LIMIT).expect("a rotation for each part");
            }
            runtime.log.lock().unwrap().take();
        });
        until(|| writer.is_finished()).await;
        copier.drain(LIMIT).await
    });
    assert_eq!((summary.left, summary.written, &summary.warning), (0, summary.copied, &None));
    assert!(summary.rotations > 3, "{summary:?}");
    assert!(std::fs::read_to_string(home.join("7.out/1.node.log")).unwrap() == numbered(0..LINES));
}

#[test]
fn a_runtime_that_does_not_reopen_loses_nothing_and_is_asked_again() {
    let dir = Dir::new();
    let home = dir.home(UID);
    let mut plan = plan(dir.path(), &home);
    let runtime = Runtime::on(&plan.source);
    plan.bounds = Bounds { max_bytes: 1000, max_files: 3 };
    let (reopen, asked) = (runtime.reopen(), Arc::new(AtomicU64::new(0)));
    let count = Arc::clone(&asked);
    plan.reopen = Box::new(move || match count.fetch_add(1, Ordering::Relaxed) {
        0 => Box::pin(async { Err("not now".to_owned()) }),
        _ => reopen(),
    });
    let target = home.join("7.out/1.node.log");
    let summary = run(async {
        let copier = Copier::start(plan);
        runtime.write(0..200);
        until(|| asked.load(Ordering::Relaxed) == 1).await;
        runtime.write(200..300);
        until(|| std::fs::read_to_string(&target).unwrap_or_default() == numbered(0..300)).await;
        until(|| asked.load(Ordering::Relaxed) == 2).await;
        runtime.write(300..310);
        runtime.log.lock().unwrap().take();
        copier.drain(LIMIT).await
    });
    assert_eq!((summary.left, summary.warning), (0, None));
    assert_eq!(std::fs::read_to_string(&target).unwrap(), numbered(0..310));
}

#[test]
fn the_nodes_disk_stays_bounded_while_the_users_hangs_and_the_rest_is_counted() {
    const LINES: u32 = 300_000;
    let dir = Dir::new();
    let mut plan = plan(dir.path(), dir.path());
    let runtime = Runtime::on(&plan.source);
    plan.bounds = Bounds { max_bytes: 200_000, max_files: 3 };
    plan.reopen = runtime.reopen();
    let (source, limit) = (plan.source.clone(), Duration::from_millis(200));
    let summary = run(async {
        let copier = Copier::with_sink(
            source.clone(),
            "/u/1.log".into(),
            plan.bounds,
            plan.reopen,
            plan.fifos,
            Hung { pipe: None },
        );
        let writer = std::thread::spawn(move || {
            for begin in (0..LINES).step_by(1000) {
                runtime.write(begin..begin + 1000);
                std::thread::park_timeout(Duration::from_millis(5));
            }
        });
        until(|| writer.is_finished()).await;
        copier.drain(limit).await
    });
    let there: u64 = [0, 1, 2, 3]
        .iter()
        .filter_map(|&n| std::fs::metadata(crate::layout::segment(&source, n)).ok())
        .map(|f| f.len())
        .sum();
    assert_eq!(summary.written, numbered(0..LINES).len() as u64);
    assert!(there < 1_500_000 && summary.written > 3_000_000, "{there} of {summary:?}");
    assert_eq!(summary.written, summary.copied + summary.left);
    assert!(summary.warning.unwrap().contains("did not answer"));
}

#[test]
fn the_last_word_of_a_runtime_that_lags_is_waited_for() {
    let dir = Dir::new();
    let home = dir.home(UID);
    let plan = plan(dir.path(), &home);
    let runtime = Runtime::on(&plan.source);
    let summary = run(async {
        let copier = Copier::start(plan);
        let writer = std::thread::spawn(move || {
            std::thread::park_timeout(Duration::from_millis(300));
            runtime.write(7..8);
        });
        let summary = copier.drain(LIMIT).await;
        assert!(writer.is_finished());
        summary
    });
    assert_eq!((summary.copied, summary.left), (7, 0));
    assert_eq!(std::fs::read_to_string(home.join("7.out/1.node.log")).unwrap(), "line 7\n");
}

#[test]
fn a_capped_copy_keeps_the_newest_whole_lines_and_counts_the_rest() {
    let dir = Dir::new();
    let home = dir.home(UID);
    let plan = CopyPlan { cap: Some(20_000), ..plan(dir.path(), &home) };
    let text = numbered(0..50_000);
    std::fs::write(&plan.source, &text).unwrap();
    let summary = run(async { Copier::start(plan).drain(LIMIT).await });
    let file = |name: &str| std::fs::read_to_string(home.join("7.out").join(name)).unwrap();
    let (old, new) = (file("1.node.log.1"), file("1.node.log"));
    assert!(old.len() + new.len() <= 20_000 + 30 && old.len() >= 10_000 && text.ends_with(&format!("{old}{new}")));
    assert!(old.starts_with("line ") && old.ends_with('\n'), "cut within a line");
    assert_eq!((summary.copied, summary.removed), (text.len() as u64, (text.len() - old.len() - new.len()) as u64));
    assert!(summary.warning.unwrap().contains("capped"));
}
