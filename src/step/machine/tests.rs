//! The machine against a world that does anything in any order.

use super::*;
use crate::outcome::{End, FinalStatus, Verdict};
use crate::step::patience::Patience;
use proptest::prelude::*;

fn failure() -> Failure {
    Failure::new(323, "no")
}

fn run(role: Role, events: &[Event]) -> (Machine, Vec<Action>) {
    let (mut machine, mut actions) = Machine::new(role, Patience::default());
    for event in events {
        actions.extend(machine.step(event.clone()));
    }
    (machine, actions)
}

fn started() -> Vec<Event> {
    let stages = [Stage::User, Stage::Pod, Stage::Mounts, Stage::Image, Stage::Prologs, Stage::Create, Stage::Start];
    std::iter::once(Event::Execute).chain(stages.map(Event::StageDone)).collect()
}

fn finals(actions: &[Action]) -> Vec<Verdict> {
    let of = |action: &Action| match action {
        Action::Report(Report::Final(verdict)) => Some(verdict.clone()),
        _ => None,
    };
    actions.iter().filter_map(of).collect()
}

#[test]
fn a_container_runs_ends_and_is_reported_once_after_the_clean_up() {
    let mut events = started();
    events.extend([Event::Ended(Outcome::Ended(End::Exited(7))), Event::Drained]);
    let (_, before) = run(Role::Container, &events);
    assert!(finals(&before).is_empty(), "reported before the clean-up");
    events.extend([Event::CleanedUp, Event::Delivered]);
    let (machine, actions) = run(Role::Container, &events);
    assert_eq!(machine.state(), State::Done);
    assert_eq!(finals(&actions), [Verdict { status: FinalStatus::Failed, exit_code: 7, reason: String::new() }]);
}

#[test]
fn the_outcome_is_kept_before_anything_is_removed() {
    let mut events = started();
    events.extend([Event::Ended(Outcome::Ended(End::Exited(0))), Event::Drained]);
    let (_, actions) = run(Role::Container, &events);
    let at = |wanted: fn(&Action) -> bool| actions.iter().position(wanted).unwrap();
    assert!(at(|a| matches!(a, Action::Keep(_))) < at(|a| *a == Action::Undo));
}

#[test]
fn a_cancel_before_execution_is_reported_cancelled_with_zero() {
    let (_, actions) = run(Role::Container, &[Event::Stop(Cause::Cancelled), Event::CleanedUp]);
    assert_eq!(finals(&actions), [Verdict { status: FinalStatus::Cancelled, exit_code: 0, reason: String::new() }]);
}

#[test]
fn a_silent_clean_up_before_execution_reports_nothing() {
    let (machine, actions) = run(Role::Container, &[Event::Stop(Cause::JobEnd), Event::CleanedUp]);
    assert_eq!(machine.state(), State::Done);
    assert!(finals(&actions).is_empty());
}

#[test]
fn a_start_that_was_cut_off_is_made_anew_with_its_processes_written_down_but_not_for_ever() {
    let again = || Event::StageFailed(Stage::Start, Failure { again: true, ..failure() });
    let mut events = started();
    events.pop();
    for _ in 0..RETRIES {
        events.extend([again(), Event::StageDone(Stage::Create)]);
    }
    let (machine, actions) = run(Role::Container, &events);
    assert_eq!(machine.state(), State::Preparing { stage: Stage::Start, stop: None });
    let recorded = actions.iter().filter(|action| **action == Action::Record(Acquisition::Processes)).count();
    assert_eq!(recorded, 1 + RETRIES as usize);
    events.extend([again(), Event::CleanedUp]);
    let (_, actions) = run(Role::Container, &events);
    assert_eq!(finals(&actions)[0].exit_code, 323);
}

#[test]
fn a_pod_that_failed_is_told_at_once_and_again_at_the_jobs_end() {
    let (machine, actions) =
        run(Role::Pod, &[Event::StageDone(Stage::User), Event::StageFailed(Stage::Pod, failure()), Event::CleanedUp]);
    assert_eq!(machine.state(), State::Holding);
    assert!(actions.iter().any(|a| matches!(a, Action::Report(Report::PodFailed(_)))));
    let (_, actions) = run(
        Role::Pod,
        &[Event::StageDone(Stage::User), Event::StageFailed(Stage::Pod, failure()), Event::CleanedUp, Event::Shutdown],
    );
    assert_eq!(finals(&actions), [Verdict { status: FinalStatus::Failed, exit_code: 323, reason: "no".into() }]);
}

