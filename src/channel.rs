//! gRPC over a unix socket, dialled when first used.

use hyper_util::rt::TokioIo;
use std::io;
use std::path::Path;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// A channel to the socket at `path`; it dials again by itself after a break.
pub fn to_socket(path: &Path) -> Channel {
    begun(None, path)
}

/// The same, over the connection `first` until that breaks. `first` does not block.
pub fn begun(mut first: Option<std::os::unix::net::UnixStream>, path: &Path) -> Channel {
    let path = path.to_owned();
    // The address only fills gRPC's :authority.
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_| {
        let (path, first) = (path.clone(), first.take());
        async move {
            let connected = match first {
                Some(first) => UnixStream::from_std(first),
                None => UnixStream::connect(&path).await,
            };
            // The bare errno would not say which of several sockets is meant.
            let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
            connected.map(TokioIo::new).map_err(named)
        }
    }))
}
