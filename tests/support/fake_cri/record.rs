//! Remembers every call.

use super::Method;
use prost::Message;
use std::any::Any;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// One call as it arrived.
#[derive(Clone)]
pub struct Call {
    /// Which.
    pub method: Method,
    /// When.
    pub at: Instant,
    /// The caller's deadline as sent (`grpc-timeout`), if any.
    pub deadline: Option<String>,
    /// The request; see [`super::FakeCri::requests`].
    pub request: Arc<dyn Any + Send + Sync>,
    /// The request on the wire, to look for what must not be in it.
    pub bytes: Vec<u8>,
}

impl Call {
    /// Is `text` anywhere in the request?
    pub fn mentions(&self, text: &str) -> bool {
        self.bytes.windows(text.len()).any(|part| part == text.as_bytes())
    }

    /// The deadline in seconds; `None` without one.
    pub fn deadline_seconds(&self) -> Option<f64> {
        let text = self.deadline.as_deref()?;
        let (number, unit) = text.split_at(text.len() - 1);
        let scale = match unit {
            "H" => 3600.0,
            "M" => 60.0,
            "S" => 1.0,
            "m" => 1e-3,
            "u" => 1e-6,
            _ => 1e-9,
        };
        number.parse::<f64>().ok().map(|n| n * scale)
    }
}

/// All of them, in order.
#[derive(Default)]
pub struct Calls(Mutex<Vec<Call>>);

impl Calls {
    pub fn note<T: Message + Clone + 'static>(&self, method: Method, deadline: Option<String>, request: &T) {
        let bytes = request.encode_to_vec();
        let call = Call { method, at: Instant::now(), deadline, request: Arc::new(request.clone()), bytes };
        self.0.lock().unwrap().push(call);
    }

    pub fn all(&self) -> Vec<Call> {
        self.0.lock().unwrap().clone()
    }
}
