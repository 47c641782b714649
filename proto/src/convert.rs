//! Checked conversions between wire messages and `aap_types`.

use aap_types::{BatchId, Digest, Epoch, ExitCode, NodeId, Problem, Sequence, SourcePosition, StreamKey};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::v1;

/// Metadata key of a status that carries the JSON of a [`Problem`].
pub const PROBLEM_METADATA: &str = "aap-problem-bin";
/// The code of what was refused because it came too often.
pub const RATE_LIMITED: &str = "gateway.rate_limited";

/// A message that does not mean anything.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// A name is not a name.
    #[error("read name in message")]
    Name(#[from] aap_types::NameError),
    /// No store mints this epoch: its batches would have no place.
    #[error("epoch 0 is none")]
    Epoch,
    /// The digest has another length.
    #[error("digest is {0} bytes long, not 32")]
    Digest(usize),
    /// The positions are not positions.
    #[error("positions of batch {0} cannot be decoded")]
    Positions(u64),
}

/// Identity, digest and positions of a batch that came from `node`.
pub fn batch_id(
    node: &NodeId,
    batch: &v1::Batch,
) -> Result<(BatchId, Digest, Vec<SourcePosition>), ConvertError> {
    if batch.epoch == 0 {
        return Err(ConvertError::Epoch);
    }
    let key = StreamKey { node: node.clone(), epoch: Epoch(batch.epoch), stream: batch.stream.parse()? };
    let digest =
        <[u8; 32]>::try_from(batch.digest.as_ref()).map_err(|_| ConvertError::Digest(batch.digest.len()))?;
    let positions =
        SourcePosition::decode_all(&batch.positions).ok_or(ConvertError::Positions(batch.sequence))?;
    Ok((BatchId { key, sequence: Sequence(batch.sequence) }, Digest(digest), positions))
}

/// A gRPC status that carries `problem` whole.
pub fn status_of_problem(problem: &Problem) -> Status {
    let code = match problem.exit {
        _ if problem.code == RATE_LIMITED => Code::ResourceExhausted,
        ExitCode::NotFound => Code::NotFound,
        ExitCode::Usage => Code::InvalidArgument,
        ExitCode::LoginNeeded => Code::Unauthenticated,
        ExitCode::Denied => Code::PermissionDenied,
        ExitCode::Conflict => Code::FailedPrecondition,
        ExitCode::Unavailable => Code::Unavailable,
        ExitCode::Pending => Code::DeadlineExceeded,
        ExitCode::Bug => Code::Internal,
        _ => Code::Unknown,
    };
    let mut status = Status::new(code, problem.message.clone());
    if let Ok(json) = serde_json::to_vec(problem) {
        status.metadata_mut().insert_bin(PROBLEM_METADATA, MetadataValue::from_bytes(&json));
    }
    status
}

/// The problem a status carries, or one made from its code.
pub fn problem_of_status(status: &Status) -> Problem {
    let carried = status
        .metadata()
        .get_bin(PROBLEM_METADATA)
        .and_then(|value| value.to_bytes().ok())
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    carried.unwrap_or_else(|| {
        let (code, exit) = match status.code() {
            Code::Unavailable | Code::DeadlineExceeded => ("platform.unreachable", ExitCode::Unavailable),
            Code::Unauthenticated => ("auth.token_refused", ExitCode::LoginNeeded),
            Code::PermissionDenied => ("auth.denied", ExitCode::Denied),
            Code::Cancelled => ("platform.cancelled", ExitCode::Failed),
            _ => ("platform.call_failed", ExitCode::Failed),
        };
        Problem::new(code, exit, status.message().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_too_often_is_told_so_by_the_status_that_is_meant_for_it() {
        let problem = Problem::new(RATE_LIMITED, ExitCode::Unavailable, "too many").retry_after_ms(20);
        let status = status_of_problem(&problem);
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(problem_of_status(&status), problem);
    }

    #[test]
    fn a_batch_of_an_epoch_that_nobody_mints_is_refused() {
        let node = "n".parse().unwrap();
        let digest = vec![0; 32].into();
        let batch = v1::Batch { stream: "logs".to_owned(), sequence: 1, digest, ..v1::Batch::default() };
        assert!(matches!(batch_id(&node, &batch), Err(ConvertError::Epoch)));
        assert!(batch_id(&node, &v1::Batch { epoch: 1, ..batch }).is_ok());
    }
}
