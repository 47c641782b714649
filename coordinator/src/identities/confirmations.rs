//! Which nodes believe the newest root of the certificate authority: those that have shown a certificate below it.

use aap_access::Fingerprint;
use aap_types::{NodeId, Problem};

use super::{Identities, Inner, run};

/// How far nodes are with the newest root.
#[derive(Debug, Default)]
pub(crate) struct Confirmations {
    /// How many are known to believe it.
    pub(crate) confirmed: u64,
    /// Those that are not.
    pub(crate) waiting: Vec<NodeId>,
    /// Those whose certificates were issued by hand and taken elsewhere, which nobody here can know.
    pub(crate) by_hand: Vec<NodeId>,
}

impl Identities {
    /// How far nodes are with the newest root.
    pub(crate) async fn confirmations(&self) -> Result<Confirmations, Problem> {
        let inner = self.inner.clone();
        run(move || inner.confirmations()).await
    }

    /// Whether a former root is still trusted beside the newest.
    pub(crate) fn is_rotating(&self) -> bool {
        self.inner.authority.is_rotating()
    }

    /// Nodes that have a session here and no certificate below the newest root ask for one at once.
    pub(crate) async fn hasten(&self, waiting: &[NodeId]) {
        for session in waiting.iter().filter_map(|node| self.inner.nodes.session(node)) {
            session.renew_now().await;
        }
    }
}

impl Inner {
    fn confirmations(&self) -> Result<Confirmations, Problem> {
        let newest = Some(Fingerprint(self.authority.fingerprint()));
        let identities = self.all()?;
        let mut found = Confirmations::default();
        for known in identities.iter().filter(|known| known.state.is_served() && known.generation > 0) {
            match known.trusts == newest {
                true => found.confirmed += 1,
                false => found.waiting.push(known.node.clone()),
            }
        }
        // This coordinator looks after those of its own home.
        let here = self.authority.nodes().map_err(|error| error.problem())?;
        let is_enrolled =
            |node: &NodeId| identities.iter().any(|known| known.node == *node && !known.never_enrolled());
        let others = self.nodes.all().into_keys().filter(|node| !is_enrolled(node) && !here.contains(node));
        found.by_hand = others.collect();
        Ok(found)
    }
}
