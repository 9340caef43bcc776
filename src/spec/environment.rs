//! What is in a container's environment, and who wins.
//!
//! image < init message < step < user's `-e`, except that craned's own CRANE_*
//! and SLURM_* always win (craned contract). The image's part is merged by the
//! runtime.

use super::{Rejection, Secret};
use crate::wire::crane::StepToD;
use crate::wire::crane::supervisor::InitSupervisorRequest;
use std::collections::{BTreeMap, HashMap};

/// What exec(2) takes for one string, NUL included (MAX_ARG_STRLEN).
const ENTRY_MAX: usize = 131_072;

/// The environment craned gave the step, without the container's own part.
pub(super) fn of_step(init: &InitSupervisorRequest, step: &StepToD) -> BTreeMap<String, Secret> {
    let both = init.env.iter().chain(&step.env);
    both.map(|(key, value)| (key.clone(), Secret::new(value))).collect()
}

/// The whole environment of the container.
pub(super) fn of_container(
    init: &InitSupervisorRequest,
    step: &StepToD,
    user: &HashMap<String, String>,
) -> Result<BTreeMap<String, Secret>, Rejection> {
    let mut env = of_step(init, step);
    for (key, value) in user {
        let taken = is_craned(key) && env.contains_key(key);
        if !taken {
            env.insert(key.clone(), Secret::new(value));
        }
    }
    env.extend(time_limit(step));
    if init.enable_slurm_compatible_env {
        env.extend(slurm(step));
    }
    for (key, value) in &env {
        check(key, value.reveal())?;
    }
    Ok(env)
}

/// Whether a variable is of those that craned sets.
pub fn is_craned(key: &str) -> bool {
    key.starts_with("CRANE_") || key.starts_with("SLURM_")
}

/// `HH:MM:SS`, hours unbounded.
fn time_limit(step: &StepToD) -> Option<(String, Secret)> {
    let seconds = super::bounded(step.time_limit.as_ref()?.seconds).filter(|&s| s > 0)?;
    let text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    Some(("CRANE_TIMELIMIT".to_owned(), Secret::new(text)))
}

fn slurm(step: &StepToD) -> Vec<(String, Secret)> {
    let mut tasks: Vec<u32> = step.task_res_map.keys().copied().collect();
    tasks.sort_unstable();
    let first = tasks.first().copied().unwrap_or_default();
    let ids = tasks.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    [
        ("SLURM_CPU_BIND_TYPE", "none".to_owned()),
        ("SLURM_STEP_NUM_TASKS", step.task_node_list.len().to_string()),
        ("SLURM_GTIDS", ids),
        ("SLURM_PROCID", first.to_string()),
        ("SLURM_LOCALID", "0".to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), Secret::new(value)))
    .into()
}

/// What execve(2) could not pass on is said here, by name only.
fn check(key: &str, value: &str) -> Result<(), Rejection> {
    check_variable(key, value).map_err(|problem| Rejection::new("env", problem))
}

/// Whether execve(2) can pass a variable on; else its name and what is wrong.
///
/// # Errors
/// The text, without the value.
pub fn check_variable(key: &str, value: &str) -> Result<(), String> {
    let problem = match () {
        () if key.is_empty() => "a name is empty",
        () if key.contains(['=', '\0']) => "the name holds '=' or NUL",
        () if value.contains('\0') => "the value holds NUL",
        () if key.len() + value.len() + 2 > ENTRY_MAX => "longer than the 128 KiB one entry may have",
        () => return Ok(()),
    };
    let shown: String = key.escape_debug().take(64).collect();
    Err(format!("{shown}: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn merged(init: &[(&str, &str)], step: &[(&str, &str)], user: &[(&str, &str)]) -> BTreeMap<String, String> {
        let init = InitSupervisorRequest { env: map(init), ..Default::default() };
        let step = StepToD { env: map(step), ..Default::default() };
        let env = of_container(&init, &step, &map(user)).unwrap();
        env.into_iter().map(|(key, value)| (key, value.reveal().to_owned())).collect()
    }

    #[test]
    fn the_later_source_wins() {
        let env =
            merged(&[("A", "init"), ("B", "init"), ("C", "init")], &[("B", "step"), ("C", "step")], &[("C", "user")]);
        assert_eq!((env["A"].as_str(), env["B"].as_str(), env["C"].as_str()), ("init", "step", "user"));
    }

    #[test]
    fn craneds_own_variables_win_over_the_user() {
        let env = merged(
            &[("CRANE_JOB_ID", "7")],
            &[("SLURM_JOB_ID", "7")],
            &[("CRANE_JOB_ID", "1"), ("SLURM_JOB_ID", "1"), ("CRANE_MINE", "x")],
        );
        assert_eq!(
            (env["CRANE_JOB_ID"].as_str(), env["SLURM_JOB_ID"].as_str(), env["CRANE_MINE"].as_str()),
            ("7", "7", "x")
        );
    }

    #[test]
    fn what_exec_cannot_pass_is_refused_without_its_value() {
        let init = InitSupervisorRequest::default();
        let step = StepToD::default();
        for (key, value) in [("", "canary"), ("A=B", "canary"), ("A", "can\0ary")] {
            let rejection = of_container(&init, &step, &map(&[(key, value)])).unwrap_err();
            assert!(rejection.reason.starts_with("env: ") && !rejection.reason.contains("canary"));
        }
        assert!(of_container(&init, &step, &map(&[("A", &"x".repeat(200_000))])).is_err());
        assert!(of_container(&init, &step, &map(&[("A", "two\nlines=and more"), ("EMPTY", "")])).is_ok());
    }

    #[test]
    fn the_time_limit_is_told_in_hours() {
        let limit =
            |seconds| StepToD { time_limit: Some(prost_types::Duration { seconds, nanos: 0 }), ..Default::default() };
        let told = |seconds| time_limit(&limit(seconds)).map(|(_, value)| value.reveal().to_owned());
        assert_eq!(told(90_061).as_deref(), Some("25:01:01"));
        assert_eq!(told(0), None);
        assert_eq!(told(253_402_300_799), None);
    }
}
