//! A gRPC server on a unix socket, in its own thread, that can be stopped,
//! started again and made to drop its connections.

use std::convert::Infallible;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tokio_stream::{Stream, StreamExt, wrappers::UnixListenerStream};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::transport::Server;

/// Connections as taken, kept so that they can be cut from outside.
type Connections = Arc<Mutex<Vec<UnixStream>>>;

/// The running server; stopping it removes the socket.
pub struct UnixServer {
    path: PathBuf,
    connections: Connections,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl UnixServer {
    /// Listens on `path` before it returns, so a client can connect at once.
    pub fn start<S>(path: &Path, service: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send,
    {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap_or_else(|e| panic!("cannot listen on {}: {e}", path.display()));
        listener.set_nonblocking(true).expect("a fresh socket takes the flag");
        let connections = Connections::default();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let kept = Arc::clone(&connections);
        let thread = std::thread::spawn(move || serve(listener, kept, service, stopped));
        Self { path: path.to_owned(), connections, stop: Some(stop), thread: Some(thread) }
    }

    /// Cuts every connection made so far; new ones are taken.
    pub fn cut_connections(&self) {
        for connection in self.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Ends the server, its connections and its socket.
    pub fn stop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        drop(self.stop.take());
        self.cut_connections();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server thread does not panic");
        }
    }
}

impl Drop for UnixServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve<S>(listener: UnixListener, connections: Connections, service: S, stopped: tokio::sync::oneshot::Receiver<()>)
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        let listener = tokio::net::UnixListener::from_std(listener).expect("the socket is non-blocking");
        let incoming = remembered(UnixListenerStream::new(listener), connections);
        tokio::select! {
            _ = Server::builder().serve_with_incoming(service, incoming) => {}
            _ = stopped => {}
        }
    });
    runtime.shutdown_background();
}

fn remembered(
    incoming: UnixListenerStream,
    connections: Connections,
) -> impl Stream<Item = std::io::Result<tokio::net::UnixStream>> {
    incoming.map(move |connection| {
        let connection = connection?.into_std()?;
        connections.lock().unwrap().push(connection.try_clone()?);
        tokio::net::UnixStream::from_std(connection)
    })
}
