//! Records of the audit log, and what verifying it came to, as they go over the wire.

use aap_audit::{Entry, Finding, Verification};

use crate::v1;

/// A record; what it does not have is empty.
pub fn audit_record(entry: Entry) -> v1::AuditRecord {
    let Entry { seq, time, record, text: _ } = entry;
    let object = record.object.unwrap_or_default();
    v1::AuditRecord {
        seq,
        time_us: time,
        request: record.request.unwrap_or_default(),
        actor_kind: record.actor.kind,
        actor: record.actor.name,
        credential: record.actor.credential.unwrap_or_default(),
        from: record.from.unwrap_or_default(),
        action: record.action,
        permission: record.permission.unwrap_or_default(),
        object_kind: object.kind,
        object_name: object.name,
        outcome: record.outcome.to_string(),
        problem: record.problem.unwrap_or_default(),
        details: record.details.into_iter().collect(),
    }
}

/// What verification came to.
pub fn audit_verification(verified: Verification) -> v1::VerifyAuditReply {
    v1::VerifyAuditReply {
        log: verified.log.unwrap_or_default(),
        first: verified.first,
        last: verified.last,
        lines: verified.lines,
        segments: verified.segments,
        checkpoints: verified.checkpoints,
        unsigned_lines: verified.unsigned,
        outdated_checkpoints: verified.outdated,
        found: verified.found,
        findings: verified.findings.into_iter().map(finding).collect(),
    }
}

fn finding(finding: Finding) -> v1::AuditFinding {
    v1::AuditFinding {
        fault: finding.fault.to_string(),
        file: finding.file,
        line: finding.line.unwrap_or_default(),
        seq: finding.seq.unwrap_or_default(),
        detail: finding.detail,
    }
}
