//! The guide's messages are the program's: each row of its tables of messages begins with words
//! that stand in the sources, so that whoever searches for a line of a log finds it. No runtime.

use std::fs;
use std::path::{Path, PathBuf};

/// A guide, and where in it the tables are: from where, to where.
type Guide = (&'static str, [(&'static str, &'static str); 2]);

const GUIDES: [Guide; 2] = [
    (
        "docs/operating.md",
        [
            ("\n## Messages", "What programs in a container say"),
            ("Warnings of the log that matter", "\n## The runtime"),
        ],
    ),
    ("docs/operating.zh.md", [("\n## 消息", "容器中的程序关于挂载会说"), ("日志中重要的警告", "\n## 运行时")]),
];

/// Stand for something in a message of the guide.
const PLACEHOLDERS: &[&str] = &["N", "U", "A", "B", "X", "J", "J.S", "\"…\"", "[…]", "(…)", "(STATUS)"];

/// Put together from short words; those that stand in the sources.
const COMPOSED: &[(&str, &str)] = &[
    ("container_config.subid.uid_mappings[", "uid_mappings"),
    ("cannot clone PATH", "\"clone\""),
    ("cannot run lock-mounts: cannot copy the mounts", "\"copy the mounts\""),
];

fn read(path: impl AsRef<Path>) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every source, as its strings are at run time: continued lines joined, `{…}` one sign.
fn sources() -> String {
    let mut open = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut all = String::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            all.push_str(&read(path));
        }
    }
    let mut parts = all.split("\\\n");
    let first = parts.next().unwrap_or_default().to_owned();
    let joined = parts.fold(first, |text, part| text + part.trim_start());
    without_arguments(&joined.replace("\\\"", "\""))
}

fn without_arguments(text: &str) -> String {
    let mut parts = text.split('{');
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once('}') {
            Some((name, rest)) if name.len() < 40 && !name.contains([' ', '\n']) => {
                kept.push('\0');
                kept.push_str(rest);
            }
            _ => {
                kept.push('{');
                kept.push_str(part);
            }
        }
    }
    kept
}

/// The first cell's code spans of each row.
fn messages((name, tables): &Guide) -> Vec<String> {
    let guide = read(name);
    let mut found = Vec::new();
    for (from, to) in tables {
        let start = guide.find(from).unwrap_or_else(|| panic!("the guide has no {from:?}"));
        let end = start + guide[start..].find(to).unwrap_or_else(|| panic!("the guide has no {to:?}"));
        for row in guide[start..end].lines().filter(|line| line.starts_with("| `")) {
            let cell = row.split(" | ").next().unwrap_or_default();
            found.extend(cell.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// Runs of words between placeholders: `…`, words in capitals, numbers.
fn fragments(message: &str) -> Vec<Vec<&str>> {
    let mut found = vec![Vec::new()];
    for word in message.split_whitespace().flat_map(|word| word.split_inclusive('…')) {
        let bare = word.trim_matches([':', ',', ';', '.']);
        let capitals = bare.len() > 1 && bare.chars().all(|c| c.is_ascii_uppercase());
        let number = bare.chars().any(|c| c.is_ascii_digit());
        if word.contains('…') || capitals || number || PLACEHOLDERS.contains(&bare) {
            found.push(Vec::new());
        } else if let Some(last) = found.last_mut() {
            last.push(word);
        }
    }
    found
}

/// Is most of the longest fragment in the sources as it stands? Some messages are put together from two.
fn is_ours(message: &str, sources: &str) -> bool {
    if let Some((_, words)) = COMPOSED.iter().find(|(beginning, _)| message.starts_with(beginning)) {
        return sources.contains(words);
    }
    let longest = fragments(message).into_iter().max_by_key(|words| words.join(" ").len()).unwrap_or_default();
    let whole = longest.join(" ").len();
    let run = |from: usize, to: usize| longest[from..to].join(" ").trim_matches([':', ',', ';', ' ']).to_owned();
    let mut runs: Vec<String> = (0..longest.len())
        .flat_map(|from| (from + 1..=longest.len()).map(move |to| (from, to)))
        .map(|(f, t)| run(f, t))
        .collect();
    runs.retain(|run| run.len() * 2 > whole);
    runs.sort_by_key(|run| std::cmp::Reverse(run.len()));
    whole == 0 || runs.iter().any(|run| sources.contains(run.as_str()))
}

#[test]
fn every_message_of_the_guides_is_the_programs() {
    let sources = sources();
    for guide in &GUIDES {
        let messages = messages(guide);
        assert!(messages.len() > 100, "only {} messages were found in {}", messages.len(), guide.0);
        let foreign: Vec<_> = messages.iter().filter(|message| !is_ours(message, &sources)).collect();
        assert!(foreign.is_empty(), "{}: messages that the program does not have: {foreign:#?}", guide.0);
    }
}
