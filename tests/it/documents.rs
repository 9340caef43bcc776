//! The documents do not drift: every command in them is one that is run or understood, every link
//! leads somewhere, and every test they name is there. Most of it needs no runtime.
//!
//! Commands stand in blocks marked `sh`. Ours are parsed by the program's own definition, and
//! some test must run them; all others are in the table [`RUN_BY`], which says who runs them.

use crate::support::job::Job;
use crate::support::runtime::on_each;
use crate::support::supervisor::BINARY;
use crate::support::{leaks, wait};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Written for people; their commands, links and named tests hold.
const DOCUMENTS: &[&str] = &[
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/operating.md",
    "docs/security.md",
    "docs/compatibility.md",
    "docs/design.md",
    "README.zh.md",
    "docs/operating.zh.md",
];

/// Translations: they may lag behind, but have no command that the original has not.
const TRANSLATIONS: &[(&str, &str)] = &[("README.md", "README.zh.md"), ("docs/operating.md", "docs/operating.zh.md")];

/// Who runs the commands that are not ours: a file, and words in it.
const RUN_BY: &[(&str, &str, &str)] = &[
    ("cargo build --release --locked", "scripts/package", "cargo build --locked --release"),
    ("cargo build", "scripts/demo", "cargo build --locked"),
    (
        "echo hi | crane-supervisor run -i alpine:latest -- cat",
        "tests/it/attach.rs",
        r#"&["-i", "alpine:latest", "--", "cat"]), b"hi\n""#,
    ),
    ("cat >config.yaml", "scripts/demo", "write_config"),
    // The same packages, by the tools that apt and dnf call.
    ("apt install ./", "scripts/lib/packages-inside.sh", "dpkg -i"),
    ("dnf install ./", "scripts/lib/packages-inside.sh", "rpm \"${database[@]}\""),
    // Not installed: the testbed unpacks the same packages.
    (
        "apt install containerd runc containernetworking-plugins",
        "scripts/lib/runtime.sh",
        "containernetworking-plugins",
    ),
    // Not run: no craned and no systemd here. The doubles of tests/it start a new craned under running steps.
    ("systemctl restart craned", "tests/it/e2e.rs", "fn the_end_is_reported_when_craned_is_back("),
    // How a package's tree is made.
    ("install -D -m 0755 target/release/crane-supervisor", "scripts/lib/package.sh", "install -D"),
    ("flock -n", "tests/it/documents.rs", "a_dead_step_is_cleared_by_the_guides_own_words"),
    ("ls <TempDir>", "tests/it/documents.rs", "a_dead_step_is_cleared_by_the_guides_own_words"),
    ("findmnt ", "tests/it/documents.rs", "a_dead_step_is_cleared_by_the_guides_own_words"),
    ("rm -r --one-file-system <TempDir>", "tests/it/documents.rs", "a_dead_step_is_cleared_by_the_guides_own_words"),
    ("rmdir <MountBaseDir>", "tests/it/documents.rs", "a_dead_step_is_cleared_by_the_guides_own_words"),
    ("rm -f /tmp/crane", "tests/it/documents.rs", "a_dead_step_is_cleared_by_the_guides_own_words"),
    // Not run: it would change the machine's own settings. The package's file has the line.
    ("echo fs.inotify.max_user_instances=8192", "packaging/common/sysctl.conf", "fs.inotify.max_user_instances = 8192"),
    ("sysctl --system", "packaging/common/sysctl.conf", "fs.inotify"),
    // Not run: Debian 12 has no crictl. The same calls are made by `Runtime::purge`.
    ("crictl ", "tests/support/runtime.rs", "pub fn purge"),
];

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(repository().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Lines of blocks marked `sh`, continued ones joined, without comments and here-documents.
fn commands(text: &str) -> Vec<String> {
    let (mut found, mut block, mut here, mut begun) = (Vec::new(), None, None::<String>, String::new());
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), block) {
            (Some(language), None) => block = Some(language == "sh"),
            (Some(_), Some(_)) => block = None,
            (None, Some(true)) => match &here {
                Some(end) if line == end => here = None,
                Some(_) => {}
                None => match line.strip_suffix('\\') {
                    Some(part) => begun.push_str(part),
                    None => {
                        begun.push_str(line.split(" #").next().unwrap_or_default());
                        here = begun.split_once("<<'").and_then(|(_, rest)| rest.strip_suffix('\'')).map(str::to_owned);
                        found.push(std::mem::take(&mut begun).trim().to_owned());
                    }
                },
            },
            (None, _) => {}
        }
    }
    found.retain(|line| !line.is_empty());
    found
}

