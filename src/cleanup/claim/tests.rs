//! Owning a step, by several at once and after a death.

use super::*;

fn scratch(name: &str) -> TempDir {
    TempDir::new(std::env::temp_dir().join(format!("claim-{name}-{}", std::process::id())))
}

fn take(temp: &TempDir, id: StepId) -> Result<Claim, ClaimError> {
    Claim::take(temp, id, Path::new("/r"), Path::new("/l"), About::default())
}

const ID: StepId = StepId { job: 7, step: 1 };

#[test]
fn a_step_has_one_owner_and_leaves_nothing() {
    let temp = scratch("one");
    let claim = take(&temp, ID).unwrap();
    assert!(matches!(take(&temp, ID), Err(ClaimError::Held { .. })));
    claim.finish().unwrap();
    assert!(!temp.job(7).path().exists());
    fs::remove_dir(temp.path()).unwrap();
}

#[test]
fn a_dead_owners_step_can_be_claimed() {
    let temp = scratch("dead");
    drop(take(&temp, ID).unwrap());
    assert!(temp.step(ID).journal().exists());
    take(&temp, ID).unwrap().finish().unwrap();
    fs::remove_dir(temp.path()).unwrap();
}

#[test]
fn an_earlier_owners_debts_are_carried_over() {
    let temp = scratch("debts");
    let debt = Entry::PodRecord { files: vec!["/x".into()] };
    let mut dead = take(&temp, ID).unwrap();
    dead.journal.record(debt.clone()).unwrap();
    drop(dead);
    // Torn by a kill in the middle of a write.
    let mut journal = OpenOptions::new().append(true).open(temp.step(ID).journal()).unwrap();
    journal.write_all(b"{\"acq").unwrap();
    let mut heir = take(&temp, ID).unwrap();
    assert_eq!(heir.journal.entries(), std::slice::from_ref(&debt));
    heir.journal.record(Entry::Socket { path: "/s".into() }).unwrap();
    let (_, written) = journal::read(&temp.step(ID).journal()).unwrap();
    assert_eq!(written, [debt, Entry::Socket { path: "/s".into() }]);
    heir.finish().unwrap();
    fs::remove_dir(temp.path()).unwrap();
}

#[test]
fn a_look_at_a_lock_makes_nothing_and_a_start_outlasts_it() {
    let temp = scratch("look");
    assert!(!is_held(&temp.step(ID)).unwrap());
    assert!(!temp.path().exists());
    let claim = take(&temp, ID).unwrap();
    assert!(is_held(&temp.step(ID)).unwrap());
    drop(claim);
    assert!(!is_held(&temp.step(ID)).unwrap());
    let Lock::Taken(looking) = lock(&temp.step(ID)).unwrap() else { panic!("it is free") };
    let start = std::thread::spawn({
        let temp = temp.clone();
        move || take(&temp, ID).unwrap()
    });
    pause();
    drop(looking);
    start.join().unwrap().finish().unwrap();
    fs::remove_dir(temp.path()).unwrap();
}

#[test]
fn only_what_nobody_owns_or_owes_is_adopted() {
    let temp = scratch("adopt");
    let header = Header {
        version: VERSION,
        job: ID.job,
        step: ID.step,
        boot: boot_id(),
        runtime: "/r".into(),
        log: "/l".into(),
        about: About::default(),
    };
    let entries = [Entry::PodRecord { files: vec!["/x".into()] }];
    let claim = take(&temp, ID).unwrap();
    assert!(!adopt(&temp.step(ID), &header, &entries).unwrap());
    claim.finish().unwrap();
    assert!(adopt(&temp.step(ID), &header, &entries).unwrap());
    assert!(!adopt(&temp.step(ID), &header, &[]).unwrap());
    let heir = take(&temp, ID).unwrap();
    assert_eq!(heir.journal.entries(), entries);
    heir.finish().unwrap();
    fs::remove_dir(temp.path()).unwrap();
}

#[test]
fn the_jobs_directory_stays_while_another_step_uses_it() {
    let temp = scratch("two");
    let other = StepId { job: 7, step: 0 };
    let pod = take(&temp, other).unwrap();
    take(&temp, ID).unwrap().finish().unwrap();
    assert!(pod.dir().path().exists());
    pod.finish().unwrap();
    fs::remove_dir(temp.path()).unwrap();
}
