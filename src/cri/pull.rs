//! Images on the node: what is there, and bringing one.
//!
//! A pull has no limit on its whole time unless one is set, but one on doing nothing; what
//! may pass is tried again, a few times. CRI tells nothing while a pull goes on, so that
//! something comes is seen at the runtime's store (`store`). Dropped, a pull is cancelled.
//! Called by the step's Image stage and the `pull` command.

mod store;

use super::call::{call, present};
use super::client::{Client, auth, spec};
use crate::cri::api::{
    Image, ImageFsInfoRequest, ImageStatusRequest, ListImagesRequest, PullImageRequest, PullImageResponse,
};
use crate::cri::error::CriError;
use crate::cri::image::{self, PullError, Trouble};
use crate::cri::sandbox::Config;
use crate::spec::Secret;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::time::Duration;
use store::Store;
use tokio::time::{sleep, timeout};
use tonic::{Request, Response, Status};

/// How often the store is looked at, at most.
const LOOK: Duration = Duration::from_secs(15);

/// How long a pull may do nothing unless it is set: longer than containerd's own five
/// minutes, since its words say more.
pub const STALL_LIMIT: Duration = Duration::from_secs(360);

/// A pull as it is wanted.
#[derive(Debug)]
pub struct Order<'a> {
    /// The image, as the user wrote it.
    pub image: &'a str,
    /// Its registry, for people.
    pub registry: &'a str,
    /// User name and password.
    pub credentials: Option<&'a (String, Secret)>,
    /// The pod it is for.
    pub pod: Option<&'a Config>,
    /// How long all of it may take.
    pub limit: Option<Duration>,
    /// How long it may do nothing.
    pub stall: Option<Duration>,
}

impl Client {
    /// The image `reference` means here, if it is present.
    pub async fn image(&self, reference: &str) -> Result<Option<Image>, CriError> {
        let mut client = self.images.clone();
        let request = ImageStatusRequest { image: Some(spec(reference)) };
        let answer =
            call("ImageStatus", Some(self.limits.look), request, |r| async move { client.image_status(r).await })
                .await?;
        Ok(answer.image)
    }

    /// All images that are present.
    pub async fn list_images(&self) -> Result<Vec<Image>, CriError> {
        let mut client = self.images.clone();
        let answer =
            call(
                "ListImages",
                Some(self.limits.look),
                ListImagesRequest {},
                |r| async move { client.list_images(r).await },
            )
            .await?;
        Ok(answer.images)
    }

    /// Brings an image; returns the runtime's reference to it.
    ///
    /// # Errors
    /// [`PullError`], after what may pass was tried again.
    pub async fn pull(&self, order: &Order<'_>) -> Result<String, PullError> {
        match order.limit {
            None => self.pull_until_done(order).await,
            Some(limit) => match timeout(limit, self.pull_until_done(order)).await {
                Ok(result) => result,
                Err(_elapsed) => Err(PullError::TookTooLong { image: order.image.to_owned(), limit }),
            },
        }
    }

    async fn pull_until_done(&self, order: &Order<'_>) -> Result<String, PullError> {
        let mut tries = 0;
        loop {
            let error = match self.pull_once(order).await {
                Ok(reference) => return Ok(reference),
                Err(error) => error,
            };
            tries += 1;
            let Some(pause) = error.again_after(tries, spread()) else { return Err(error) };
            tracing::warn!(%error, tries, wait_ms = pause.as_millis(), "the pull is tried again");
            sleep(pause).await;
        }
    }

    async fn pull_once(&self, order: &Order<'_>) -> Result<String, PullError> {
        let named = |image: &str| image.to_owned();
        let answer = tokio::select! {
            biased;
            answer = self.ask_to_pull(order) => answer,
            limit = self.stalled(order.stall) => {
                return Err(PullError::Stalled { image: named(order.image), registry: named(order.registry), limit });
            }
        };
        answer.map_err(|error| {
            tracing::debug!(%error, image = order.image, "the runtime's own words");
            let (trouble, cause) = (Trouble::of(&error), image::cause(&error));
            PullError::Failed { image: named(order.image), registry: named(order.registry), trouble, cause }
        })
    }

    async fn ask_to_pull(&self, order: &Order<'_>) -> Result<String, CriError> {
        let mut client = self.images.clone();
        let password = order.credentials.map_or("", |(_, password)| password.reveal());
        let request = PullImageRequest {
            image: Some(spec(order.image)),
            auth: order.credentials.map(|(username, password)| auth(username, password)),
            sandbox_config: order.pod.map(|pod| pod.0.clone()),
        };
        let send = |request: Request<PullImageRequest>| async move {
            let answer: Result<Response<PullImageResponse>, Status> = client.pull_image(request).await;
            answer.map_err(|status| without_secrets(status, password))
        };
        let answer = call("PullImage", None, request, send).await?;
        present("PullImage", "image_ref", answer.image_ref)
    }

    /// Returns once nothing has come for `limit`; never where there is no limit, or where
    /// the runtime does not tell where images are: then its own limits must do.
    async fn stalled(&self, limit: Option<Duration>) -> Duration {
        let Some(limit) = limit else { return std::future::pending().await };
        let Ok(places) = self.image_places().await else { return std::future::pending().await };
        let every = (limit / 8).min(LOOK);
        let mut seen = store::look(places.clone()).await;
        let mut quiet = Duration::ZERO;
        loop {
            sleep(every).await;
            let now = store::look(places.clone()).await;
            // Counted in looks: time in which we were frozen ourselves tells nothing.
            match (&seen, &now) {
                (Some(seen), Some(now)) if !now.grew_since(seen) => quiet += every,
                _ => {
                    quiet = Duration::ZERO;
                    seen = now;
                }
            }
            if quiet >= limit {
                return limit;
            }
        }
    }

    /// Where the runtime keeps images, and what it brings of them meanwhile.
    ///
    /// # Errors
    /// The call's, or that it told no place.
    pub async fn image_places(&self) -> Result<Vec<PathBuf>, CriError> {
        let mut client = self.images.clone();
        let answer = call("ImageFsInfo", Some(self.limits.look), ImageFsInfoRequest {}, |r| async move {
            client.image_fs_info(r).await
        })
        .await?;
        let stores = answer.image_filesystems.into_iter().filter_map(|usage| usage.fs_id);
        let places: Vec<_> = stores.flat_map(|id| Store::places(&id.mountpoint)).collect();
        if places.is_empty() {
            return Err(CriError::Malformed { call: "ImageFsInfo", missing: "mountpoint" });
        }
        Ok(places)
    }
}

/// A status whose text repeats a secret, without it.
fn without_secrets(status: Status, password: &str) -> Status {
    let clean = image::redact(status.message(), password);
    if clean == status.message() { status } else { Status::new(status.code(), clean) }
}

/// From 0 to 1, another each time.
fn spread() -> f64 {
    let random = RandomState::new().hash_one(std::process::id()) >> 32;
    #[allow(clippy::cast_precision_loss, reason = "32 bits are exact")]
    let spread = random as f64 / f64::from(u32::MAX);
    spread
}
