use super::scratch::Dir;
use super::*;
use crate::sys::as_user::User;
use std::os::unix::fs::{MetadataExt, chown, symlink};

const UID: u32 = 12345;

fn place(cwd: &Path) -> UserFilePlace {
    UserFilePlace { cwd: cwd.to_owned(), dir_name: "7.out".into(), file_name: "1.node.log".into() }
}

fn open(cwd: &Path) -> Result<File, FilesError> {
    let guard = User { uid: UID, gid: UID, groups: vec![] }.enter().unwrap();
    Ok(open_user_file(&guard, &place(cwd))?.file)
}

/// The output directory as the user would have made it.
fn output_dir(home: &Path) -> PathBuf {
    let dir = home.join("7.out");
    fs::create_dir(&dir).unwrap();
    chown(&dir, Some(UID), Some(UID)).unwrap();
    dir
}

#[test]
fn the_users_file_is_made_private_and_the_users_own() {
    let dir = Dir::new();
    let home = dir.home(UID);
    open(&home).unwrap().write_all(b"one").unwrap();
    open(&home).unwrap().write_all(b"two").unwrap();
    let file = fs::metadata(place(&home).path()).unwrap();
    let parent = fs::metadata(home.join("7.out")).unwrap();
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (UID, UID, 0o600));
    assert_eq!((parent.uid(), parent.mode() & 0o7777), (UID, 0o700));
    assert_eq!(fs::read(place(&home).path()).unwrap(), b"onetwo");
}

#[test]
fn a_working_directory_behind_the_users_own_link_is_reached() {
    let dir = Dir::new();
    let home = dir.home(UID);
    symlink(&home, dir.path().join("link")).unwrap();
    open(&dir.path().join("link")).unwrap();
    assert!(place(&home).path().exists());
}

#[test]
fn a_link_in_place_of_the_file_is_refused_and_its_target_untouched() {
    let dir = Dir::new();
    let home = dir.home(UID);
    let target = home.join("target");
    fs::write(&target, "before").unwrap();
    chown(&target, Some(UID), Some(UID)).unwrap();
    symlink(&target, output_dir(&home).join("1.node.log")).unwrap();
    let error = open(&home).unwrap_err().to_string();
    assert!(error.contains("1.node.log") && error.contains("links are not followed"), "{error}");
    assert_eq!(fs::read(&target).unwrap(), b"before");
}

#[test]
fn a_link_in_place_of_the_directory_is_refused() {
    let dir = Dir::new();
    let home = dir.home(UID);
    let elsewhere = dir.home(UID + 1);
    let own = home.join("own");
    fs::create_dir(&own).unwrap();
    chown(&own, Some(UID), Some(UID)).unwrap();
    for target in [elsewhere.as_path(), own.as_path()] {
        symlink(target, home.join("7.out")).unwrap();
        assert!(matches!(open(&home), Err(FilesError::Call { .. })));
        assert_eq!(fs::read_dir(target).unwrap().count(), 0);
        fs::remove_file(home.join("7.out")).unwrap();
    }
}

#[test]
fn a_file_with_a_second_name_is_refused() {
    let dir = Dir::new();
    let home = dir.home(UID);
    let other = home.join("other");
    fs::write(&other, "before").unwrap();
    chown(&other, Some(UID), Some(UID)).unwrap();
    fs::hard_link(&other, output_dir(&home).join("1.node.log")).unwrap();
    assert!(matches!(open(&home), Err(FilesError::Links { links: 2, .. })));
    assert_eq!(fs::read(&other).unwrap(), b"before");
}

#[test]
fn a_file_of_somebody_else_is_refused_even_if_writable() {
    let dir = Dir::new();
    let home = dir.home(UID);
    let file = output_dir(&home).join("1.node.log");
    fs::write(&file, "roots").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(matches!(open(&home), Err(FilesError::Owner { owner: 0, user: UID, .. })));
}

#[test]
fn a_fifo_is_refused_without_waiting_whether_read_or_not() {
    let dir = Dir::new();
    let home = dir.home(UID);
    let fifo = output_dir(&home).join("1.node.log");
    nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    chown(&fifo, Some(UID), Some(UID)).unwrap();
    assert!(matches!(open(&home), Err(FilesError::NotRegular(_))));
    let _reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
    assert!(matches!(open(&home), Err(FilesError::NotRegular(_))));
}

#[test]
fn a_directory_closed_to_the_user_is_refused() {
    let dir = Dir::new();
    let home = dir.home(UID + 1);
    let error = open(&home).unwrap_err();
    assert!(matches!(&error, FilesError::Call { source, .. } if source.kind() == io::ErrorKind::PermissionDenied));
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let dir = Dir::new();
    let home = dir.home(UID);
    let guard = User { uid: UID, gid: UID, groups: vec![] }.enter().unwrap();
    for name in ["", ".", "..", "a/b", "/etc", "a/", "a\0b"] {
        for place in [
            UserFilePlace { dir_name: name.into(), ..place(&home) },
            UserFilePlace { file_name: name.into(), ..place(&home) },
        ] {
            assert!(matches!(open_user_file(&guard, &place), Err(FilesError::Name { .. })), "{name:?}");
        }
    }
    let relative = place(Path::new("some/where"));
    assert!(matches!(open_user_file(&guard, &relative), Err(FilesError::Relative(_))));
}

#[test]
fn a_file_is_replaced_whole_and_leaves_no_other() {
    let dir = Dir::new();
    let path = dir.path().join("record");
    fs::write(dir.path().join(".record.tmp"), "left by a killed writer").unwrap();
    atomic_write(&path, b"one", Survives::Machine).unwrap();
    atomic_write(&path, b"two", Survives::Process).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let error = atomic_write(&dir.path().join("missing/record"), b"x", Survives::Machine).unwrap_err();
    assert!(error.to_string().contains("missing/record"), "{error}");
}

#[test]
fn a_root_only_file_is_read_up_to_its_limit() {
    let dir = Dir::new();
    let path = dir.path().join("file");
    fs::write(&path, "12345").unwrap();
    assert_eq!(read_limited(&path, 5).unwrap(), b"12345");
    assert!(matches!(read_limited(&path, 4), Err(FilesError::TooLarge { max: 4, .. })));
    symlink(&path, dir.path().join("link")).unwrap();
    assert!(read_limited(&dir.path().join("link"), 5).is_err());
    assert!(matches!(read_limited(dir.path(), 5), Err(FilesError::NotRegular(_))));
}

/// The user swaps directory and file for links all the time; root's file must never be reached.
#[test]
fn a_race_for_the_names_never_reaches_roots_file() {
    let dir = Dir::new();
    let home = dir.home(UID);
    let secret = dir.path().join("1.node.log");
    fs::write(&secret, "root's").unwrap();
    let before = fs::metadata(&secret).unwrap();
    let output = output_dir(&home);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = fs::rename(&output, home.join("aside"));
                let _ = symlink(dir.path(), &output);
                let _ = fs::remove_file(&output);
                let _ = fs::rename(home.join("aside"), &output);
                let _ = fs::remove_file(output.join("1.node.log"));
                let _ = symlink(&secret, output.join("1.node.log"));
                let _ = fs::remove_file(output.join("1.node.log"));
            }
        });
        for _ in 0..3000 {
            if let Ok(mut file) = open(&home) {
                file.write_all(b"text").unwrap();
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let after = fs::metadata(&secret).unwrap();
    assert_eq!(fs::read(&secret).unwrap(), b"root's");
    assert_eq!((after.ino(), after.uid(), after.mode()), (before.ino(), before.uid(), before.mode()));
}
