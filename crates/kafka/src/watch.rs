//! What librdkafka tells on the side, while a call waits: refused logins, records that were lost, its log.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use tracing::debug;

/// What was told.
#[derive(Debug, Default)]
struct Seen {
    denied: Option<String>,
    tls: Option<String>,
    last: Option<String>,
    lost: Option<Lost>,
    broken: Option<String>,
}

/// What librdkafka files under when a transaction can only be given up any more. No call tells it before the commit, which
/// waits for records that will not go.
const TRANSACTION_BROKEN: &str = "TXNERR";

/// The first record that was not delivered.
#[derive(Debug, Clone)]
pub(crate) struct Lost {
    /// Why.
    pub(crate) error: KafkaError,
    /// Where it should have gone.
    pub(crate) topic: String,
}

/// What stands for no record where offsets stand: less than librdkafka says of one that is there and nobody knows where.
const NONE: i64 = i64::MIN;

/// The context of a client; clones see the same.
#[derive(Debug, Clone)]
pub(crate) struct Watch(Arc<Told>);

#[derive(Debug)]
struct Told {
    seen: Mutex<Seen>,
    /// The last offset. Told of every record, so without a lock.
    delivered: AtomicI64,
}

impl Default for Watch {
    fn default() -> Self {
        Self(Arc::new(Told { seen: Mutex::default(), delivered: AtomicI64::new(NONE) }))
    }
}

impl Watch {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the login was refused, if it was.
    pub(crate) fn denied(&self) -> Option<String> {
        self.seen().denied.clone()
    }

    /// Why there is no TLS, if there is none.
    pub(crate) fn tls(&self) -> Option<String> {
        self.seen().tls.clone()
    }

    /// The last that went wrong.
    pub(crate) fn last(&self) -> Option<String> {
        self.seen().last.clone()
    }

    /// The first record that was lost since [`Self::clear`].
    pub(crate) fn lost(&self) -> Option<Lost> {
        self.seen().lost.clone()
    }

    /// The offset of the last record that was delivered since [`Self::clear`], of a producer that asks for such reports; below
    /// zero where the brokers know only that it is there.
    pub(crate) fn delivered(&self) -> Option<i64> {
        Some(self.0.delivered.load(Ordering::Acquire)).filter(|offset| *offset != NONE)
    }

    /// Why the transaction cannot be committed any more, since [`Self::clear`].
    pub(crate) fn broken(&self) -> Option<String> {
        self.seen().broken.clone()
    }

    /// Forgets, before something new is begun.
    pub(crate) fn clear(&self) {
        *self.seen() = Seen::default();
        self.0.delivered.store(NONE, Ordering::Release);
    }
}

impl ClientContext for Watch {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Each of these comes back as an error of the call or of this context, where it is told once.
        debug!(target: "librdkafka", ?level, facility, message);
        if facility == TRANSACTION_BROKEN {
            self.seen().broken.get_or_insert_with(|| message.to_owned());
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let mut seen = self.seen();
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed) => {
                seen.denied = Some(reason.to_owned());
            }
            Some(RDKafkaErrorCode::SSL) => seen.tls = Some(reason.to_owned()),
            // It follows upon each of the others, and says less.
            Some(RDKafkaErrorCode::AllBrokersDown) => {}
            _ => seen.last = Some(reason.to_owned()),
        }
    }
}

impl ProducerContext for Watch {
    type DeliveryOpaque = ();

    /// Told of every record, though only those that were lost say something: so that the thread that made a record is the one that frees it.
    /// Where the broker's thread does, the two wait for each other in the allocator, and a row costs twice the time. They come in the
    /// order of their offsets.
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(message) => self.0.delivered.store(message.offset(), Ordering::Release),
            Err((error, message)) => {
                let mut seen = self.seen();
                let purged = matches!(
                    error.rdkafka_error_code(),
                    Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight)
                );
                // Those that are thrown away because of the first one do not say why.
                if seen.lost.is_none() && !purged {
                    seen.lost = Some(Lost { error: error.clone(), topic: message.topic().to_owned() });
                }
            }
        }
    }
}

impl ConsumerContext for Watch {}
