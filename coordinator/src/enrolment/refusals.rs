//! Enrolments that are refused: why, as it is recorded and counted. Whoever asked learns none of it, so that a guess learns nothing.
//!
//! A token that is used once more than it may be is what somebody sees who watches for stolen ones: its record has the address that came too
//! late and those that were faster.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aap_access::Taken;
use aap_audit::{Actor, Object, Outcome, Record};
use aap_types::{NodeId, Problem};

/// Why an enrolment is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Nobody issued the token.
    Unknown,
    /// All its uses are gone, to other machines.
    UsedUp,
    /// Its time is over.
    Expired,
    /// It was withdrawn.
    Revoked,
    /// It is for another node.
    OtherNode,
    /// The name is that of a node already.
    NameTaken,
}

impl Why {
    const ALL: [Self; 6] =
        [Self::Unknown, Self::UsedUp, Self::Expired, Self::Revoked, Self::OtherNode, Self::NameTaken];

    /// As it is recorded and counted.
    const fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::UsedUp => "used_up",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::OtherNode => "other_node",
            Self::NameTaken => "name_taken",
        }
    }

    /// Of a token that could not be used.
    pub(crate) const fn of(taken: Taken) -> Self {
        match taken {
            Taken::UsedUp => Self::UsedUp,
            Taken::Expired => Self::Expired,
            Taken::Revoked => Self::Revoked,
            Taken::OtherNode => Self::OtherNode,
            // The first two are not refused.
            Taken::Granted | Taken::Again | Taken::Unknown => Self::Unknown,
        }
    }
}

/// A machine that did not become a node. It is told the problem.
#[derive(Debug)]
pub(crate) struct NotEnrolled {
    pub(crate) problem: Problem,
    /// What else there is to say where it was refused.
    pub(crate) refusal: Option<Refusal>,
}

impl From<Problem> for Box<NotEnrolled> {
    fn from(problem: Problem) -> Self {
        Self::new(NotEnrolled { problem, refusal: None })
    }
}

/// Which token, for which node, and who had used it before.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) why: Why,
    /// Its id, never the secret.
    pub(crate) token: String,
    pub(crate) node: NodeId,
    pub(crate) used_from: Vec<String>,
}

impl Refusal {
    /// Whether somebody issued the token: then all refusals are recorded, and else only some.
    pub(crate) fn is_known(&self) -> bool {
        self.why != Why::Unknown
    }

    pub(crate) fn record(&self, from: IpAddr, problem: &Problem) -> Record {
        let credential = Some(self.token.clone());
        let actor = Actor { kind: "unknown".to_owned(), name: String::new(), credential };
        let record = Record {
            from: Some(from.to_string()),
            object: Some(Object { kind: "node".to_owned(), name: self.node.to_string() }),
            problem: Some(problem.code.clone()),
            ..Record::new(actor, "node enrol", Outcome::Denied)
        };
        let record = record.with("reason", self.why.word());
        match self.used_from.is_empty() {
            true => record,
            false => record.with("used_from", self.used_from.join(",")),
        }
    }
}

/// How many there were since the start. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refused(Arc<[AtomicU64; Why::ALL.len()]>);

impl Refused {
    pub(crate) fn count(&self, why: Why) {
        self.0[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// In Prometheus text form.
    pub(crate) fn figures(&self) -> String {
        const NAME: &str = "aap_enrolments_refused_total";
        const HELP: &str =
            "Enrolments of machines that were refused; used_up is a token that somebody else had used";
        let mut out = format!("# HELP {NAME} {HELP}\n# TYPE {NAME} counter\n");
        for why in Why::ALL {
            let count = self.0[why as usize].load(Ordering::Relaxed);
            // Writing to a string does not fail.
            let _infallible = writeln!(out, "{NAME}{{reason=\"{}\"}} {count}", why.word());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use aap_types::ExitCode;

    use super::*;

    #[test]
    fn a_token_that_is_used_again_is_counted_and_its_record_shows_both_addresses() {
        let refusal = Refusal {
            why: Why::of(Taken::UsedUp),
            token: "7mKq03TzRw9e".into(),
            node: "edge-2".parse().unwrap(),
            used_from: vec!["10.0.0.1".into()],
        };
        let problem = Problem::new("enrolment.denied", ExitCode::Denied, "no");
        let record = refusal.record([10, 0, 0, 2].into(), &problem);
        assert_eq!((record.from.as_deref(), record.outcome), (Some("10.0.0.2"), Outcome::Denied));
        assert_eq!((&*record.details["reason"], &*record.details["used_from"]), ("used_up", "10.0.0.1"));
        assert_eq!(record.object.unwrap().name, "edge-2");
        let refused = Refused::default();
        refused.count(refusal.why);
        let figures = refused.figures();
        for line in ["{reason=\"used_up\"} 1\n", "{reason=\"unknown\"} 0\n", "{reason=\"name_taken\"} 0\n"] {
            assert!(figures.contains(&format!("aap_enrolments_refused_total{line}")), "{figures}");
        }
    }
}
