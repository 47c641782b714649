//! Queries of the coordinator that run for one session, and how far an answer may run ahead of whoever reads it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aap_proto::v1::{QueryCredit, RunQuery};
use aap_runtime::Shutdown;
use aap_transport::AgentSender;
use tokio::sync::Semaphore;

use super::UplinkDeps;

/// How many parts of an answer may still leave. A reader that is slow holds the engine back through it, and so neither the
/// coordinator's memory nor the batches that share the way. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Window(Option<Arc<Semaphore>>);

impl Window {
    /// What the coordinator grants with its query; one that grants nothing does not count.
    fn of(query: &RunQuery) -> Self {
        Self((query.window > 0).then(|| Arc::new(Semaphore::new(query.window as usize))))
    }

    /// Waits until one more part may leave. Cancel-safe.
    pub async fn pass(&self) {
        if let Some(window) = &self.0
            && let Ok(permit) = window.acquire().await
        {
            permit.forget();
        }
    }

    fn grant(&self, messages: u32) {
        if let Some(window) = &self.0 {
            let room = Semaphore::MAX_PERMITS - window.available_permits();
            window.add_permits((messages as usize).min(room));
        }
    }
}

/// Queries that run for this session.
#[derive(Debug, Clone, Default)]
pub(super) struct Running(Arc<Mutex<BTreeMap<String, Asked>>>);

#[derive(Debug)]
struct Asked {
    cancel: Shutdown,
    window: Window,
}

impl Running {
    pub(super) fn start(&self, query: RunQuery, tx: &AgentSender, deps: &UplinkDeps) {
        let Some(queries) = deps.queries.clone() else { return };
        let (id, cancel, window) = (query.id.clone(), Shutdown::default(), Window::of(&query));
        self.lock().insert(id.clone(), Asked { cancel: cancel.clone(), window: window.clone() });
        let (tx, running) = (tx.clone(), self.clone());
        #[expect(
            clippy::disallowed_methods,
            reason = "cancelled with its session; its failure is the query's answer"
        )]
        tokio::spawn(async move {
            queries.answer(query, tx, cancel, window).await;
            running.lock().remove(&id);
        });
    }

    /// The reader has taken parts. Of a query that has ended meanwhile nobody needs to know.
    pub(super) fn grant(&self, credit: &QueryCredit) {
        if let Some(query) = self.lock().get(&credit.id) {
            query.window.grant(credit.messages);
        }
    }

    pub(super) fn cancel(&self, id: &str) {
        if let Some(query) = self.lock().remove(id) {
            query.cancel.request();
        }
    }

    pub(super) fn cancel_all(&self) {
        self.lock().values().for_each(|query| query.cancel.request());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Asked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn no_more_parts_leave_than_the_coordinator_granted() {
        let leaves = |window: &Window| window.pass().now_or_never().is_some();
        let query = |window| RunQuery { window, ..RunQuery::default() };
        let window = Window::of(&query(2));
        assert!(leaves(&window) && leaves(&window) && !leaves(&window));
        window.grant(1);
        assert!(leaves(&window) && !leaves(&window));
        window.grant(u32::MAX);
        assert!(leaves(&window));
        let unlimited = Window::of(&query(0));
        assert!((0..1000).all(|_| leaves(&unlimited)), "a coordinator of before grants nothing");
    }
}
