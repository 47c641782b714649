//! The platform: what the coordinator says of itself, its nodes and its sinks, and the agent of this machine.

use std::time::Duration;

use aap_client::v1::{
    ListSinksRequest, NodeReport, NodeStatus, NodeStatusRequest, SinkStatus, VerifyAuditRequest,
};
use aap_client::{Clock, call};
use aap_types::{ExitCode, Problem};

use super::{ANSWER_WITHIN, Asked, Finding, Subject, Verdict};
use crate::commands::views;
use crate::text::{age, span_ms};

/// Verification reads every byte of the log: a minute for some two million records.
const VERIFY_WITHIN: Duration = Duration::from_secs(60);
/// A clock that is off by more makes times of rows look wrong.
const CLOCK_WARN_US: i64 = 2_000_000;
/// And by more than that certificates of a day's life and sessions fail.
const CLOCK_FAIL_US: i64 = 300_000_000;
/// A coordinator's certificate is renewed when it starts, long before this.
const EXPIRES_SOON_US: i64 = 5 * 24 * 3_600_000_000;
/// How full of what was not delivered a buffer may be.
const FULL_WARN: f64 = 0.7;
const FULL_FAIL: f64 = 0.95;

pub(super) fn coordinator(check: &'static str, asked: &Result<Asked, Problem>) -> Vec<Finding> {
    let status = match asked {
        Ok(asked) => &asked.status,
        Err(problem) => return vec![Finding::of_problem(check, problem)],
    };
    let version = &status.coordinator_version;
    let up = age(status.as_of_us, status.started_us);
    let answers = Finding::ok(check, format!("answers; version {version}, started {up}"));
    let problems = status.problems.iter().map(|problem| {
        Finding::new(check, Verdict::Warn, problem.clone())
            .hint("see what it says of it", "aap logs coordinator")
    });
    std::iter::once(answers).chain(problems).collect()
}

pub(super) async fn tls(check: &'static str, subject: &Subject) -> Vec<Finding> {
    if let Some(lost) = &subject.lost {
        return vec![Finding::skipped(check, lost.message.clone())];
    }
    let certificates = match subject.platform.certificates(ANSWER_WITHIN).await {
        Ok(certificates) => certificates,
        Err(problem) => return vec![Finding::of_problem(check, &problem)],
    };
    let Some(first) = certificates.iter().min_by_key(|certificate| certificate.until_us) else {
        return vec![Finding::skipped(check, "no certificate was shown")];
    };
    let now_us = subject.clock.unix_us();
    let (subject_name, until) = (&first.subject, age(now_us, first.until_us));
    if first.until_us.saturating_sub(now_us) < EXPIRES_SOON_US {
        let soon =
            Finding::new(check, Verdict::Warn, format!("the certificate of {subject_name} ends {until}"));
        return vec![
            soon.hint("the coordinator renews its own when it starts", "aap down && aap up --detach"),
        ];
    }
    let count = certificates.len();
    vec![Finding::ok(check, format!("{count} certificates hold; the first of them ends {until}"))]
}

/// Checks of what the coordinator said.
pub(super) async fn asked(check: &'static str, subject: &Subject, asked: &Asked) -> Vec<Finding> {
    let nodes = &asked.status.nodes;
    match check {
        "clock" => vec![clock(check, asked.ahead_us, asked.within_us)],
        "nodes" => each_or(check, nodes.iter().filter_map(|node| absence(check, node, asked)), || {
            format!("{} nodes, and all are connected", nodes.len())
        }),
        "approvals" => each_or(check, nodes.iter().filter_map(|node| waits(check, node)), || {
            "nobody waits to be let in".to_owned()
        }),
        "buffers" => each_or(check, nodes.iter().filter_map(|node| fill(check, node)), || {
            "none is full of what was not delivered".to_owned()
        }),
        "sinks" => sinks(check, subject).await,
        "audit" => audit(check, subject).await,
        other => vec![Finding::skipped(check, format!("there is no check `{other}`"))],
    }
}

