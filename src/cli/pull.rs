//! `pull`: bring images before a job needs them.
//!
//! Several at once, each with the caller's own password for its registry. CRI tells nothing
//! while a pull goes on, so a person at a terminal sees which ones do, and for how long.

use crate::cli::account::{self, AccountError};
use crate::cli::node::{self, Node, NodeError};
use crate::cli::output;
use crate::cli::run::options::PullPolicy;
use crate::config;
use crate::cri::client::Client;
use crate::cri::pull::{Order, STALL_LIMIT};
use crate::spec::Secret;
use crate::spec::reference::Reference;
use crate::sys::stdio;
use clap::Args;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Pulls at once.
const AT_ONCE: usize = 4;

/// Options of `pull`.
#[derive(Args, Debug)]
#[command(after_help = "Exit code: 0 all images are there; 1 one is not.")]
pub struct Options {
    /// Images to pull.
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,

    /// Always (the default), IfNotPresent, or Never, which only looks.
    #[arg(long, visible_alias = "pull-policy", value_name = "POLICY", value_enum, ignore_case = true)]
    pub policy: Option<PullPolicy>,

    /// User name at the registries of all these images; without it, what `login` kept for each.
    #[arg(short = 'u', long, requires = "password_stdin")]
    pub username: Option<String>,

    /// Read the password from standard input.
    #[arg(long, requires = "username")]
    pub password_stdin: bool,

    /// Configuration file of the node.
    #[arg(short = 'C', long, value_name = "PATH", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,

    /// Write one JSON object a line: image, id, pulled, seconds, or the reason why not.
    #[arg(long)]
    pub json: bool,
}

/// Why nothing was pulled at all.
#[derive(Debug, thiserror::Error)]
enum PullCommandError {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error("image {0}")]
    Reference(String),
}

/// One image to bring.
struct Wish {
    image: String,
    registry: String,
    credentials: Option<(String, Secret)>,
}

/// What became of one.
struct Ending {
    image: String,
    seconds: f64,
    /// Its id and whether it was pulled.
    result: Result<(String, bool), String>,
}

