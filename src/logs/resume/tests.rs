use super::*;
use crate::layout::segment;
use crate::sys::files::scratch::Dir;
use std::fmt::Write as _;

const UID: u32 = 12345;

struct Step {
    dir: Dir,
    owed: Owed,
    user: PathBuf,
}

impl Step {
    /// A step whose user's file holds `copied`.
    fn new(copied: &[u8]) -> Self {
        let dir = Dir::new();
        let home = dir.home(UID);
        let owed = Owed {
            log: dir.path().join("7.1.container.log"),
            cwd: home.clone(),
            dir_name: "7.out".into(),
            file_name: "1.node.log".into(),
            uid: UID,
            gid: UID,
            groups: vec![],
            cap: None,
        };
        let user = home.join("7.out/1.node.log");
        fs::create_dir(home.join("7.out")).unwrap();
        fs::write(&user, copied).unwrap();
        for path in [&home.join("7.out"), &user] {
            std::os::unix::fs::chown(path, Some(UID), Some(UID)).unwrap();
        }
        Self { dir, owed, user }
    }

    fn finished(&self) -> Vec<u8> {
        let path = self.dir.path().join("copy");
        self.owed.keep(&path).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(finish(&path, LIMIT));
        assert!(!path.exists());
        fs::read(&self.user).unwrap()
    }
}

/// Numbered records from second `from` on, ten in each.
fn records(from: u32, count: u32) -> String {
    (0..count).fold(String::new(), |mut all, number| {
        let second = from + number / 10;
        writeln!(all, "2026-11-25T10:{:02}:{:02}.{number:06}Z stdout F line", second / 60, second % 60).unwrap();
        all
    })
}

#[test]
fn a_clock_that_was_set_back_doubles_nothing() {
    let whole = [records(2000, 100), records(600, 3000)].concat().into_bytes();
    for cut in [5000, 60_000, whole.len() - 1] {
        let step = Step::new(&whole[..cut]);
        fs::write(&step.owed.log, &whole).unwrap();
        assert_eq!(step.finished(), whole, "cut at {cut}");
    }
}

#[test]
fn a_log_that_is_set_aside_is_copied_to_its_end_and_goes() {
    let whole = records(600, 3000).into_bytes();
    let (old, new) = whole.split_at(whole.len() / 2);
    let step = Step::new(&old[..1000]);
    let (copy, before) = (step.dir.path().join("copy"), step.dir.path().join("copy.before"));
    step.owed.keep(&copy).unwrap();
    fs::write(segment(&step.owed.log, 1), old).unwrap();
    fs::write(&step.owed.log, new).unwrap();
    set_aside(&copy, &before);
    assert!(!copy.exists() && !step.owed.log.exists() && !segment(&step.owed.log, 1).exists());
    // The next run's log, and one more that was killed: the first is what is finished.
    fs::write(&step.owed.log, "another").unwrap();
    step.owed.keep(&copy).unwrap();
    set_aside(&copy, &before);
    assert_eq!(fs::read_to_string(&step.owed.log).unwrap(), "another");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(finish_before(&before, LIMIT));
    assert_eq!(fs::read(&step.user).unwrap(), whole);
    let aside = layout::log_before(&step.owed.log);
    assert!(!before.exists() && !aside.exists() && !segment(&aside, 1).exists());
}

#[test]
fn every_byte_is_there_once_wherever_the_copy_was_cut() {
    let whole = records(600, 3000).into_bytes();
    for cut in [0, 1, 17, 45, 46, 5000, 60_001, 100_000, whole.len() - 1, whole.len()] {
        let step = Step::new(&whole[..cut]);
        // A rotation cuts anywhere as well.
        fs::write(segment(&step.owed.log, 2), &whole[..30_003]).unwrap();
        fs::write(segment(&step.owed.log, 1), &whole[30_003..80_000]).unwrap();
        fs::write(&step.owed.log, &whole[80_000..]).unwrap();
        assert!(step.finished() == whole, "cut at {cut}");
    }
}

#[test]
fn an_earlier_runs_lines_stay_before_it() {
    let (earlier, whole) = (records(0, 50), records(100, 50));
    for cut in [0, 10, 46, whole.len()] {
        let step = Step::new([earlier.as_bytes(), &whole.as_bytes()[..cut]].concat().as_slice());
        fs::write(&step.owed.log, &whole).unwrap();
        assert_eq!(String::from_utf8(step.finished()).unwrap(), format!("{earlier}{whole}"), "cut at {cut}");
    }
}

#[test]
fn what_the_nodes_cap_dropped_is_gone_and_the_rest_follows() {
    let whole = records(0, 2000).into_bytes();
    let step = Step::new(&whole[..46]);
    fs::write(&step.owed.log, &whole[46 * 1000..]).unwrap();
    assert!(step.finished() == [&whole[..46], &whole[46 * 1000..]].concat());
}

#[test]
fn a_file_that_was_changed_is_left_alone() {
    let whole = records(0, 50);
    let mine = format!("{}my own words\n", &whole[..46 * 20]);
    let step = Step::new(mine.as_bytes());
    fs::write(&step.owed.log, &whole).unwrap();
    assert_eq!(String::from_utf8(step.finished()).unwrap(), mine);
}

#[test]
fn a_link_in_its_place_a_foreign_note_and_no_note_harm_nobody() {
    let step = Step::new(b"");
    fs::write(&step.owed.log, records(0, 5)).unwrap();
    let secret = step.dir.path().join("secret");
    fs::write(&secret, "root's").unwrap();
    fs::remove_file(&step.user).unwrap();
    std::os::unix::fs::symlink(&secret, &step.user).unwrap();
    assert_eq!(step.finished(), b"root's");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let note = step.dir.path().join("note");
    runtime.block_on(finish(&note, LIMIT));
    fs::write(&note, "no note").unwrap();
    runtime.block_on(finish(&note, LIMIT));
}
