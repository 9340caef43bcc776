//! `images`: what the node's runtime has.

use crate::cli::node::{self, NodeError};
use crate::cli::output;
use crate::config;
use crate::cri::api::Image;
use crate::sys::stdio;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of `images`.
#[derive(Args, Debug)]
pub struct Options {
    /// Configuration file of the node.
    #[arg(short = 'C', long, value_name = "PATH", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,

    /// Write one JSON object a line: id, tags, digests, bytes.
    #[arg(long)]
    pub json: bool,
}

/// Lists them.
pub fn run(options: &Options) -> ExitCode {
    let listed = || -> Result<Vec<Image>, NodeError> {
        let node = node::open(&options.config)?;
        let list = async {
            node.is_there().await?;
            node.client().list_images().await.map_err(|error| node::unreachable(&error))
        };
        node::event_loop()?.block_on(list)
    };
    let images = match listed() {
        Ok(images) => images,
        Err(error) => {
            output::say(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    let text = if options.json { json(&images) } else { table(&images) };
    if let Err(error) = stdio::out(text.as_bytes()) {
        output::say(&format!("cannot write to stdout: {error}"));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn json(images: &[Image]) -> String {
    let line = |image: &Image| {
        let Image { id, repo_tags, repo_digests, size } = image;
        format!("{}\n", serde_json::json!({ "id": id, "tags": repo_tags, "digests": repo_digests, "bytes": size }))
    };
    images.iter().map(line).collect()
}

/// A line for each name; an image without one is named by its digest.
fn table(images: &[Image]) -> String {
    let mut rows = vec![["IMAGE".to_owned(), "ID".to_owned(), "SIZE".to_owned()]];
    for image in images {
        let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
        let none = ["<none>".to_owned()];
        for name in if names.is_empty() { &none[..] } else { names } {
            let id: String = image.id.trim_start_matches("sha256:").chars().take(12).collect();
            rows.push([name.clone(), id, bytes(image.size)]);
        }
    }
    rows[1..].sort();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (names, ids) = (width(0), width(1));
    rows.iter().map(|[name, id, size]| format!("{name:names$}  {id:ids$}  {size}\n")).collect()
}

/// For people: the largest unit that fits, one digit after the point.
pub fn bytes(size: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| size >= *unit) {
        Some((unit, name)) => format!("{}.{} {name}", size / unit, size % unit * 10 / unit),
        None => format!("{size} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_line() {
        let image = |id: &str, tags: &[&str]| Image {
            id: id.into(),
            repo_tags: tags.iter().map(|&tag| tag.into()).collect(),
            repo_digests: Vec::new(),
            size: 3 << 19,
        };
        let text = table(&[image("sha256:0123456789abcdef", &["b:1", "a:1"]), image("c", &[])]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["IMAGE", "ID", "SIZE"]);
        assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["<none>", "c", "1.5", "MiB"]);
        assert_eq!(lines[2].split_whitespace().collect::<Vec<_>>(), ["a:1", "0123456789ab", "1.5", "MiB"]);
        assert_eq!((lines.len(), bytes(1023).as_str(), bytes(5 << 30).as_str()), (4, "1023 B", "5.0 GiB"));
    }
}
