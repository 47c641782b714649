//! Messages of the platform as objects with the fields of the registry.

use aap_client::v1::{
    AuditFinding, AuditRecord, Change, DeadLetter, NodeIdentity, NodeStatus, Resource, SinkPosition,
    SinkStatus, SinkStream, SourceStatus, StreamCounters, StreamStatus, VerifyAuditReply,
};
use aap_types::Problem;
use serde_json::{Value, json};

use crate::listing::{Object, object};
use crate::text::rfc3339;

pub(crate) fn node(node: &NodeStatus) -> Object {
    let standing = node.identity.clone().unwrap_or_default();
    object(json!({
        "node": node.node,
        "connected": node.connected,
        "transport": node.transport,
        "last_seen": rfc3339(node.last_seen_us),
        "rows_per_second": node.rows_per_second,
        "waiting_batches": node.waiting_batches,
        "waiting_bytes": node.waiting_bytes,
        "lag_ms": node.lag_ms,
        "stored_bytes": node.stored_bytes,
        "capacity_bytes": node.capacity_bytes,
        // A 64-bit number that JavaScript and jq would round.
        "epoch": node.epoch.to_string(),
        "clock_offset_us": node.clock_offset_us,
        "agent_version": node.agent_version,
        "problems": node.problems,
        "streams": node.streams.iter().map(counters).collect::<Vec<_>>(),
        "state": standing.state,
        "site": standing.site,
        "reason": standing.reason,
        "labels": standing.labels,
        "generation": standing.generation,
        "certificate_expires": until(standing.certificate_expires_us),
    }))
}

/// What a node is to the platform.
pub(crate) fn standing(node: &NodeIdentity) -> Object {
    object(json!({
        "node": node.node,
        "state": node.state,
        "site": node.site,
        "reason": node.reason,
        "labels": node.labels,
        "key": node.key,
        "generation": node.generation,
        "certificate_expires": until(node.certificate_expires_us),
        "created": rfc3339(node.created_us),
        "updated": rfc3339(node.updated_us),
        "draining": node.draining,
    }))
}

/// A moment; 0 stands for none.
pub(crate) fn until(us: i64) -> Option<String> {
    Some(us).filter(|us| *us != 0).and_then(rfc3339)
}

/// A record of the audit log.
pub(crate) fn audit_record(record: &AuditRecord) -> Object {
    let object_name = match (record.object_kind.as_str(), record.object_name.as_str()) {
        (kind, "") => kind.to_owned(),
        (kind, name) => format!("{kind}/{name}"),
    };
    object(json!({
        "seq": record.seq,
        "time": rfc3339(record.time_us),
        "outcome": record.outcome,
        "actor": record.actor,
        "action": record.action,
        "object": object_name,
        "from": record.from,
        "problem": record.problem,
        "actor_kind": record.actor_kind,
        "credential": record.credential,
        "permission": record.permission,
        "request": record.request,
        "details": record.details,
    }))
}

/// What verifying the audit log came to.
pub(crate) fn audit_verification(verified: &VerifyAuditReply) -> Object {
    object(json!({
        "log": verified.log,
        "first": verified.first,
        "last": verified.last,
        "lines": verified.lines,
        "segments": verified.segments,
        "checkpoints": verified.checkpoints,
        "unsigned_lines": verified.unsigned_lines,
        "outdated_checkpoints": verified.outdated_checkpoints,
        "found": verified.found,
        "findings": verified.findings.iter().map(audit_finding).collect::<Vec<_>>(),
    }))
}

/// One place where the audit log is not what was written; a file as a whole has neither line nor sequence.
pub(crate) fn audit_finding(finding: &AuditFinding) -> Value {
    let some = |number: u64| Some(number).filter(|number| *number != 0);
    json!({
        "fault": finding.fault,
        "file": finding.file,
        "line": some(finding.line),
        "seq": some(finding.seq),
        "detail": finding.detail,
    })
}

fn counters(counters: &StreamCounters) -> Value {
    json!({
        "stream": counters.stream,
        "rows_read": counters.rows_read,
        "rows_durable": counters.rows_durable,
        "rows_dropped": counters.rows_dropped,
        "bytes_read": counters.bytes_read,
    })
}

pub(crate) fn stream(stream: &StreamStatus) -> Object {
    object(json!({
        "stream": stream.stream,
        "rows": stream.rows,
        "rows_per_second": stream.rows_per_second,
        "bytes": stream.bytes,
        "raw_bytes": stream.raw_bytes,
        "batches": stream.batches,
        "rows_skipped": stream.rows_skipped,
        "newest": rfc3339(stream.newest_us),
        "landed": rfc3339(stream.landed_us),
        "files": stream.files,
        "rows_in_lake": stream.rows_in_lake,
    }))
}

pub(crate) fn source(source: &SourceStatus) -> Object {
    object(json!({
        "name": source.name,
        "kind": source.kind,
        "stream": source.stream,
        "guarantee": source.guarantee,
        "state": source.state,
        "detail": source.detail,
    }))
}

pub(crate) fn applied(change: &Change) -> Object {
    object(json!({
        "kind": change.kind,
        "name": change.name,
        "action": change.action,
        "revision": change.revision,
        "warnings": change.warnings,
    }))
}

