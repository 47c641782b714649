//! The node's certificate: asked for anew over the session when half of its life is over, and again before it ends.
//!
//! The key stays. Each renewal has a number that is written down before it is asked for: if the answer is lost, the same renewal is
//! asked for once more, and the coordinator does not take the node for two.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use aap_proto::problem_of_status;
use aap_proto::v1::agent_message::Kind as Up;
use aap_proto::v1::{EnrolReply, RecoverNodeRequest, RenewCertificate, RenewedCertificate};
use aap_runtime::{Clock, write_durably};
use aap_transport::{AgentSender, NodeKey, TlsFiles};
use aap_types::NodeId;
use camino::Utf8PathBuf;
use tokio::sync::Notify;

use super::chain;
use super::session::send;
use crate::enrol::Enrolment;

/// How often it is looked at, which costs reading a file, and asked for again, where the coordinator could not answer; a short-lived one
/// forty times in its life.
const LOOK_EVERY: Duration = Duration::from_secs(60);
const LOOKS_PER_LIFE: i64 = 40;
/// How long a coordinator may take to answer a node whose certificate has expired.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// When it is time, in thousandths of a certificate's life; and up to so much later, so that a thousand nodes that enrolled together do
/// not ask together (reliability-security 4.4).
const DUE: i64 = 500;
const SPREAD: i64 = 100;

/// The certificate of this node.
#[derive(Debug, Clone)]
pub struct Renewal {
    files: TlsFiles,
    node: NodeId,
    home: Utf8PathBuf,
    clock: Arc<dyn Clock>,
    /// Its own share of [`SPREAD`].
    late: i64,
    /// The coordinator wants it to be renewed now.
    wanted: Arc<Notify>,
    /// Other roots came with it.
    moved: Arc<Notify>,
}

impl Renewal {
    /// Looks after the certificate in `files` of the node with this home.
    pub fn new(files: TlsFiles, node: NodeId, home: Utf8PathBuf, clock: Arc<dyn Clock>) -> Self {
        let late = (RandomState::new().hash_one(node.as_str()) % SPREAD.unsigned_abs()) as i64;
        let (wanted, moved) = Default::default();
        Self { files, node, home, clock, late, wanted, moved }
    }

    /// Asks for the next certificate now, whatever is left of this one.
    pub(super) fn renew_now(&self) {
        self.wanted.notify_one();
    }

    /// Returns when other roots came with a certificate.
    pub(super) async fn other_roots(&self) {
        self.moved.notified().await;
    }

    /// Asks while the session lasts. Returns why it cannot go on.
    pub(super) async fn ask_when_due(&self, tx: &AgentSender) -> String {
        let mut is_wanted = false;
        loop {
            let pause = match self.look(is_wanted) {
                Ok((None, pause)) => pause,
                Ok((Some(request), pause)) => {
                    tracing::info!("asking for a new certificate");
                    if let Err(reason) = send(tx, Up::Renew(request)).await {
                        return reason;
                    }
                    pause
                }
                Err(reason) => {
                    tracing::warn!(reason, "the certificate of this node cannot be renewed");
                    LOOK_EVERY
                }
            };
            is_wanted = tokio::select! {
                () = tokio::time::sleep(pause) => false,
                () = self.wanted.notified() => true,
            };
        }
    }

    /// The request, if it is time or wanted, and when to look again.
    fn look(&self, is_wanted: bool) -> Result<(Option<RenewCertificate>, Duration), String> {
        let validity = self.files.validity().map_err(|error| chain(&error))?;
        let part = validity.ends_us.saturating_sub(validity.begins_us) / LOOKS_PER_LIFE;
        let pause = LOOK_EVERY.min(Duration::from_micros(part.max(0).unsigned_abs()));
        let is_by_hand = validity.generation == 0;
        let is_due = is_due(validity.begins_us, validity.ends_us, self.clock.unix_us(), self.late);
        if is_by_hand || !(is_due || is_wanted) {
            return Ok((None, pause));
        }
        let key = NodeKey::read_or_make(&self.files.key).map_err(|error| chain(&error))?;
        let csr = key.request(&self.node).map_err(|error| chain(&error))?.into();
        Ok((Some(RenewCertificate { csr, renewal: self.number()? }), pause))
    }

    /// Before a connection: a certificate that expired, because the node was away for so long, is replaced by the key that the node
    /// enrolled with.
    pub(super) async fn recover_if_expired(&self) {
        match self.recovery() {
            Ok(None) => {}
            Ok(Some((request, enrolment))) => {
                tracing::warn!("the certificate of this node has expired; asking for another by its key");
                match ask(&request, &enrolment, &self.roots(&enrolment)).await {
                    Ok(EnrolReply { certificate, authorities, .. }) => {
                        self.take(&RenewedCertificate { certificate, authorities });
                    }
                    Err(reason) => tracing::warn!(reason, "no coordinator gave one"),
                }
            }
            Err(reason) => tracing::warn!(reason, "the certificate of this node cannot be recovered"),
        }
    }