/// Lines of other blocks.
fn shown(text: &str) -> Vec<&str> {
    let mut block = None;
    let mut found = Vec::new();
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), block) {
            (Some(language), None) => block = Some(language),
            (Some(_), Some(_)) => block = None,
            (None, Some(language)) if language != "sh" => found.push(line),
            (None, _) => {}
        }
    }
    found
}

/// Code spans of the running text.
fn spans(text: &str) -> Vec<&str> {
    let lines = text.split("```").step_by(2).flat_map(str::lines);
    lines.flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// Words as a shell makes them of a line with plain quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// What is wrong with a command line of ours.
fn ours(words: &[String]) -> Option<String> {
    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
    if let Err(error) = crane_supervisor::cli::definition().try_get_matches_from(words)
        && !matches!(error.kind(), DisplayHelp | DisplayVersion)
    {
        return Some(error.to_string());
    }
    let command = words.get(1)?;
    (!command.starts_with('-') && !is_run(command)).then(|| format!("no test gives the program the word {command:?}"))
}

/// Does any test start the program with that word?
fn is_run(command: &str) -> bool {
    let word = format!("\"{command}\"");
    let mut tests = fs::read_dir(repository().join("tests/it")).unwrap().map(|entry| entry.unwrap().path());
    tests.any(|path| !path.ends_with("documents.rs") && fs::read_to_string(path).is_ok_and(|text| text.contains(&word)))
}

/// What is wrong with a line that starts one of our scripts: each option must be the script's.
fn script(words: &[String]) -> Option<String> {
    let path = repository().join(&words[0]);
    let Ok(text) = fs::read_to_string(&path) else { return Some("no such script".into()) };
    let executable = path.metadata().is_ok_and(|file| file.permissions().mode() & 0o100 != 0);
    let own: Vec<&String> = words.iter().take_while(|word| *word != "--").skip(1).collect();
    // The benchmark and the soak hand their options on.
    let known = |word: &str| text.contains(word) || read("bench/args.rs").contains(word);
    match own.iter().find(|word| word.starts_with("--") && !known(word)) {
        _ if !executable => Some("the script is not executable".into()),
        Some(option) => Some(format!("the script has no {option}")),
        None => words.iter().position(|word| word == "--").and_then(|at| judge_words(&words[at + 1..])),
    }
}

fn judge_words(words: &[String]) -> Option<String> {
    let name = words.first().map(String::as_str).unwrap_or_default();
    if name.rsplit('/').next() == Some("crane-supervisor") {
        return ours(words);
    }
    name.starts_with("scripts/").then(|| script(words)).flatten()
}

fn judge(line: &str) -> Option<String> {
    let words = words(line);
    if words[0].rsplit('/').next() == Some("crane-supervisor") || words[0].starts_with("scripts/") {
        return judge_words(&words);
    }
    match RUN_BY.iter().find(|(command, ..)| line.starts_with(command)) {
        Some((_, file, needle)) if !read(file).contains(needle) => Some(format!("{file} has no {needle:?} any more")),
        Some(_) => None,
        None => Some("nobody runs it: see the table RUN_BY".into()),
    }
}

/// Is `module::name` a test of this binary?
fn is_test(name: &str) -> bool {
    let Some((module, test)) = name.rsplit_once("::") else { return false };
    let file = repository().join(format!("tests/it/{}.rs", module.replace("::", "/")));
    fs::read_to_string(file).is_ok_and(|text| text.contains(&format!("fn {test}(")))
}

#[test]
fn every_command_is_understood_and_run_by_somebody() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for document in DOCUMENTS {
        let text = read(document);
        for line in commands(&text) {
            count += 1;
            wrong.extend(judge(&line).map(|why| format!("{document}: {line}\n    {why}")));
        }
        for span in spans(&text).iter().filter(|span| span.starts_with("crane-supervisor ")) {
            // A command that is only named is asked for its help; a placeholder is some step.
            let mut spoken = words(&span.replace("JOB.STEP", "42.1"));
            if spoken.len() == 2 {
                spoken.push("--help".to_owned());
            }
            wrong.extend(ours(&spoken).map(|why| format!("{document}: `{span}`\n    {why}")));
        }
        let unmarked = |line: &&&str| ["crane-supervisor ", "cargo "].iter().any(|word| line.starts_with(word));
        for line in shown(&text).iter().filter(unmarked) {
            wrong.push(format!("{document}: {line}\n    a command, in a block that is not marked sh"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 30, "only {count} commands were found: are the blocks marked sh?");
}

#[test]
fn every_command_of_the_program_is_in_the_guide() {
    let guide = read("docs/operating.md") + &read("README.md");
    let definition = crane_supervisor::cli::definition();
    let visible = definition.get_subcommands().filter(|command| !command.is_hide_set());
    let missing: Vec<_> = visible
        .map(|command| format!("crane-supervisor {}", command.get_name()))
        .filter(|c| !guide.contains(c))
        .collect();
    assert!(missing.is_empty(), "neither README nor guide has {missing:?}");
}

#[test]
fn a_translation_has_no_command_of_its_own() {
    for (original, translation) in TRANSLATIONS {
        let (original, translated) = (commands(&read(original)), commands(&read(translation)));
        let own: Vec<_> = translated.iter().filter(|line| !original.contains(line)).collect();
        assert!(own.is_empty(), "{translation}: changed or gone in the original: {own:#?}");
        assert!(translated.len() * 2 > original.len(), "{translation}: most commands are missing");
    }
}

/// Blocks of that language, without the indent of a list.
fn blocks(text: &str, wanted: &str) -> Vec<String> {
    let (mut found, mut block, mut indent) = (Vec::new(), None::<String>, 0);
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), block.take()) {
            (Some(language), None) => {
                indent = line.len() - line.trim_start().len();
                block = (language == wanted).then(String::new);
            }
            (Some(_), Some(text)) => found.push(text),
            (None, Some(text)) => block = Some(text + line.get(indent..).unwrap_or_default() + "\n"),
            (None, None) => {}
        }
    }
    found
}