/// With the documents.
pub(crate) fn change(change: &Change) -> Object {
    let mut item = applied(change);
    item.insert("before".into(), json!(change.before));
    item.insert("after".into(), json!(change.after));
    item
}

pub(crate) fn resource(resource: &Resource) -> Object {
    object(json!({
        "kind": resource.kind,
        "name": resource.name,
        "revision": resource.revision,
        "author": resource.author,
        "created": rfc3339(resource.created_us),
        "updated": rfc3339(resource.updated_us),
        "document": resource.document,
    }))
}

pub(crate) fn sink(sink: &SinkStatus) -> Object {
    object(json!({
        "sink": sink.name,
        "kind": sink.kind,
        "target": sink.target,
        "guarantee": sink.guarantee,
        "state": sink.state,
        // As `-o json` prints it where a command fails by it.
        "problem": problem(&sink.problem).map(|problem| problem.to_json()["error"].take()),
        "rows": sink.rows,
        "rows_per_second": sink.rows_per_second,
        "written": rfc3339(sink.written_us),
        "dead_letters": sink.dead_letters,
        "waiting_batches": sink.waiting_batches,
        "revision": sink.revision,
        "streams": sink.streams.iter().map(sink_stream).collect::<Vec<_>>(),
    }))
}

/// The problem of a sink, while it has one. What cannot be read, because the platform is newer, is shown as it came.
pub(crate) fn problem(text: &str) -> Option<Problem> {
    if text.is_empty() {
        return None;
    }
    let newer = || Problem::new("platform.call_failed", aap_types::ExitCode::Failed, text);
    Some(serde_json::from_str(text).unwrap_or_else(|_newer| newer()))
}

fn sink_stream(stream: &SinkStream) -> Value {
    json!({
        "stream": stream.stream,
        "rows": stream.rows,
        "waiting_batches": stream.waiting_batches,
        "positions": stream.positions.iter().map(sink_position).collect::<Vec<_>>(),
    })
}

fn sink_position(position: &SinkPosition) -> Value {
    json!({
        "node": position.node,
        // A 64-bit number that JavaScript and jq would round.
        "epoch": position.epoch.to_string(),
        "through": position.through,
        "landed": position.landed,
    })
}

pub(crate) fn dead_letter(letter: &DeadLetter) -> Object {
    object(json!({
        "at": rfc3339(letter.at_us),
        "stream": letter.stream,
        "node": letter.node,
        "epoch": letter.epoch.to_string(),
        "sequence": letter.sequence,
        "row": letter.row,
        "reason": letter.reason,
    }))
}

/// With the row itself.
pub(crate) fn dead_letter_with_row(letter: &DeadLetter) -> Object {
    let mut item = dead_letter(letter);
    let row = serde_json::from_str(&letter.document).unwrap_or_else(|_no_json| json!(letter.document));
    item.insert("document".into(), row);
    item
}

#[cfg(test)]
mod tests {
    use aap_client::operations::{Id, of};

    use super::*;

    #[test]
    fn objects_have_exactly_the_fields_of_the_registry() {
        let check = |id: Id, object: Object, also: &[&str]| {
            let mut expected: Vec<&str> = of(id).output.fields().iter().map(|field| field.name).collect();
            expected.sort_unstable();
            let mut found: Vec<&str> =
                object.keys().map(String::as_str).chain(also.iter().copied()).collect();
            found.sort_unstable();
            assert_eq!(found, expected, "{id:?}");
        };
        check(Id::NodeLs, node(&NodeStatus::default()), &[]);
        check(Id::NodeShow, node(&NodeStatus::default()), &[]);
        let standings =
            [Id::NodeApprove, Id::NodeCordon, Id::NodeBan, Id::NodeDrain, Id::NodeResume, Id::NodeLabel];
        for id in standings {
            check(id, standing(&NodeIdentity::default()), &[]);
        }
        use aap_client::v1::AuthorityReply;
        for id in [Id::CaShow, Id::CaRotate] {
            check(id, super::super::ca::authority(&AuthorityReply::default()), &[]);
        }
        check(Id::SiteLs, super::super::site::view("lyon", &Default::default()), &[]);
        check(Id::SiteShow, super::super::site::view_with_nodes("lyon", &Default::default()), &[]);
        check(Id::AuditTail, audit_record(&AuditRecord::default()), &[]);
        check(Id::AuditSearch, audit_record(&AuditRecord::default()), &[]);
        check(Id::AuditVerify, audit_verification(&VerifyAuditReply::default()), &[]);
        check(Id::StreamLs, stream(&StreamStatus::default()), &[]);
        check(Id::StreamShow, stream(&StreamStatus::default()), &["columns", "origins"]);
        check(Id::Apply, applied(&Change::default()), &[]);
        check(Id::Diff, change(&Change::default()), &[]);
        check(Id::Get, resource(&Resource::default()), &[]);
        check(Id::SinkLs, sink(&SinkStatus::default()), &[]);
        check(Id::SinkShow, sink(&SinkStatus::default()), &[]);
        check(Id::SinkDlqLs, dead_letter(&DeadLetter::default()), &[]);
        check(Id::SinkDlqShow, dead_letter_with_row(&DeadLetter::default()), &[]);
    }
}
