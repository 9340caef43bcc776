//! What the node's administrator wants of pulls. Never what a user asks for.
//!
//! Runs in the look-up's helper, as `privilege` does. A rule that protects holds when in
//! doubt: a configuration that cannot be used and names it counts as setting it.

use crate::config::Config;
use crate::identity::user::ImageRules;
use std::fs;
use std::io;
use std::path::Path;

/// The key of ours that protects.
const KEY: &str = "ReauthorizeImages";

/// `Supervisor: Container: ReauthorizeImages:` and `PullStallTimeout:`, and what is wrong with them.
pub fn rules(path: &Path) -> (ImageRules, Option<String>) {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (ImageRules::default(), None),
        Ok(_) | Err(_) => {}
    }
    match Config::read(path) {
        Ok((config, _notes)) => {
            let ours = config.supervisor.container;
            (ImageRules { reauthorize: ours.reauthorize_images, stall_s: ours.pull_stall_timeout }, None)
        }
        Err(error) => {
            let named = fs::read(path).map_or(true, |text| text.windows(KEY.len()).any(|part| part == KEY.as_bytes()));
            let told = named.then(|| format!("Supervisor.Container.{KEY} counts as set: {error}"));
            (ImageRules { reauthorize: named, ..ImageRules::default() }, told)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read_and_holds_when_in_doubt() {
        let path = std::env::temp_dir().join(format!("image-rules-{}", std::process::id()));
        for (text, reauthorize, stall_s, told) in [
            ("Supervisor: {Container: {ReauthorizeImages: true, PullStallTimeout: 5}}", true, Some(5), false),
            ("Supervisor: {Container: {ReauthorizeImages: false}}", false, None, false),
            ("CraneBaseDir: /x", false, None, false),
            ("Supervisor: {Container: {ReauthorizeImages: [", true, None, true),
            ("Supervisor: {Container: {ReauthorizeImages: perhaps}}", true, None, true),
            ("Supervisor: [", false, None, false),
        ] {
            fs::write(&path, text).unwrap();
            let (rules, problem) = rules(&path);
            assert_eq!((rules, problem.is_some()), (ImageRules { reauthorize, stall_s }, told), "{text}: {problem:?}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(rules(&path), (ImageRules::default(), None));
    }
}
