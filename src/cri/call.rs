//! One call to the runtime: within its limit, its time in the log. Called by all that make calls.

use crate::cri::error::CriError;
use crate::failpoint;
use std::time::{Duration, Instant};
use tonic::{Request, Response, Status};

/// An empty id in a good answer is an error too.
pub(super) fn present(call: &'static str, missing: &'static str, id: String) -> Result<String, CriError> {
    if id.is_empty() { Err(CriError::Malformed { call, missing }) } else { Ok(id) }
}

/// Makes one call within its limit and logs its time.
pub(super) async fn call<Q, A, F>(
    name: &'static str,
    limit: Option<Duration>,
    message: Q,
    send: impl FnOnce(Request<Q>) -> F,
) -> Result<A, CriError>
where
    F: Future<Output = Result<Response<A>, Status>>,
{
    let mut request = Request::new(message);
    failpoint::pass(|| format!("before {name}"));
    let begun = Instant::now();
    let answer = match limit {
        None => failpoint::during(|| format!("during {name}"), send(request)).await,
        Some(limit) => {
            // The runtime gets our limit too, and gives up when we do.
            request.set_timeout(limit);
            let sent = failpoint::during(|| format!("during {name}"), send(request));
            match tokio::time::timeout(limit, sent).await {
                Ok(answer) => answer,
                Err(_elapsed) => Err(Status::deadline_exceeded("")),
            }
        }
    };
    let result = match (answer, limit) {
        (Ok(answer), _) => Ok(answer.into_inner()),
        (Err(status), Some(limit)) if begun.elapsed() >= limit && status.message().is_empty() => {
            Err(CriError::TimedOut { call: name, limit })
        }
        (Err(status), _) => Err(CriError::of(name, &status)),
    };
    let ms = begun.elapsed().as_millis();
    failpoint::pass(|| format!("after {name}"));
    match &result {
        Ok(_) => tracing::debug!(call = name, ms, "CRI call"),
        Err(error) => tracing::debug!(call = name, ms, %error, "CRI call failed"),
    }
    result
}