    fn recovery(&self) -> Result<Option<(RecoverNodeRequest, Enrolment)>, String> {
        let validity = self.files.validity().map_err(|error| chain(&error))?;
        if validity.generation == 0 || self.clock.unix_us() < validity.ends_us {
            return Ok(None);
        }
        let Some(enrolment) = Enrolment::read(&self.home) else { return Ok(None) };
        let key = NodeKey::read_or_make(&self.files.key).map_err(|error| chain(&error))?;
        let csr = key.request(&self.node).map_err(|error| chain(&error))?.into();
        let (node, generation, renewal) = (self.node.to_string(), validity.generation, self.number()?);
        Ok(Some((RecoverNodeRequest { node, csr, renewal, generation }, enrolment)))
    }

    /// What a coordinator is known by: the roots that the node was given since, or that of its token.
    fn roots(&self, enrolment: &Enrolment) -> Vec<[u8; 32]> {
        self.files.root_fingerprints().unwrap_or_else(|_unreadable| vec![enrolment.authority.0])
    }

    /// The number of this renewal: the one that waits for its answer, or a new one.
    fn number(&self) -> Result<String, String> {
        let path = self.number_file();
        if let Ok(number) = std::fs::read_to_string(&path) {
            return Ok(number);
        }
        let random = RandomState::new();
        let number = format!("{:016x}{:016x}", random.hash_one(0_u8), random.hash_one(self.clock.unix_us()));
        write_durably(&path, number.as_bytes(), 0o600).map_err(|error| format!("write `{path}`: {error}"))?;
        Ok(number)
    }

    fn number_file(&self) -> Utf8PathBuf {
        self.files.certificate.with_extension("renewal")
    }

    /// Takes the answer of a session up, which ends if other roots came with it.
    pub(super) fn take_in_session(&self, renewed: &RenewedCertificate) {
        let before = std::fs::read(&self.files.root).unwrap_or_default();
        if self.take(renewed) && before != renewed.authorities {
            self.moved.notify_one();
        }
    }

    /// Takes the answer up: the next connection shows the new certificate. Roots first: whoever shows the certificate has them.
    fn take(&self, renewed: &RenewedCertificate) -> bool {
        let write = |path: &Utf8PathBuf, bytes: &[u8]| {
            write_durably(path, bytes, 0o600).map_err(|error| format!("write `{path}`: {error}"))
        };
        let taken = write(&self.files.root, &renewed.authorities)
            .and_then(|()| write(&self.files.certificate, &renewed.certificate));
        match taken {
            Ok(()) => {
                tracing::info!("the certificate of this node is renewed");
                // Only now: before, the same renewal is asked for again.
                if let Err(error) = std::fs::remove_file(self.number_file()) {
                    tracing::warn!(%error, "the number of a renewal stays");
                }
                true
            }
            Err(reason) => {
                tracing::warn!(reason, "a new certificate cannot be kept");
                false
            }
        }
    }
}

/// Asks one coordinator after the other.
async fn ask(
    request: &RecoverNodeRequest,
    enrolment: &Enrolment,
    roots: &[[u8; 32]],
) -> Result<EnrolReply, String> {
    let mut reason = "it is not known where coordinators are".to_owned();
    for address in &enrolment.coordinators {
        let answer = async {
            let mut api = aap_transport::enrolment(address, roots).await.map_err(|error| chain(&error))?;
            let reply = api.recover(request.clone()).await;
            Ok::<_, String>(reply.map_err(|status| problem_of_status(&status).message)?.into_inner())
        };
        let late = || Err(format!("no answer within {} s", ANSWER_WITHIN.as_secs()));
        match tokio::time::timeout(ANSWER_WITHIN, answer).await.unwrap_or_else(|_elapsed| late()) {
            Ok(reply) if !reply.certificate.is_empty() => return Ok(reply),
            Ok(_) => reason = format!("{address} gave no certificate"),
            Err(error) => reason = format!("{address}: {error}"),
        }
    }
    Err(reason)
}

/// Whether so much of its life is over.
fn is_due(begins_us: i64, ends_us: i64, now_us: i64, late: i64) -> bool {
    let life = ends_us.saturating_sub(begins_us).max(0);
    now_us.saturating_sub(begins_us) >= life / 1000 * (DUE + late)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_when_half_of_its_life_is_over_and_for_some_a_little_later() {
        for (now, late, expected) in [
            (0, 0, false),
            (499_000, 0, false),
            (500_000, 0, true),
            (599_000, 99, true),
            (550_000, 99, false),
            (2_000_000, 99, true),
        ] {
            assert_eq!(is_due(0, 1_000_000, now, late), expected, "{now} {late}");
        }
    }
}