#[test]
fn every_configuration_is_read_without_a_note() {
    let mut count = 0;
    for document in DOCUMENTS {
        let text = read(document);
        for block in blocks(&text, "json") {
            serde_json::from_str::<serde_json::Value>(&block)
                .unwrap_or_else(|error| panic!("{document}: {error}\n{block}"));
        }
        for block in blocks(&text, "yaml") {
            count += 1;
            let file = std::env::temp_dir().join(format!("cs-documents-{}.yaml", std::process::id()));
            fs::write(&file, &block).unwrap();
            let read = crane_supervisor::config::Config::read(&file);
            fs::remove_file(&file).unwrap();
            let (_, notes) = read.unwrap_or_else(|error| panic!("{document}: {error}\n{block}"));
            assert!(notes.is_empty(), "{document}: {notes:?}\n{block}");
        }
    }
    assert!(count >= 4, "only {count} configurations were found");
}

/// As GitHub names the anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(text: &str) -> Vec<String> {
    let outside = text.split("```").step_by(2).flat_map(str::lines);
    outside.filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#'))).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrong = Vec::new();
    for document in DOCUMENTS {
        let text = read(document);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, place) = target.split_once('#').map_or((target, None), |(file, place)| (file, Some(place)));
            if target.starts_with("http") {
                continue;
            }
            let path = if file.is_empty() {
                repository().join(document)
            } else {
                repository().join(document).parent().unwrap().join(file)
            };
            let found = match (fs::read_to_string(&path), place) {
                (Ok(text), Some(place)) => anchors(&text).iter().any(|anchor| anchor == place),
                (read, _) => read.is_ok() || path.is_dir(),
            };
            if !found {
                wrong.push(format!("{document}: {target}"));
            }
        }
    }
    assert!(wrong.is_empty(), "links to nowhere:\n{}", wrong.join("\n"));
}

