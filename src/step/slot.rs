//! Room for one piece of work under way.

use std::future::Future;
use std::pin::Pin;

/// At most one future; dropped, it is cancelled.
pub struct Slot<T>(Option<Pin<Box<dyn Future<Output = T>>>>);

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Slot<T> {
    /// Puts work in; what was there is cancelled.
    pub fn set(&mut self, work: impl Future<Output = T> + 'static) {
        self.0 = Some(Box::pin(work));
    }

    /// Cancels the work; tells whether there was any.
    pub fn clear(&mut self) -> bool {
        self.0.take().is_some()
    }

    /// Leaves the work alone, for as long as this process lives; tells whether there was any.
    pub fn forget(&mut self) -> bool {
        self.0.take().map(std::mem::forget).is_some()
    }

    /// Whether nothing is under way.
    pub fn is_free(&self) -> bool {
        self.0.is_none()
    }

    /// Waits for the work, for ever where there is none. May be dropped at any time.
    pub async fn done(&mut self) -> T {
        match &mut self.0 {
            None => std::future::pending().await,
            Some(work) => {
                let result = work.await;
                self.0 = None;
                result
            }
        }
    }
}