/// Findings, or that all is well.
fn each_or(
    check: &'static str,
    found: impl Iterator<Item = Finding>,
    well: impl FnOnce() -> String,
) -> Vec<Finding> {
    let found: Vec<Finding> = found.collect();
    if found.is_empty() { vec![Finding::ok(check, well())] } else { found }
}

/// What the clocks are apart cannot be known more exactly than the answer took.
fn clock(check: &'static str, ahead_us: i64, within_us: i64) -> Finding {
    let apart_us = ahead_us.saturating_abs().saturating_sub(within_us).max(0);
    let verdict = match apart_us {
        ..CLOCK_WARN_US => {
            return Finding::ok(check, "the coordinator's clock agrees with that of this machine");
        }
        CLOCK_WARN_US..CLOCK_FAIL_US => Verdict::Warn,
        _ => Verdict::Fail,
    };
    let side = if ahead_us > 0 { "ahead of" } else { "behind" };
    let text = format!("the coordinator's clock is {} {side} that of this machine", span_ms(apart_us / 1000));
    Finding::new(check, verdict, text).hint("synchronise both with a time server", "timedatectl set-ntp true")
}

fn state(node: &NodeStatus) -> &str {
    node.identity.as_ref().map_or("", |identity| identity.state.as_str())
}

fn absence(check: &'static str, node: &NodeStatus, asked: &Asked) -> Option<Finding> {
    let name = &node.node;
    match state(node) {
        "banned" | "pending" => None,
        "locked" => Some(
            Finding::new(check, Verdict::Fail, format!("node `{name}` is locked: its key is in two places"))
                .hint("see what happened, and enrol it again", format!("aap node show {name}")),
        ),
        _ if node.connected => {
            let problem = node.problems.first()?;
            let finding = Finding::new(check, Verdict::Warn, format!("node `{name}`: {problem}"));
            Some(finding.hint("see all of it", format!("aap node show {name}")))
        }
        _ => {
            let seen = match node.last_seen_us {
                0 => "never seen".to_owned(),
                us => format!("last seen {}", age(asked.status.as_of_us, us)),
            };
            let finding =
                Finding::new(check, Verdict::Warn, format!("node `{name}` is not connected; {seen}"));
            Some(finding.hint("look at its agent, there", "aap doctor --only agent"))
        }
    }
}

fn waits(check: &'static str, node: &NodeStatus) -> Option<Finding> {
    let name = &node.node;
    (state(node) == "pending").then(|| {
        Finding::new(check, Verdict::Warn, format!("node `{name}` waits to be approved"))
            .hint("let it in, if it is yours", format!("aap node approve {name}"))
    })
}

fn fill(check: &'static str, node: &NodeStatus) -> Option<Finding> {
    fullness(check, &format!("node `{}`", node.node), node.waiting_bytes, node.capacity_bytes)
}

fn fullness(check: &'static str, whose: &str, waiting: u64, capacity: u64) -> Option<Finding> {
    let part = waiting as f64 / capacity.max(1) as f64;
    let verdict = match part {
        part if part >= FULL_FAIL => Verdict::Fail,
        part if part >= FULL_WARN => Verdict::Warn,
        _ => return None,
    };
    let text = format!("{whose}: {:.0} % of the buffer waits to be delivered", part * 100.0);
    Some(Finding::new(check, verdict, text).hint("see whether it moves", "aap status --watch"))
}

async fn sinks(check: &'static str, subject: &Subject) -> Vec<Finding> {
    let fetched = async {
        let mut api = subject.platform.resources().await?;
        call(ANSWER_WITHIN, api.list_sinks(ListSinksRequest::default())).await
    };
    match fetched.await {
        Ok(reply) => {
            let count = reply.sinks.len();
            let found = reply.sinks.iter().filter_map(|sink| failing(check, sink));
            each_or(check, found, || format!("{count} are declared, and none fails"))
        }
        Err(problem) => vec![Finding::of_problem(check, &problem)],
    }
}