#[test]
fn every_test_that_is_named_is_there() {
    let is_name =
        |span: &&&str| span.split("::").count() == 2 && span.chars().all(|c| c.is_alphanumeric() || "_:".contains(c));
    let mut wrong = Vec::new();
    for document in DOCUMENTS {
        let text = read(document);
        for span in spans(&text).iter().filter(is_name) {
            let (module, test) = span.split_once("::").unwrap();
            let of_tests = repository().join(format!("tests/it/{module}.rs")).exists();
            let of_sources = !test.is_empty() && repository().join(format!("src/{module}/{test}.rs")).exists();
            if of_tests && !test.is_empty() && !of_sources && !is_test(span) {
                wrong.push(format!("{document}: {span}"));
            }
        }
    }
    assert!(wrong.is_empty(), "tests that are not there:\n{}", wrong.join("\n"));
}

/// A line of the guide that begins so, with this job's places in it.
fn from_the_guide(beginning: &str, job: &Job, step: u32) -> String {
    let guide = commands(&read("docs/operating.md"));
    let line = guide.iter().find(|line| line.starts_with(beginning));
    let line = line.unwrap_or_else(|| panic!("the guide has no line {beginning:?}"));
    line.replace("<TempDir>", &job.places().temp.display().to_string())
        .replace("<MountBaseDir>", &job.places().mount_base.display().to_string())
        .replace("<job>", &job.id().to_string())
        .replace("<step>", &step.to_string())
}

fn shell(line: &str) -> String {
    let output = Command::new("bash").args(["-c", line]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_dead_step_is_cleared_by_the_guides_own_words() {
    on_each(|runtime| {
        let job = Job::on(runtime);
        let data = job.places().root.join("data");
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("kept"), "the user's").unwrap();
        let job = job.with_mount(&data, "/data");
        let (mut pod, mut step) = (job.pod(), job.running("echo ready; sleep 300"));
        let state = |number| shell(&from_the_guide("flock -n", &job, number));
        assert_eq!((state(0), state(1)), ("alive".to_owned(), "alive".to_owned()));
        step.kill9_unguarded();
        pod.kill9_unguarded();
        assert_eq!((state(0), state(1)), ("dead".to_owned(), "dead".to_owned()));
        let journals = shell(&from_the_guide("ls <TempDir>", &job, 0));
        assert_eq!(journals.lines().count(), 2, "{journals}");
        // By the program's own reaper the container step, by hand the rest.
        let reap = from_the_guide("crane-supervisor reap", &job, 1).replacen("crane-supervisor", BINARY, 1);
        assert_eq!(shell(&reap), "!", "{reap}");
        let directory = job.places().temp.join(format!("{}/steps/1", job.id()));
        wait::holds("the reaper is done", Duration::from_secs(60), || !directory.exists());
        // What the guide's lines of crictl do.
        runtime.purge(job.id());
        for beginning in ["findmnt", "rm -r", "rmdir", "rm -f"] {
            shell(&from_the_guide(beginning, &job, 0));
        }
        assert_eq!(leaks::left_of(job.id(), job.places(), Some(runtime)), [""; 0]);
        assert!(Path::new(&data).join("kept").exists(), "the user's files are the user's");
    });
}
