//! Node identities: renewals, admissions, states.

use crate::{Admission, Certificate, Fingerprint, NodeIdentity, NodeState, RECOVERIES_MAX, Renewal};

fn node() -> NodeIdentity {
    NodeIdentity {
        node: "n1".parse().unwrap(),
        site: "berlin".parse().unwrap(),
        labels: [].into(),
        state: NodeState::Approved,
        reason: String::new(),
        key: Fingerprint([1; 32]),
        generation: 0,
        shown: 0,
        renewal: String::new(),
        certificate: None,
        trusts: None,
        draining: false,
        recoveries: 0,
        created_us: 0,
        updated_us: 0,
    }
}

/// A certificate that holds for a hundred.
fn renew(node: &mut NodeIdentity, presented: u64, number: &str, now_us: i64) -> Renewal {
    renew_below(node, presented, number, now_us, None)
}

/// The same below a root.
fn renew_below(
    node: &mut NodeIdentity,
    presented: u64,
    number: &str,
    now_us: i64,
    root: Option<Fingerprint>,
) -> Renewal {
    let certificate = Certificate { serial: format!("{number}@{now_us}"), expires_us: now_us + 100, root };
    node.renew(presented, number, &certificate, now_us)
}

fn serial(node: &NodeIdentity) -> &str {
    &node.certificate.as_ref().unwrap().serial
}

#[test]
fn a_renewal_whose_answer_was_lost_is_answered_again() {
    let mut node = node();
    assert_eq!(renew(&mut node, 0, "first", 1), Renewal::Granted(1));
    assert_eq!(node.admit(1, 2), Admission::Admitted);
    assert_eq!(renew(&mut node, 1, "second", 50), Renewal::Granted(2));
    // The node still has the first, and goes on with it until it has the answer.
    assert_eq!(node.admit(1, 51), Admission::Admitted);
    assert_eq!(renew(&mut node, 1, "second", 60), Renewal::Again(2));
    assert_eq!(serial(&node), "second@60");
    assert_eq!(node.admit(2, 61), Admission::Admitted);
    assert_eq!((node.generation, node.state), (2, NodeState::Approved));
}

#[test]
fn a_node_trusts_a_root_once_it_shows_a_certificate_of_it_or_asks_for_the_next() {
    let (former, new) = (Some(Fingerprint([7; 32])), Some(Fingerprint([8; 32])));
    let mut node = node();
    renew_below(&mut node, 0, "first", 1, former);
    assert_eq!(node.trusts, None, "it may never have arrived");
    node.admit(1, 2);
    assert_eq!(node.trusts, former);
    renew_below(&mut node, 1, "second", 3, new);
    assert_eq!(node.trusts, former);
    node.admit(1, 4);
    renew_below(&mut node, 1, "second", 5, new);
    assert_eq!(node.trusts, former, "the answer was lost");
    let mut by_asking = node.clone();
    node.admit(2, 6);
    assert_eq!(node.trusts, new);
    renew_below(&mut by_asking, 2, "third", 6, new);
    assert_eq!(by_asking.trusts, new, "in a session that goes on");
}

#[test]
fn a_copy_of_a_node_is_noticed_whoever_renews_first() {
    // The copy renews, and the node after it; or the node does, and the copy after it.
    for (first, second) in [("copy's", "node's"), ("node's", "copy's")] {
        let mut node = node();
        assert_eq!(renew(&mut node, 0, "both have it", 1), Renewal::Granted(1));
        assert_eq!(renew(&mut node, 1, first, 50), Renewal::Granted(2));
        assert_eq!(renew(&mut node, 1, second, 51), Renewal::Cloned);
        assert_eq!(node.state, NodeState::Locked);
        assert!(node.reason.contains("generation 1 was shown, and the newest is 2"), "{}", node.reason);
        assert_eq!(serial(&node), format!("{first}@50"), "it got nothing");
        for presented in [1, 2] {
            assert_eq!(node.admit(presented, 52), Admission::Refused(NodeState::Locked));
            assert_eq!(renew(&mut node, presented, first, 52), Renewal::Refused(NodeState::Locked));
        }
    }
}

#[test]
fn an_old_certificate_is_no_longer_good_once_the_newest_was_shown() {
    let mut approved = node();
    renew(&mut approved, 0, "first", 1);
    renew(&mut approved, 1, "second", 2);
    assert_eq!(approved.admit(2, 3), Admission::Admitted);
    for presented in [0, 1, 3, u64::MAX] {
        let mut node = approved.clone();
        assert_eq!(node.admit(presented, 4), Admission::Cloned, "{presented}");
        assert_eq!(node.state, NodeState::Locked);
    }
    let mut fresh = node();
    assert_eq!(fresh.admit(0, 1), Admission::Cloned, "a node without a certificate shows none");
    let mut by_hand = NodeIdentity { key: crate::NO_KEY, ..node() };
    assert_eq!(by_hand.admit(0, 1), Admission::Admitted, "nobody knows its key");
    by_hand.set_state(NodeState::Banned, "stolen", 2);
    assert_eq!(by_hand.admit(0, 3), Admission::Refused(NodeState::Banned));
}

#[test]
fn only_a_node_that_belongs_here_gets_certificates() {
    for (state, served) in [
        (NodeState::Pending, false),
        (NodeState::Approved, true),
        (NodeState::Cordoned, true),
        (NodeState::Banned, false),
        (NodeState::Locked, false),
    ] {
        let mut node = node();
        renew(&mut node, 0, "first", 1);
        node.set_state(state, "because", 2);
        let before = node.clone();
        let admitted = node.admit(1, 3);
        let renewed = renew(&mut node, 1, "second", 3);
        if served {
            assert_eq!((admitted, renewed), (Admission::Admitted, Renewal::Granted(2)), "{state}");
        } else {
            assert_eq!((admitted, renewed), (Admission::Refused(state), Renewal::Refused(state)));
            assert_eq!(node, before, "{state}");
        }
    }
}

#[test]
fn a_node_recovers_from_an_expired_certificate_so_often_and_then_an_operator_looks() {
    let mut node = node();
    renew(&mut node, 0, "first", 0);
    let mut now_us = 0;
    for recovery in 1..=RECOVERIES_MAX {
        now_us += 100;
        let generation = u64::from(recovery);
        let renewed = renew(&mut node, generation, &format!("{now_us}"), now_us);
        assert_eq!(renewed, Renewal::Granted(generation + 1));
        assert_eq!(node.recoveries, recovery);
    }
    let generation = node.generation;
    assert_eq!(renew(&mut node, generation, "in time", now_us + 99), Renewal::Granted(generation + 1));
    now_us += 99 + 100;
    assert_eq!(renew(&mut node, generation + 1, "late", now_us), Renewal::RecoveriesUsedUp);
    assert_eq!(node.state, NodeState::Approved, "it did nothing wrong");
    node.set_state(NodeState::Approved, "looked at it", now_us);
    assert_eq!(renew(&mut node, generation + 1, "late", now_us), Renewal::Granted(generation + 2));
}
