//! craned's exit codes: 0–255 the process's own, 256+N killed by signal N,
//! 320 and up what kept it from running or ended it (craned contract).

/// Ended on request, with no end of its own.
pub const TERMINATED: u32 = 320;
/// The job's user is unknown on this node.
pub const PERMISSION_DENIED: u32 = 321;
/// The job's cgroup is unusable.
pub const CGROUP_ERROR: u32 = 322;
/// Pod, image, mount or create failed.
pub const PREPARATION_FAILED: u32 = 323;
/// Start failed, or the program is missing.
pub const SPAWN_FAILED: u32 = 324;
/// The time limit ended it.
pub const TIME_LIMIT: u32 = 325;
/// The end could not be learnt.
pub const RPC_ERROR: u32 = 328;
/// A prolog failed.
pub const PROLOG_FAILED: u32 = 329;
/// The absolute deadline ended it.
pub const DEADLINE: u32 = 330;

/// craned's code for a process killed by `signal`.
pub fn of_signal(signal: i32) -> u32 {
    256u32.saturating_add(u32::try_from(signal).unwrap_or(0))
}

/// What a shell would show for craned's `code`: 0–255 as is, 128+N for signals.
///
/// `None` for craned's own codes, which no process can end with.
pub fn as_shell(code: u32) -> Option<u8> {
    match code {
        0..=255 => u8::try_from(code).ok(),
        256..=319 => u8::try_from(code - 256 + 128).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_shift_by_256_and_show_as_128() {
        assert_eq!(of_signal(9), 265);
        assert_eq!(as_shell(265), Some(137));
        assert_eq!(as_shell(130), Some(130));
        assert_eq!(as_shell(TIME_LIMIT), None);
    }
}