#[test]
fn a_pod_whose_teardown_is_slow_is_handed_over_and_reported() {
    let (_, actions) = run(
        Role::Pod,
        &[
            Event::StageDone(Stage::User),
            Event::StageDone(Stage::Pod),
            Event::StageDone(Stage::Prologs),
            Event::Shutdown,
            Event::OutOfPatience(None),
        ],
    );
    assert!(actions.contains(&Action::HandOver));
    assert_eq!(finals(&actions).len(), 1);
}

#[test]
fn a_pod_in_the_making_is_let_finish_at_the_jobs_end_and_no_longer_than_craned_waits() {
    let idle = run(Role::Pod, &[Event::StageDone(Stage::User), Event::Shutdown]).1;
    assert!(idle.contains(&Action::Abandon) && idle.contains(&Action::Undo), "nothing is being made: {idle:?}");
    let ending = [Event::StageDone(Stage::User), Event::ShutdownAmid];
    let (machine, actions) = run(Role::Pod, &ending);
    assert!(!actions.contains(&Action::Abandon) && machine.is_job_ending());
    let then = |event| run(Role::Pod, &[&ending[..], &[event]].concat()).1;
    let made = then(Event::StageDone(Stage::Pod));
    assert!(made.contains(&Action::Undo) && !made.contains(&Action::Begin(Stage::Prologs)), "{made:?}");
    let failed = then(Event::StageFailed(Stage::Pod, failure()));
    assert!(failed.contains(&Action::Undo), "{failed:?}");
    assert!(!failed.iter().any(|action| matches!(action, Action::Report(Report::PodFailed(_)))), "{failed:?}");
    let slow = then(Event::OutOfPatience(None));
    assert!(slow.contains(&Action::Abandon) && slow.contains(&Action::HandOver), "{slow:?}");
    assert_eq!(finals(&slow).len(), 1);
}

#[test]
fn prologs_are_cut_off_at_the_jobs_end() {
    let events = [Event::StageDone(Stage::User), Event::StageDone(Stage::Pod), Event::Shutdown];
    let (machine, actions) = run(Role::Pod, &events);
    assert!(actions.contains(&Action::Abandon));
    assert_eq!(machine.state(), State::CleaningUp);
}

#[test]
fn an_end_only_the_kernel_knows_is_reported_when_patience_runs_out() {
    let code = |stop: &[Event], end| {
        let mut events = started();
        events.extend_from_slice(stop);
        events.extend([Event::OutOfPatience(end), Event::CleanedUp]);
        let (_, actions) = run(Role::Container, &events);
        finals(&actions).iter().map(|verdict| verdict.exit_code).collect::<Vec<_>>()
    };
    // The first wait of a cancel ends in our own kill, the second in giving up.
    let cancelled = [Event::Stop(Cause::Cancelled), Event::OutOfPatience(None)];
    let ended = |end| Some(Outcome::Ended(end));
    assert_eq!(code(&cancelled, ended(End::Signalled(9))), [265]);
    assert_eq!(code(&cancelled, Some(Outcome::OutOfMemory(End::Exited(5)))), [5]);
    assert_eq!(code(&cancelled, None), [320]);
    assert_eq!(code(&[Event::Shutdown], ended(End::Exited(7))), [7]);
    assert_eq!(code(&[Event::Shutdown], None), [320]);
}

#[test]
fn a_cancel_while_pulling_acts_at_once() {
    let pulling =
        [Event::Execute, Event::StageDone(Stage::User), Event::StageDone(Stage::Pod), Event::Stop(Cause::Cancelled)];
    let (machine, actions) = run(Role::Container, &pulling);
    assert!(actions.contains(&Action::Abandon));
    assert_eq!(machine.state(), State::CleaningUp);
}

#[test]
fn a_lost_mount_stops_the_container_and_is_named() {
    let mut events = started();
    events.extend([
        Event::MountLost("mount /data is lost".into()),
        Event::MountLost("another".into()),
        Event::Ended(Outcome::Ended(End::Exited(0))),
        Event::Drained,
        Event::CleanedUp,
    ]);
    let (_, actions) = run(Role::Container, &events);
    assert!(actions.iter().any(|action| matches!(action, Action::Stop { .. })));
    let wanted = Verdict { status: FinalStatus::Failed, exit_code: 323, reason: "mount /data is lost".into() };
    assert_eq!(finals(&actions), [wanted]);
}

