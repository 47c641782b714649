//! Coverage of an answer that is made of several: each node counts once, as the worst of what it did.

use aap_proto::v1::Coverage;

/// Adds what another part of the same answer covers.
pub(crate) fn add(coverage: &mut Coverage, other: Coverage) {
    let Coverage { asked, answered, late, failed, reasons, late_reasons } = other;
    for node in asked {
        if !coverage.asked.contains(&node) {
            coverage.asked.push(node);
        }
    }
    for (node, reason) in failed.into_iter().zip(reasons) {
        if !coverage.failed.contains(&node) {
            forget(coverage, &node);
            coverage.failed.push(node);
            coverage.reasons.push(reason);
        }
    }
    for (node, reason) in late.into_iter().zip(late_reasons) {
        if !coverage.failed.contains(&node) && !coverage.late.contains(&node) {
            forget(coverage, &node);
            coverage.late.push(node);
            coverage.late_reasons.push(reason);
        }
    }
    for node in answered {
        let known = [&coverage.answered, &coverage.late, &coverage.failed];
        if !known.iter().any(|nodes| nodes.contains(&node)) {
            coverage.answered.push(node);
        }
    }
}

/// Takes a node out of those that answered or were late.
fn forget(coverage: &mut Coverage, node: &String) {
    coverage.answered.retain(|known| known != node);
    if let Some(at) = coverage.late.iter().position(|known| known == node) {
        coverage.late.remove(at);
        coverage.late_reasons.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coverage(answered: &[&str], late: &[(&str, &str)], failed: &[(&str, &str)]) -> Coverage {
        let names = |list: &[(&str, &str)]| list.iter().map(|(name, _)| (*name).to_owned()).collect();
        let reasons = |list: &[(&str, &str)]| list.iter().map(|(_, why)| (*why).to_owned()).collect();
        let others = late.iter().chain(failed).map(|(name, _)| *name);
        Coverage {
            asked: answered.iter().copied().chain(others).map(str::to_owned).collect(),
            answered: answered.iter().map(|name| (*name).to_owned()).collect(),
            late: names(late),
            failed: names(failed),
            reasons: reasons(failed),
            late_reasons: reasons(late),
        }
    }

    #[test]
    fn a_node_counts_once_as_the_worst_of_what_it_did() {
        let mut found = coverage(&["a", "b", "c"], &[("d", "slow"), ("e", "gone")], &[]);
        add(&mut found, coverage(&["d", "f"], &[("b", "away")], &[("a", "broken"), ("e", "full")]));
        assert_eq!(found.asked, ["a", "b", "c", "d", "e", "f"]);
        assert_eq!(found.answered, ["c", "f"]);
        assert_eq!(
            (found.late, found.late_reasons),
            (vec!["d".into(), "b".into()], vec!["slow".into(), "away".into()])
        );
        assert_eq!(
            (found.failed, found.reasons),
            (vec!["a".into(), "e".into()], vec!["broken".into(), "full".into()])
        );
    }
}