/// Brings them.
pub fn run(options: &Options) -> ExitCode {
    let prepared = || -> Result<_, PullCommandError> {
        let wishes = wishes(options)?;
        let (node, event_loop) = (node::open(&options.config)?, node::event_loop()?);
        event_loop.block_on(node.is_there())?;
        Ok((node, event_loop, wishes))
    };
    match prepared() {
        Ok((node, event_loop, wishes)) => {
            let all = event_loop.block_on(pull_all(&node, wishes, options));
            event_loop.shutdown_background();
            if all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            output::say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn wishes(options: &Options) -> Result<Vec<Wish>, PullCommandError> {
    let mut registries = BTreeMap::new();
    for image in &options.images {
        let reference = Reference::parse(image).map_err(PullCommandError::Reference)?;
        if reference.is_id() {
            return Err(PullCommandError::Reference(format!("{image:?} is an id, which no registry knows: name it")));
        }
        registries.insert(image.clone(), reference.registry());
    }
    let given = match &options.username {
        Some(name) => Some((name.clone(), account::password_from_stdin()?)),
        None => None,
    };
    let account = if given.is_none() { Some(account::of_caller()?) } else { None };
    let wish = |(image, registry): (String, String)| {
        let kept = || account.as_ref().map_or(Ok(None), |account| account::find(account, &registry));
        let credentials = given.clone().map_or_else(kept, |given| Ok(Some(given))).map_err(AccountError::from)?;
        Ok(Wish { image, registry, credentials })
    };
    registries.into_iter().map(wish).collect()
}

/// Whether all of them are there at the end.
async fn pull_all(node: &Node, wishes: Vec<Wish>, options: &Options) -> bool {
    let client = node.client();
    let policy = options.policy.unwrap_or(PullPolicy::Always);
    let limit = node.container.image_pulling_timeout.filter(|seconds| *seconds > 0).map(Duration::from_secs);
    let stall = node.stall_s.map_or(Some(STALL_LIMIT), |seconds| (seconds > 0).then(|| Duration::from_secs(seconds)));
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut under_way: BTreeMap<String, Instant> = BTreeMap::new();
    let mut pulls = JoinSet::new();
    for wish in wishes {
        let (client, room) = (client.clone(), Arc::clone(&room));
        under_way.insert(wish.image.clone(), Instant::now());
        pulls.spawn(async move {
            // Never closed.
            let _place = room.acquire().await;
            pull_one(&client, wish, policy, (limit, stall)).await
        });
    }
    let mut all = true;
    let mut sight = Sight { on: io::stderr().is_terminal(), width: 0 };
    while !pulls.is_empty() {
        let joined = tokio::select! {
            joined = pulls.join_next() => joined,
            () = sleep(Duration::from_secs(1)), if sight.on => {
                sight.show(&under_way);
                continue;
            }
        };
        let Some(Ok(ending)) = joined else {
            all = false;
            continue;
        };
        under_way.remove(&ending.image);
        sight.clear();
        all &= ending.result.is_ok() & tell(&ending, options.json);
    }
    all
}

async fn pull_one(
    client: &Client,
    wish: Wish,
    policy: PullPolicy,
    (limit, stall): (Option<Duration>, Option<Duration>),
) -> Ending {
    let begun = Instant::now();
    let present = match policy {
        PullPolicy::Always => Ok(None),
        PullPolicy::IfNotPresent | PullPolicy::Never => client.image(&wish.image).await,
    };
    let order = Order {
        image: &wish.image,
        registry: &wish.registry,
        credentials: wish.credentials.as_ref(),
        pod: None,
        limit,
        stall,
    };
    let result = match (present, policy) {
        (Err(error), _) => Err(node::unreachable(&error).to_string()),
        (Ok(Some(image)), _) => Ok((image.id, false)),
        (Ok(None), PullPolicy::Never) => Err(format!("image {} is not on this node", wish.image)),
        (Ok(None), PullPolicy::Always | PullPolicy::IfNotPresent) => {
            client.pull(&order).await.map(|id| (id, true)).map_err(|error| error.to_string())
        }
    };
    Ending { image: wish.image, seconds: begun.elapsed().as_secs_f64(), result }
}

/// One line; whether it could be written.
fn tell(ending: &Ending, json: bool) -> bool {
    let Ending { image, seconds, result } = ending;
    let seconds = (seconds * 1000.0).round() / 1000.0;
    let line = match (result, json) {
        (Ok((id, pulled)), true) => {
            serde_json::json!({ "image": image, "id": id, "pulled": pulled, "seconds": seconds }).to_string()
        }
        (Err(reason), true) => serde_json::json!({ "image": image, "reason": reason, "seconds": seconds }).to_string(),
        (Ok((id, pulled)), false) => format!("{image} {id} {}", if *pulled { "pulled" } else { "present" }),
        (Err(reason), false) => {
            output::say(reason);
            return true;
        }
    };
    match stdio::out(format!("{line}\n").as_bytes()) {
        Ok(()) => true,
        Err(error) => {
            output::say(&format!("cannot write to stdout: {error}"));
            false
        }
    }
}

/// One line on a terminal, drawn over and over.
struct Sight {
    on: bool,
    width: usize,
}

impl Sight {
    fn show(&mut self, under_way: &BTreeMap<String, Instant>) {
        let pull = |(image, begun): (&String, &Instant)| format!("{image} {} s", begun.elapsed().as_secs());
        let line = format!("pulling {}", under_way.iter().map(pull).collect::<Vec<_>>().join(", "));
        // A line that wraps could not be drawn over.
        let line: String = line.chars().take(78).collect();
        drop(stdio::err(format!("\r{line:width$}", width = self.width).as_bytes()));
        self.width = line.chars().count();
    }

    fn clear(&mut self) {
        if self.width > 0 {
            drop(stdio::err(format!("\r{:width$}\r", "", width = self.width).as_bytes()));
            self.width = 0;
        }
    }
}
