//! What a prolog's output asks for: lines `export N=V`, `unset N` and `print …`. Pure.
//!
//! Everything else it prints is for nobody. craned's own names stay as craned set them.

use crate::spec::{self, Secret};
use std::collections::BTreeMap;

/// What a prolog changes of its step.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// In order; `None` takes the variable away.
    changes: Vec<(String, Option<Secret>)>,
    /// Lines for the step's output.
    pub prints: Vec<String>,
    /// Lines that cannot be honoured, and why; no values.
    pub refused: Vec<String>,
}

impl Effects {
    /// Reads what a prolog printed.
    pub fn read(output: &str) -> Self {
        let mut effects = Self::default();
        for line in output.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "export" => effects.export(rest),
                "unset" => effects.unset(rest.trim()),
                "print" => effects.prints.push(rest.to_owned()),
                _ => {}
            }
        }
        effects
    }

    fn export(&mut self, text: &str) {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let name = name.trim();
        match spec::check_variable(name, value) {
            Ok(()) => self.changes.push((name.to_owned(), Some(Secret::new(value)))),
            Err(problem) => self.refused.push(format!("export: {problem}")),
        }
    }

    fn unset(&mut self, name: &str) {
        match spec::check_variable(name, "") {
            Ok(()) => self.changes.push((name.to_owned(), None)),
            Err(problem) => self.refused.push(format!("unset: {problem}")),
        }
    }

    /// Makes the changes.
    pub fn apply(&self, env: &mut BTreeMap<String, Secret>) {
        for (name, value) in &self.changes {
            let craneds = spec::is_craned_variable(name) && env.contains_key(name);
            match value {
                _ if craneds => {}
                Some(value) => drop(env.insert(name.clone(), value.clone())),
                None => drop(env.remove(name)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_words_act_and_the_rest_is_talk() {
        let effects = Effects::read(
            "export A=one=two\nexport EMPTY=\nunset B\nprint hello  you\nexport =x\nunset C=D\nhello\nexport CRANE_JOB_ID=9\nprint",
        );
        let mut env: BTreeMap<String, Secret> =
            [("B", "b"), ("CRANE_JOB_ID", "7")].map(|(key, value)| (key.to_owned(), Secret::new(value))).into();
        effects.apply(&mut env);
        let env: Vec<_> = env.iter().map(|(key, value)| (key.as_str(), value.reveal())).collect();
        assert_eq!(env, [("A", "one=two"), ("CRANE_JOB_ID", "7"), ("EMPTY", "")]);
        assert_eq!(effects.prints, ["hello  you", ""]);
        assert_eq!(effects.refused.len(), 2, "{:?}", effects.refused);
    }
}
