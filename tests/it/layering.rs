//! Imports run one way (design, source tree), and what is dangerous stays where
//! it belongs. Reads the sources; needs no runtime.

use std::path::{Path, PathBuf};

/// Lower knows nothing of higher. A module stands at its longest prefix here.
const LEVELS: &[(&str, u32)] = &[
    // What everything may name.
    ("ids", 0),
    ("exit_code", 0),
    ("failpoint", 0),
    ("outcome", 0),
    ("wire", 0),
    ("cri::api", 0),
    // Pure: no clock, no I/O.
    ("layout", 1),
    ("spec", 1),
    ("config", 1),
    ("step::state", 1),
    ("step::event", 1),
    ("step::history", 1),
    ("step::action", 1),
    ("step::machine", 1),
    ("step::timers", 1),
    ("step::advance", 1),
    ("step::effects", 1),
    ("step::patience", 1),
    ("identity::idmap", 1),
    ("identity::subid::compute", 1),
    ("mounts::plan", 1),
    ("cri::endpoint", 1),
    ("cri::labels", 1),
    ("cri::sandbox", 1),
    ("cri::container", 1),
    ("cri::image", 1),
    ("cri::find", 2),
    ("cri::streaming", 2),
    ("cri::info", 1),
    ("cri::error", 1),
    ("cri::retry", 1),
    ("logs::line", 1),
    ("cleanup::entry", 1),
    // Edges: one outside thing each.
    ("sys", 2),
    ("identity::user", 1),
    ("identity", 2),
    ("channel", 2),
    ("cri", 2),
    ("cri::client", 2),
    ("cri::witness", 2),
    ("cri::oom", 2),
    ("mounts", 2),
    ("cleanup", 2),
    ("report", 2),
    ("handshake", 2),
    ("telemetry", 2),
    ("logs", 2),
    ("credentials", 2),
    ("interact", 3),
    ("interact::keys", 1),
    ("interact::status", 1),
    // Loops that run beside the driver.
    ("cri::watch", 3),
    ("cri::events", 3),
    ("logs::follow", 3),
    ("report::outbox", 3),
    ("control", 3),
    // The one loop that decides.
    ("step", 4),
    ("step::driver", 4),
    // What starts it.
    ("local", 5),
    ("cli", 5),
    ("lib", 6),
    ("main", 6),
];

/// Only these may name the generated craned messages.
const SEES_WIRE: [&str; 6] = ["wire", "handshake", "spec", "control", "report", "local"];
/// Only these may name the generated CRI messages.
const SEES_CRI_API: [&str; 3] = ["cri", "cli", "local"];

struct Source {
    /// `cri::client` for `src/cri/client.rs`.
    module: String,
    /// Without its tests.
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|kind| kind == "rs")
            && path.file_stem().is_some_and(|stem| !stem.to_string_lossy().ends_with("tests"))
        {
            found.push(source(&root, &path));
        }
    }
    assert!(found.len() > 5, "no sources below {}", root.display());
    found
}

fn source(root: &Path, path: &PathBuf) -> Source {
    let relative = path.strip_prefix(root).unwrap().with_extension("");
    let module = relative.to_str().unwrap().replace('/', "::");
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("\n#[cfg(test)]").next().unwrap_or_default();
    let code: Vec<_> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    Source { module, text: code.join("\n") }
}

fn level(module: &str) -> Option<u32> {
    let fits = |name: &str| module == name || module.strip_prefix(name).is_some_and(|rest| rest.starts_with("::"));
    let best = LEVELS.iter().filter(|(name, _)| fits(name)).max_by_key(|(name, _)| name.len());
    best.map(|(_, level)| *level)
}

/// Every `crate::a::b` the text names, groups spread out: `crate::a::{b, c::d}` is two.
fn named(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (start, _) in text.match_indices("crate::") {
        let rest = &text[start + "crate::".len()..];
        let path: String = rest.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':')).collect();
        let tail = &rest[path.len()..];
        match path.strip_suffix("::").filter(|_| tail.starts_with('{')) {
            Some(prefix) => found.extend(group(tail).into_iter().map(|part| format!("{prefix}::{part}"))),
            None if path.is_empty() && tail.starts_with('{') => found.extend(group(tail)),
            None => found.push(path),
        }
    }
    found
}

/// The first words of the parts of a `{…}`.
fn group(text: &str) -> Vec<String> {
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in text.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' if depth == 1 => parts.push(String::new()),
            c if depth == 1 && !c.is_whitespace() => parts.last_mut().unwrap().push(c),
            _ => {}
        }
    }
    parts.into_iter().filter(|part| !part.is_empty()).collect()
}

fn top(module: &str) -> &str {
    module.split("::").next().unwrap_or(module)
}

#[test]
fn imports_run_one_way() {
    let mut wrong = Vec::new();
    for source in sources() {
        let Some(own) = level(&source.module) else {
            wrong.push(format!("{} has no level: add it to the table", source.module));
            continue;
        };
        for name in named(&source.text) {
            // Its own submodules are part of it.
            let inside = name.starts_with(&format!("{}::", source.module));
            match level(&name) {
                Some(other) if other > own && !inside => {
                    wrong.push(format!("{} ({own}) uses {name} ({other})", source.module))
                }
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_machine_and_its_neighbours_have_no_clock_and_no_io() {
    let forbidden =
        ["std::fs", "std::net", "std::process", "tokio::", "Instant::now", "SystemTime::now", "nix::", "rustix::"];
    let pure = ["step::state", "step::event", "step::action", "step::machine", "cri::labels"];
    let mut wrong = Vec::new();
    for source in sources() {
        if pure.iter().any(|name| source.module == *name || source.module.starts_with(&format!("{name}::"))) {
            let used = forbidden.iter().filter(|word| source.text.contains(**word));
            wrong.extend(used.map(|word| format!("{} uses {word}", source.module)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn generated_messages_stay_behind_their_modules() {
    let mut wrong = Vec::new();
    for source in sources() {
        for name in named(&source.text) {
            let wire = top(&name) == "wire" && !SEES_WIRE.contains(&top(&source.module));
            let api = name.starts_with("cri::api") && !SEES_CRI_API.contains(&top(&source.module));
            if wire || api {
                wrong.push(format!("{} uses {name}", source.module));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_only_below_sys_and_gives_its_reason() {
    let mut wrong = Vec::new();
    for source in sources() {
        let below_sys = top(&source.module) == "sys";
        if !below_sys && (source.text.contains("unsafe {") || source.text.contains("unsafe fn")) {
            wrong.push(source.module);
        }
    }
    assert!(wrong.is_empty(), "unsafe outside sys: {}", wrong.join(", "));
}

#[test]
fn no_file_and_no_module_header_breaks_the_house_style() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for source in sources() {
        let path = root.join(source.module.replace("::", "/")).with_extension("rs");
        let text = std::fs::read_to_string(&path).unwrap();
        if text.lines().count() > 400 {
            wrong.push(format!("{}: over 400 lines", source.module));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{}: no module header", source.module));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
