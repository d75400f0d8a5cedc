//! A task with an owner.

use tokio::task::JoinHandle;

/// A task that ends with whoever holds this.
#[derive(Debug)]
pub(crate) struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Task {
    pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }

    /// Ends it. All that it held is closed when this returns.
    pub(crate) async fn end(mut self) {
        self.0.abort();
        // The error is that it was ended.
        let _ = (&mut self.0).await;
    }
}
