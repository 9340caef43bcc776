//! The images of the fake: some present, some behind a pull.

use crane_supervisor::cri::api::{Image, PullImageRequest, PullImageResponse};
use tonic::Status;

/// What the registry has: reference, id, and the password it wants.
const REGISTRY: [(&str, &str, &str); 3] =
    [(super::IMAGE, "aaaa", ""), (super::REMOTE_IMAGE, "bbbb", ""), (super::PRIVATE_IMAGE, "cccc", super::PASSWORD)];

/// The images present on the node.
pub struct Images {
    prefix: &'static str,
    present: Vec<&'static str>,
    /// Known by their ids alone.
    held: Vec<String>,
}

impl Images {
    /// `prefix` stands before every id: `sha256:` or nothing.
    pub fn new(prefix: &'static str) -> Self {
        Self { prefix, present: vec!["aaaa"], held: Vec::new() }
    }

    /// By reference or by id as given.
    pub fn find(&self, reference: &str) -> Option<Image> {
        let wanted = full(reference);
        if let Some(id) = self.held.iter().find(|id| format!("{}{id}", self.prefix) == reference) {
            return Some(Image { id: format!("{}{id}", self.prefix), ..Image::default() });
        }
        let is = |name: &str, id: &str| name == wanted || format!("{}{id}", self.prefix) == reference;
        let (name, id, _) = REGISTRY.into_iter().find(|(name, id, _)| is(name, id) && self.present.contains(id))?;
        Some(Image {
            id: format!("{}{id}", self.prefix),
            repo_tags: vec![name.into()],
            repo_digests: vec![format!("{}@sha256:{id}", name.rsplit_once(':').map_or(name, |(repo, _)| repo))],
            size: 1 << 20,
        })
    }

    /// An image that is present and has no name.
    pub fn hold(&mut self, id: &str) {
        self.held.push(id.to_owned());
    }

    /// All that are present.
    pub fn all(&self) -> Vec<Image> {
        self.present.iter().filter_map(|id| self.find(&format!("{}{id}", self.prefix))).collect()
    }

    /// Brings an image, if the registry has it and the password fits.
    pub fn pull(&mut self, request: &PullImageRequest) -> Result<PullImageResponse, Status> {
        let reference = request.image.clone().unwrap_or_default().image;
        let wanted = full(&reference);
        let found = REGISTRY.into_iter().find(|(name, ..)| *name == wanted);
        let (_, id, password) = found.ok_or_else(|| Status::not_found(format!("{reference}: not found")))?;
        let given = request.auth.as_ref().map_or("", |auth| auth.password.as_str());
        if !password.is_empty() && given != password {
            return Err(Status::unknown(format!("failed to pull {reference}: pull access denied")));
        }
        self.present.push(id);
        Ok(PullImageResponse { image_ref: format!("{}{id}", self.prefix) })
    }
}

fn full(reference: &str) -> String {
    if reference.contains('/') { reference.into() } else { format!("docker.io/library/{reference}") }
}
