//! Work with files inside containers, by turns in each kind of mount.

use super::offset::{self, Offset};
use super::{ENGINES, Engine, Scene, id};
use crate::Result;
use crate::args::Mounts;
use crate::bare::Bare;
use crate::node::LIMIT;
use crate::table::{Table, Values};
use crane_supervisor::cri::api::ContainerState;
use crane_supervisor::cri::client::{Client, Detail};
use crane_supervisor::cri::container::HostMount;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// What the image's `files` prints, and what it is in the table.
const KINDS: [(&str, &str); 6] = [
    ("create", "files created /s"),
    ("stat", "files looked at /s"),
    ("read", "files opened and read /s"),
    ("unlink", "files removed /s"),
    ("write-large", "large file written MiB/s"),
    ("read-large", "large file read MiB/s"),
];
/// How often the runtime is asked whether the peer's container has ended.
const ASKING: Duration = Duration::from_millis(50);

/// Rates by kind of work.
type Rates = [f64; KINDS.len()];

/// Runs the rounds.
pub async fn rates(scene: &Scene<'_>, sizes: &Mounts, table: &mut Table) -> Result<()> {
    let (files, mib) = (sizes.files.to_string(), sizes.mib.to_string());
    let command = ["files", "/m0", &files, &mib];
    let mut values: [[Values; KINDS.len()]; ENGINES.len() + 1] = Default::default();
    for round in 0..sizes.rounds + 1 {
        let mut found = Vec::new();
        for engine in ENGINES {
            let init = scene.step(engine, 1, &command);
            scene.run(&init).await?;
            found.push(read(&scene.output(&init)?)?);
        }
        found.push(by_offset(scene, &command).await?);
        // The first has the images and programs read from the disk.
        if round > 0 {
            let all = values.iter_mut().zip(found).flat_map(|(values, rates)| values.iter_mut().zip(rates));
            all.for_each(|(values, rate)| values.push(rate));
        }
    }
    let [plain, others @ ..] = &values;
    let names = [Engine::Idmapped.name(), Engine::Bindfs.name(), offset::NAME];
    for (kind, (_, what)) in KINDS.iter().enumerate() {
        for (values, name) in others.iter().zip(names) {
            table.row(&format!("{what}: {name}"), &values[kind], Some((Engine::Plain.name(), &plain[kind])), None);
        }
    }
    Ok(())
}

/// The same in the peer's mount, which the runtime is given without a supervisor.
async fn by_offset(scene: &Scene<'_>, command: &[&str]) -> Result<Rates> {
    let peer = Offset::start(&scene.sources.dirs[0], &scene.node.places.root.join("offset"), &scene.user)?;
    let init = scene.step(Engine::Idmapped, 0, command);
    std::fs::write(scene.node.places.logs.join(format!("{}.container.log", id(&init))), "")?;
    let mount = HostMount { host: peer.dir.clone(), target: "/m0".into(), read_only: false };
    let client = &scene.node.client;
    let container = Bare::new(&scene.mapped)?.start(client, init.clone(), vec![mount]).await?;
    timeout(LIMIT, ended(client, &container)).await.map_err(|_| format!("container {container} does not end"))??;
    client.remove(&container).await?;
    peer.end()?;
    read(&scene.output(&init)?)
}

async fn ended(client: &Client, container: &str) -> Result<()> {
    loop {
        let status = client.status(container, Detail::Brief).await?.status;
        if status.is_some_and(|status| status.state() == ContainerState::ContainerExited) {
            return Ok(());
        }
        sleep(ASKING).await;
    }
}

/// Rates from lines of the runtime's log: time, stream, tag, then what was printed.
fn read(log: &str) -> Result<Rates> {
    let mut rates = Rates::default();
    for (rate, (kind, _)) in rates.iter_mut().zip(KINDS) {
        let words = log.lines().map(|line| line.split(' ').skip(3).collect::<Vec<_>>());
        let found = words.into_iter().find_map(|words| match words[..] {
            [first, count, micros] if first == kind => Some((count.parse::<f64>().ok()?, micros.parse::<f64>().ok()?)),
            _ => None,
        });
        let (count, micros) = found.ok_or_else(|| format!("no {kind} in what the container printed: {log}"))?;
        *rate = count * 1e6 / micros;
    }
    Ok(rates)
}
