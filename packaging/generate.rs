//! Man pages and shell completions, made from the command line as clap knows it.
//!
//!     cargo run --locked --example generate -- DIRECTORY
//!
//! writes `DIRECTORY/man/*.8`, `DIRECTORY/bash`, `DIRECTORY/zsh` and `DIRECTORY/fish`. An example and not a
//! command, so that nothing of it is in the program. `scripts/package` calls it.

use clap::Command;
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const NAME: &str = "crane-supervisor";

/// Each page ends with these: path, and what it is.
const FILES: [(&str, &str); 5] = [
    ("/etc/crane/config.yaml", "the node's configuration, also craned's"),
    ("/var/crane/supervisor/", "logs and final records of steps (LogDir)"),
    ("/var/crane/supervisor/containers/", "state of live steps (TempDir)"),
    ("/tmp/crane/", "control sockets"),
    ("/usr/share/doc/crane-supervisor/operating.md", "the operating guide: every key, code and message"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from).ok_or("usage: generate DIRECTORY")?;
    let shown = shown(&crane_supervisor::cli::definition());
    write_pages(&shown, &directory.join("man"))?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let place = directory.join(shell.to_string());
        fs::create_dir_all(&place)?;
        generate_to(shell, &mut shown.clone(), NAME, place)?;
    }
    Ok(())
}

/// The command without what is hidden: completions would offer it.
fn shown(command: &Command) -> Command {
    let mut shown =
        Command::new(NAME).version(env!("CARGO_PKG_VERSION")).disable_help_subcommand(true).disable_version_flag(true);
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(after) = command.get_after_help() {
        shown = shown.after_help(after.clone());
    }
    let visible = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    shown.args(command.get_arguments()).subcommands(visible)
}

fn write_pages(command: &Command, directory: &Path) -> io::Result<()> {
    let mut command = command.clone();
    command.build();
    fs::create_dir_all(directory)?;
    let pages: Vec<&Command> = std::iter::once(&command).chain(command.get_subcommands()).collect();
    for page in &pages {
        let title = title(page);
        let mut file = fs::File::create(directory.join(format!("{title}.8")))?;
        write_page(page, &title, &mut file)?;
        see_also(&pages, &title).to_writer(&mut file)?;
        file.flush()?;
    }
    Ok(())
}

fn title(command: &Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned()
}

fn write_page(command: &Command, title: &str, file: &mut fs::File) -> io::Result<()> {
    let source = format!("{NAME} {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).title(title.to_uppercase()).section("8").source(source).manual("CraneSched");
    man.render_title(file)?;
    man.render_name_section(file)?;
    man.render_synopsis_section(file)?;
    man.render_description_section(file)?;
    man.render_options_section(file)?;
    if command.has_subcommands() {
        man.render_subcommands_section(file)?;
    }
    let Some(after) = command.get_after_help().map(ToString::to_string) else { return Ok(()) };
    let (heading, text) = match after.strip_prefix("Exit code: ") {
        Some(codes) => ("EXIT STATUS", codes),
        None => ("NOTES", after.as_str()),
    };
    let mut roff = Roff::new();
    roff.control("SH", [heading]).text([roman(text)]);
    roff.to_writer(file)
}

fn see_also(pages: &[&Command], title_here: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["FILES"]);
    for (path, what) in FILES {
        roff.control("TP", []).text([bold(path)]).text([roman(what)]);
    }
    roff.control("SH", ["SEE ALSO"]);
    let others: Vec<String> = pages.iter().map(|page| title(page)).filter(|title| title != title_here).collect();
    for (index, other) in others.iter().enumerate() {
        let comma = if index + 1 == others.len() { "(8)" } else { "(8)," };
        roff.text([bold(other.as_str()), roman(comma)]);
    }
    roff
}