fn any_event() -> impl Strategy<Value = Event> {
    let stages = [Stage::User, Stage::Pod, Stage::Mounts, Stage::Image, Stage::Prologs, Stage::Create, Stage::Start];
    let stage = prop::sample::select(stages.to_vec());
    let cause = prop::sample::select(vec![
        Cause::Cancelled,
        Cause::TimeLimit,
        Cause::Deadline,
        Cause::FrontendGone,
        Cause::JobEnd,
        Cause::MountLost,
    ]);
    let ended = |end| Some(Outcome::Ended(end));
    let end = prop::sample::select(vec![
        None,
        ended(End::Exited(7)),
        ended(End::Signalled(9)),
        Some(Outcome::OutOfMemory(End::Signalled(9))),
    ]);
    let outcome = prop::sample::select(vec![
        Outcome::Ended(End::Exited(0)),
        Outcome::Ended(End::Signalled(9)),
        Outcome::OutOfMemory(End::Signalled(9)),
        Outcome::Lost { reason: "gone".into() },
    ]);
    prop_oneof![
        Just(Event::Execute),
        cause.prop_map(Event::Stop),
        Just(Event::Shutdown),
        Just(Event::ShutdownAmid),
        stage.clone().prop_map(Event::StageDone),
        stage.prop_map(|stage| Event::StageFailed(stage, failure())),
        Just(Event::MountLost("bindfs ended".into())),
        outcome.prop_map(Event::Ended),
        Just(Event::Drained),
        Just(Event::CleanedUp),
        end.prop_map(Event::OutOfPatience),
        Just(Event::Delivered),
    ]
}

/// What an honest world answers when nothing else happens any more.
fn settle(machine: &mut Machine, actions: &mut Vec<Action>) {
    for _ in 0..40 {
        let event = match machine.state() {
            State::Ready | State::Running | State::Holding => Event::Shutdown,
            State::Preparing { stage, .. } => Event::StageDone(stage),
            State::Stopping { .. } => Event::Ended(Outcome::Ended(End::Signalled(15))),
            State::Collected => Event::Drained,
            State::CleaningUp => Event::CleanedUp,
            State::Reporting => Event::Delivered,
            State::Done => return,
        };
        actions.extend(machine.step(event));
    }
}

fn check(role: Role, events: Vec<Event>) -> Result<(), TestCaseError> {
    let (mut machine, mut actions) = Machine::new(role, Patience::default());
    for event in events {
        actions.extend(machine.step(event));
    }
    settle(&mut machine, &mut actions);
    prop_assert_eq!(machine.state(), State::Done);

    let exits = actions.iter().filter(|a| **a == Action::Exit).count();
    prop_assert_eq!(exits, 1);
    let executed_or_cancelled = !matches!(machine.outcome(), Some(Outcome::NeverExecuted { cause: Cause::JobEnd }));
    prop_assert_eq!(finals(&actions).len(), usize::from(executed_or_cancelled));

    let position = |wanted: &dyn Fn(&Action) -> bool| actions.iter().position(wanted);
    for (effect, record) in
        [(Action::Begin(Stage::Create), Acquisition::Container), (Action::Begin(Stage::Pod), Acquisition::Pod)]
    {
        let effect_at = position(&|a| *a == effect);
        if role == Role::Container && record == Acquisition::Pod {
            continue;
        }
        if let Some(effect_at) = effect_at {
            let recorded = position(&|a| *a == Action::Record(record));
            prop_assert!(recorded.is_some_and(|at| at < effect_at), "{:?} before it was written down", record);
            let undone = actions[effect_at..].iter().any(|a| matches!(a, Action::Undo | Action::HandOver));
            prop_assert!(undone, "{:?} never undone", record);
        }
    }
    let kept = position(&|a| matches!(a, Action::Keep(_)));
    let undone = position(&|a| matches!(a, Action::Undo | Action::HandOver));
    prop_assert!(kept < undone, "removed before the outcome was kept");
    let last_undo = actions.iter().rposition(|a| matches!(a, Action::Undo | Action::HandOver));
    let final_at = position(&|a| matches!(a, Action::Report(Report::Final(_))));
    prop_assert!(final_at.is_none_or(|at| last_undo < Some(at)), "reported before the clean-up");
    Ok(())
}

/// How many sequences of events are tried; `scripts/test --long` tries more.
fn cases() -> u32 {
    if std::env::var("CRANE_TEST_SIZE").is_ok_and(|size| size == "long") { 1_000_000 } else { 50_000 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]
    #[test]
    fn any_sequence_for_a_container_step_ends_well(events in prop::collection::vec(any_event(), 0..25)) {
        check(Role::Container, events)?;
    }

    #[test]
    fn any_sequence_for_a_pod_step_ends_well(events in prop::collection::vec(any_event(), 0..25)) {
        check(Role::Pod, events)?;
    }
}
