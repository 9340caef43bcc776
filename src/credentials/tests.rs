//! Of `credentials`, on real files, as root for another user.

use super::*;
use crate::sys::files::scratch::Dir;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

const UID: u32 = 12345;

fn account(uid: u32, home: &Path) -> Account {
    Account { user: User { uid, gid: uid, groups: vec![] }, home: home.to_owned() }
}

fn password(account: &Account, registry: &str) -> Option<String> {
    account.find(registry).unwrap().0.map(|(_, password)| password.reveal().to_owned())
}

#[test]
fn what_is_kept_is_the_users_own_and_private() {
    let dir = Dir::new();
    let home = dir.home(UID);
    let account = account(UID, &home);
    assert_eq!(password(&account, "h.io"), None);
    assert!(!account.forget("h.io").unwrap());
    assert!(!home.join(".config").exists(), "a look made something");
    account.keep("h.io", "me", &Secret::new("one")).unwrap();
    account.keep("i.io", "me", &Secret::new("two")).unwrap();
    let meta = fs::symlink_metadata(account.path()).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (UID, UID, 0o600));
    let parent = fs::metadata(home.join(".config/crane")).unwrap();
    assert_eq!((parent.uid(), parent.mode() & 0o7777), (UID, 0o700));
    assert_eq!(fs::read_dir(home.join(".config/crane")).unwrap().count(), 1, "a temporary file is left");
    assert!(account.forget("h.io").unwrap());
    assert_eq!((password(&account, "h.io"), password(&account, "i.io")), (None, Some("two".into())));
    fs::set_permissions(account.path(), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(account.find("i.io").unwrap().1, "others may read it, and nobody says so");
}

#[test]
fn a_link_never_leads_root_anywhere() {
    let dir = Dir::new();
    let home = dir.home(UID);
    // Root's, which the user may not even read.
    let secret = dir.path().join("secret");
    fs::write(&secret, r#"{"auths":{"h.io":{"auth":"YTpi"}}}"#).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let roots = dir.path().join("roots");
    fs::create_dir(&roots).unwrap();
    fs::set_permissions(&roots, fs::Permissions::from_mode(0o700)).unwrap();
    let config = home.join(".config");
    fs::create_dir(&config).unwrap();
    chown(&config, Some(UID), Some(UID)).unwrap();
    let account = account(UID, &home);
    // The directory is root's.
    symlink(&roots, config.join("crane")).unwrap();
    assert!(account.find("h.io").is_err() && account.keep("h.io", "a", &Secret::new("b")).is_err());
    assert_eq!(fs::read_dir(&roots).unwrap().count(), 0);
    fs::remove_file(config.join("crane")).unwrap();
    // The file is a link.
    fs::create_dir(config.join("crane")).unwrap();
    chown(config.join("crane"), Some(UID), Some(UID)).unwrap();
    symlink(&secret, account.path()).unwrap();
    assert!(account.find("h.io").is_err() && account.keep("h.io", "a", &Secret::new("b")).is_err());
    assert!(fs::read_to_string(&secret).unwrap().contains("YTpi"));
    // The file is somebody else's, or no file.
    fs::remove_file(account.path()).unwrap();
    fs::write(account.path(), "{}").unwrap();
    assert!(account.find("h.io").unwrap_err().to_string().contains("belongs to uid 0"));
    fs::remove_file(account.path()).unwrap();
    nix::unistd::mkfifo(&account.path(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    chown(account.path(), Some(UID), Some(UID)).unwrap();
    assert!(account.find("h.io").unwrap_err().to_string().contains("not a regular file"));
    // The user's own link to where the user may write is the user's business.
    fs::remove_dir_all(&config).unwrap();
    let elsewhere = home.join("dotfiles");
    fs::create_dir(&elsewhere).unwrap();
    chown(&elsewhere, Some(UID), Some(UID)).unwrap();
    symlink(&elsewhere, &config).unwrap();
    account.keep("h.io", "me", &Secret::new("three")).unwrap();
    assert_eq!(password(&account, "h.io"), Some("three".into()));
}

#[test]
fn roots_own_home_has_no_links_at_all() {
    let dir = Dir::new();
    let home = dir.home(0);
    fs::create_dir(home.join("elsewhere")).unwrap();
    symlink(home.join("elsewhere"), home.join(".config")).unwrap();
    let root = account(0, &home);
    let error = root.keep("h.io", "me", &Secret::new("p")).unwrap_err().to_string();
    assert!(error.contains("symbolic links are not followed"), "{error}");
    fs::remove_file(home.join(".config")).unwrap();
    root.keep("h.io", "me", &Secret::new("p")).unwrap();
    assert_eq!(password(&root, "h.io"), Some("p".into()));
}

#[test]
fn a_damaged_file_is_named_and_left_alone() {
    let dir = Dir::new();
    let home = dir.home(UID);
    let account = account(UID, &home);
    account.keep("h.io", "me", &Secret::new("p")).unwrap();
    fs::write(account.path(), "{\"auths\": canary").unwrap();
    let error = account.keep("h.io", "me", &Secret::new("p")).unwrap_err().to_string();
    assert!(error.contains("registry.json") && error.contains("line 1") && !error.contains("canary"), "{error}");
    assert_eq!(fs::read_to_string(account.path()).unwrap(), "{\"auths\": canary");
}
