//! The audit log of the fake platform: three records, of whoever asks as the operator.

use std::pin::Pin;

use aap_client::status_of_problem;
use aap_client::v1::audit_server::Audit;
use aap_client::v1::*;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::Fake;

fn record(seq: u64) -> AuditRecord {
    AuditRecord {
        seq,
        time_us: 1_700_000_000_000_000,
        actor_kind: "operator".into(),
        actor: "operator".into(),
        action: "user create".into(),
        object_kind: "user".into(),
        object_name: "ana".into(),
        outcome: "done".into(),
        ..AuditRecord::default()
    }
}

#[tonic::async_trait]
impl Audit for Fake {
    type ReadStream = Pin<Box<dyn Stream<Item = Result<AuditRecord, Status>> + Send>>;

    async fn read(&self, request: Request<ReadAuditRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        if !request.outcome.is_empty() && request.outcome != "done" {
            return Ok(Response::new(Box::pin(tokio_stream::empty())));
        }
        let limit = usize::try_from(request.limit).unwrap();
        let limit = if limit == 0 { usize::MAX } else { limit };
        let records = (1..=3).rev().take(limit).map(record).map(Ok::<_, Status>);
        Ok(Response::new(Box::pin(tokio_stream::iter(records.collect::<Vec<_>>()).map(|record| record))))
    }

    async fn verify(&self, _: Request<VerifyAuditRequest>) -> Result<Response<VerifyAuditReply>, Status> {
        Ok(Response::new(VerifyAuditReply {
            log: "l".into(),
            first: 1,
            last: 3,
            lines: 3,
            ..Default::default()
        }))
    }

    async fn export(&self, _: Request<ExportAuditRequest>) -> Result<Response<ExportAuditReply>, Status> {
        Ok(Response::new(ExportAuditReply { public_key: "key".into(), checkpoint: "checkpoint".into() }))
    }
}

/// What somebody is told who may not.
pub(super) fn denied() -> Status {
    let problem = aap_types::Problem::new("auth.denied", aap_types::ExitCode::Denied, "you may not");
    status_of_problem(&problem.hint_command("see who you are here", "aap auth whoami"))
}
