//! librdkafka's errors, and what the runner should do about them.

use aap_sinks::{Failure, FailureKind};
use aap_types::{ExitCode, Problem};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::watch::Watch;

/// The code in an error, which `rdkafka_error_code` does not have for all of them.
pub(crate) fn code(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        _ => error.rdkafka_error_code(),
    }
}

/// An error of a call. `watch` may know better why.
pub(crate) fn of(doing: &str, error: &KafkaError, watch: &Watch) -> Failure {
    use RDKafkaErrorCode as C;
    let fatal = matches!(error, KafkaError::Transaction(inner) if inner.is_fatal());
    let why = text(error);
    if let Some(reason) = watch.denied() {
        return denied(doing, reason);
    }
    match code(error) {
        Some(C::Fenced | C::ProducerFenced | C::InvalidProducerEpoch | C::InvalidProducerIdMapping) => {
            Failure::moved(format!("another writer took over while this one wanted to {doing}: {why}"))
        }
        Some(
            C::Authentication
            | C::SaslAuthenticationFailed
            | C::UnsupportedSASLMechanism
            | C::IllegalSASLState
            | C::TopicAuthorizationFailed
            | C::GroupAuthorizationFailed
            | C::ClusterAuthorizationFailed
            | C::TransactionalIdAuthorizationFailed,
        ) => denied(doing, why),
        Some(C::SSL) => tls(why),
        Some(C::UnknownTopic | C::UnknownTopicOrPartition | C::UnknownPartition | C::UnknownTopicId) => {
            refused(
                Problem::new(
                    "sink.topic_missing",
                    ExitCode::NotFound,
                    format!(
                        "Kafka does not know a topic or partition any more that was there: could not {doing}"
                    ),
                )
                .cause(why),
            )
        }
        Some(C::MessageSizeTooLarge | C::MessageBatchTooLarge | C::InvalidMessageSize | C::InvalidRecord) => {
            let problem = Problem::new(
                "sink.bad_rows",
                ExitCode::Failed,
                "Kafka takes a record of the group not at all, and does not say which",
            );
            Failure::new(FailureKind::Group, problem.cause(why))
        }
        Some(
            C::InvalidTransactionTimeout
            | C::InvalidTopic
            | C::InvalidPartitions
            | C::InvalidReplicationFactor
            | C::InvalidConfig
            | C::PolicyViolation
            | C::UnsupportedVersion
            | C::UnsupportedCompressionType,
        ) => setting(format!("Kafka does not accept how it was asked to {doing}"), why),
        // What makes the producer useless without a successor: the ledger tells where it stood.
        _ if fatal => Failure::moved(format!("the producer gave up when it wanted to {doing}: {why}")),
        _ => unreachable(format!("Kafka could not {doing}"), watch.last().unwrap_or(why)),
    }
}

/// Whether waiting does not help a reader.
pub(crate) fn is_lasting(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as C;
    matches!(
        code(error),
        Some(
            C::TopicAuthorizationFailed
                | C::GroupAuthorizationFailed
                | C::UnknownTopicOrPartition
                | C::UnknownTopic
                | C::UnknownPartition
        )
    )
}

/// Whether the log is another than the one that was read: its brokers lost records, or it was made anew.
pub(crate) fn is_another_log(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as C;
    matches!(code(error), Some(C::LogTruncation | C::UnknownTopicId))
}

/// Whether an offset is not in the log any more, or not yet.
pub(crate) fn is_out_of_range(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as C;
    matches!(code(error), Some(C::OffsetOutOfRange | C::AutoOffsetReset))
}

/// The text of an error, without the values of settings, of which one is a password.
pub(crate) fn text(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, description, key, _) => format!("{description} (`{key}`)"),
        KafkaError::Transaction(inner) => inner.string(),
        other => other.to_string(),
    }
}

/// No answer, or none that helps.
pub(crate) fn unreachable(message: impl Into<String>, why: impl Into<String>) -> Failure {
    let problem = Problem::new("sink.unreachable", ExitCode::Unavailable, message);
    Failure::new(FailureKind::Retry, problem.cause(why))
}

/// Where brokers do not want us: waiting does not change that.
pub(crate) fn if_unwanted(watch: &Watch) -> Result<(), Failure> {
    match (watch.denied(), watch.tls()) {
        (Some(reason), _) => Err(denied("log in", reason)),
        (None, Some(reason)) => Err(tls(reason)),
        (None, None) => Ok(()),
    }
}

/// The thread does not answer.
pub(crate) fn stuck() -> Failure {
    unreachable(
        "Kafka's client does not answer",
        "its thread hangs or ended; the next attempt gets another one",
    )
}

/// Somebody has to act.
pub(crate) fn refused(problem: Problem) -> Failure {
    Failure::new(FailureKind::Refused, problem)
}

/// Wrong credentials, or rights that are missing.
pub(crate) fn denied(doing: &str, why: impl Into<String>) -> Failure {
    let problem =
        Problem::new("sink.denied", ExitCode::Denied, format!("Kafka does not let the platform {doing}"));
    refused(problem.cause(why).hint(
        "check `sasl`; the user needs Write on the transactional id, Describe, DescribeConfigs and Write on the topics, Read on the \
         ledger topic and on the group `aap.*`, and Create where topics are to be made; for the landing topic of a cluster also \
         Read and Delete on it",
    ))
}

/// No TLS with whoever answers there.
pub(crate) fn tls(why: impl Into<String>) -> Failure {
    refused(
        Problem::new("sink.tls", ExitCode::Failed, "no TLS connection to Kafka could be made")
            .cause(why)
            .hint("give the certificate of the brokers' authority as `tls.ca`, and brokers by the names in their certificates"),
    )
}

/// A setting that does not work.
pub(crate) fn setting(message: impl Into<String>, why: impl Into<String>) -> Failure {
    refused(Problem::new("sink.setting", ExitCode::Usage, message).cause(why))
}
