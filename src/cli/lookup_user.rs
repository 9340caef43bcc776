//! `lookup-user [--subids JSON] UID [GID…]`: the part of a look-up that may block or load
//! libraries, in a process of its own.

use crate::identity::look_up;
use crate::sys::{awaited, privileges, stdio};
use std::ffi::OsString;
use std::process::ExitCode;

/// The user and the groups, if this is a look-up's command line.
pub fn arguments(words: &[OsString]) -> Option<(u32, Vec<u32>)> {
    let mut words = words.iter().skip(1).map(|word| word.to_str());
    words.next().filter(|word| *word == Some(look_up::COMMAND))?;
    let mut ids = words.map(|word| word?.parse().ok());
    Some((ids.next()??, ids.collect::<Option<_>>()?))
}

/// Answers on standard output, in a line of JSON.
pub fn run(uid: u32, gids: &[u32], subids: Option<&str>) -> ExitCode {
    // A name service's library must not be the last thing the kernel would kill.
    drop(privileges::ordinary_oom_score());
    // A supervisor that was killed leaves nobody who would end a look-up that hangs.
    let answer = awaited::while_awaited(|| look_up::answer(uid, gids, subids));
    match answer.and_then(|answer| stdio::out(format!("{answer}\n").as_bytes())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_look_up_is_read() {
        let read = |line: &str| arguments(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(read("c lookup-user 7"), Some((7, vec![])));
        assert_eq!(read("c lookup-user 7 8 9"), Some((7, vec![8, 9])));
        for line in ["c", "c run lookup-user 7", "c lookup-user", "c lookup-user x", "c lookup-user 7 -1"] {
            assert_eq!(read(line), None, "{line}");
        }
    }
}