fn failing(check: &'static str, sink: &SinkStatus) -> Option<Finding> {
    let (name, state) = (&sink.name, sink.state.as_str());
    let verdict = match state {
        "refused" => Verdict::Fail,
        "retrying" => Verdict::Warn,
        _ if sink.dead_letters > 0 => {
            let text = format!("sink `{name}`: its server refused {} rows", sink.dead_letters);
            let finding = Finding::new(check, Verdict::Warn, text);
            return Some(finding.hint("see why", format!("aap sink dlq ls {name}")));
        }
        _ => return None,
    };
    let problem = views::problem(&sink.problem);
    let text = problem.as_ref().map_or("it says no reason", |problem| problem.message.as_str());
    let finding = Finding::new(check, verdict, format!("sink `{name}` is {state}: {text}"));
    Some(finding.hint("try it out", format!("aap sink test {name}")))
}

async fn audit(check: &'static str, subject: &Subject) -> Vec<Finding> {
    let verified = async {
        let mut api = subject.platform.audit().await?;
        call(VERIFY_WITHIN, api.verify(VerifyAuditRequest::default())).await
    };
    let verified = match verified.await {
        Ok(verified) => verified,
        // It is a large log, and nobody should wait for it here.
        Err(problem) if problem.exit == ExitCode::Unavailable => {
            let late = Finding::new(check, Verdict::Warn, "the audit log was not verified in time");
            return vec![late.cause(problem.message).hint("verify it by itself", "aap audit verify")];
        }
        Err(problem) => return vec![Finding::of_problem(check, &problem)],
    };
    match verified.findings.first() {
        None => vec![Finding::ok(check, format!("{} lines are as they were written", verified.lines))],
        Some(first) => {
            let text = format!("{} places of the audit log are not what was written", verified.found);
            let changed = Finding::new(check, Verdict::Fail, text);
            let cause = format!("{}: {}, line {}", first.fault, first.file, first.line);
            vec![
                changed
                    .cause(cause)
                    .hint("see all of them, and keep a copy of the files", "aap audit verify"),
            ]
        }
    }
}

/// The agent of a home of this machine, asked on its own socket.
pub(super) async fn agent(check: &'static str, subject: &Subject) -> Vec<Finding> {
    let traces = [subject.platform.agent_file(), subject.platform.agent_socket()];
    if subject.home().is_none() || !traces.into_iter().flatten().any(|trace| trace.exists()) {
        return vec![Finding::skipped(check, "no agent ever ran in a home of this machine")];
    }
    let answered = async {
        let mut api = subject.platform.node().await?;
        call(ANSWER_WITHIN, api.status(NodeStatusRequest {})).await
    };
    let reply = match answered.await {
        Ok(reply) => reply,
        Err(problem) => return vec![Finding::of_problem(check, &problem)],
    };
    let failed = reply.sources.iter().filter(|source| source.state == "failed").map(|source| {
        Finding::new(check, Verdict::Fail, format!("source `{}` failed: {}", source.name, source.detail))
            .hint("see what it says", "aap logs agent")
    });
    let report = reply.report.unwrap_or_default();
    let NodeReport { waiting_bytes, capacity_bytes, .. } = report;
    let full = fullness(check, "the agent here", waiting_bytes, capacity_bytes);
    each_or(check, failed.chain(full), || {
        format!("node `{}` answers with {} sources", reply.node, reply.sources.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_judged_only_by_what_the_answer_cannot_explain() {
        for (ahead_us, within_us, verdict) in [
            (0, 0, Verdict::Ok),
            (-3_000_000, 2_000_000, Verdict::Ok),
            (3_000_000, 500_000, Verdict::Warn),
            (-600_000_000, 0, Verdict::Fail),
            (i64::MIN, 0, Verdict::Fail),
        ] {
            assert_eq!(clock("clock", ahead_us, within_us).verdict, verdict, "{ahead_us}");
        }
        assert!(clock("clock", -600_000_000, 0).text.contains("behind"));
    }

    #[test]
    fn a_buffer_is_full_by_what_waits_in_it() {
        assert!(fullness("buffers", "x", 69, 100).is_none() && fullness("buffers", "x", 0, 0).is_none());
        assert_eq!(fullness("buffers", "x", 70, 100).unwrap().verdict, Verdict::Warn);
        assert_eq!(fullness("buffers", "x", 95, 100).unwrap().verdict, Verdict::Fail);
    }
}
