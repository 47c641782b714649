//! What a store promises that several coordinators share.

use std::time::Duration;

use aap_types::{Epoch, NodeId, Sequence, SourceKind, SourcePosition};

use super::{key, landing};
use crate::{Acquired, ClusterStore, Error, Fence, LandedPosition, Lease, MetadataStore};

/// A store of a cluster.
pub trait Clustered: MetadataStore + ClusterStore {}

impl<T: MetadataStore + ClusterStore> Clustered for T {}

/// A new, empty store, and what lets time pass for its leases.
#[expect(missing_debug_implementations, reason = "a function has no form to show")]
pub struct Timed {
    /// The store.
    pub store: Box<dyn Clustered>,
    /// Lets time pass.
    pub pass: Box<dyn Fn(Duration)>,
}

/// Runs the suite.
pub fn run_cluster(make: &mut dyn FnMut() -> Timed) {
    for promise in PROMISES {
        promise(&make());
    }
}

const PROMISES: [fn(&Timed); 9] = [
    a_lease_has_one_holder_until_it_expires,
    a_token_never_comes_twice,
    only_what_nobody_took_is_renewed,
    what_is_not_the_holder_s_is_not_given_up,
    whoever_lost_the_lease_changes_nothing_in_the_lake,
    a_lease_that_expired_is_no_lease_until_it_is_renewed,
    a_fence_that_was_cleared_lets_nothing_through,
    a_cluster_has_one_name_and_one_authority,
    a_position_is_only_replaced_by_one_that_is_not_older,
];

/// Longer than any of these tests takes.
const TTL: Duration = Duration::from_secs(600);

fn taken(store: &dyn Clustered, name: &str, holder: &str) -> Lease {
    match store.acquire_lease(name, holder, &format!("detail of {holder}"), TTL).unwrap() {
        Acquired::Taken(lease) => lease,
        held @ Acquired::Held(_) => panic!("{holder} cannot take {name}: {held:?}"),
    }
}

fn held(store: &dyn Clustered, name: &str, holder: &str) -> Lease {
    match store.acquire_lease(name, holder, "", TTL).unwrap() {
        Acquired::Held(lease) => lease,
        taken @ Acquired::Taken(_) => panic!("{holder} may not take {name}: {taken:?}"),
    }
}

fn named(lease: &Lease) -> (String, u64) {
    (lease.name.clone(), lease.token)
}

fn a_lease_has_one_holder_until_it_expires(Timed { store, pass }: &Timed) {
    assert_eq!(store.leases().unwrap(), []);
    let first = taken(&**store, "leader", "one");
    assert_eq!((first.token, first.holder.as_str(), first.detail.as_str()), (1, "one", "detail of one"));
    assert!(first.left <= TTL && first.left > TTL / 2, "{first:?}");
    pass(TTL / 2);
    let seen = held(&**store, "leader", "two");
    assert_eq!((seen.token, seen.holder.as_str(), seen.detail.as_str()), (1, "one", "detail of one"));
    assert!(seen.left <= TTL / 2 && seen.left > TTL / 4, "{seen:?}");
    // Another lease has nothing to do with it.
    assert_eq!(taken(&**store, "a shard", "two").token, 1);

    pass(TTL / 2);
    let expired = &store.leases().unwrap()[1];
    assert_eq!(
        (expired.name.as_str(), expired.holder.as_str(), expired.left),
        ("leader", "one", Duration::ZERO)
    );
    let second = taken(&**store, "leader", "two");
    assert_eq!((second.token, second.holder.as_str()), (2, "two"));
    assert_eq!(held(&**store, "leader", "one").holder, "two");
}

fn a_token_never_comes_twice(Timed { store, pass }: &Timed) {
    let mut tokens = vec![];
    for holder in ["one", "two", "two", "one"] {
        let lease = taken(&**store, "leader", holder);
        // Whoever has it keeps its token, and may say something new of itself.
        let again = store.acquire_lease("leader", holder, "moved", TTL).unwrap();
        let Acquired::Taken(again) = again else { panic!("{again:?}") };
        assert_eq!((again.token, again.detail.as_str()), (lease.token, "moved"));
        tokens.push(lease.token);
        store.release_leases(holder, &[named(&lease)]).unwrap();
        assert_eq!(store.leases().unwrap(), []);
    }
    tokens.push(taken(&**store, "leader", "one").token);
    pass(TTL);
    assert_eq!(taken(&**store, "leader", "one").token, tokens[4], "nobody else had it in between");
    pass(TTL);
    tokens.push(taken(&**store, "leader", "two").token);
    assert_eq!(tokens, [1, 2, 3, 4, 5, 6]);
}

fn only_what_nobody_took_is_renewed(Timed { store, pass }: &Timed) {
    let mine: Vec<_> = ["a", "b", "c"].map(|name| named(&taken(&**store, name, "one"))).into();
    pass(TTL);
    taken(&**store, "b", "two");
    store.release_leases("one", &mine[2..]).unwrap();
    let mut asked = mine.clone();
    asked.extend([("never taken".to_owned(), 1), ("a".to_owned(), 7)]);
    assert_eq!(store.renew_leases("one", &asked, TTL).unwrap(), ["a"]);
    assert_eq!(store.renew_leases("two", &mine, TTL).unwrap(), Vec::<String>::new(), "that token is past");
    assert_eq!(store.renew_leases("one", &[], TTL).unwrap(), Vec::<String>::new());
    let left = |name: &str| {
        let all = store.leases().unwrap();
        all.into_iter().find(|lease| lease.name == name).map(|lease| (lease.holder, lease.left > TTL / 2))
    };
    assert_eq!(left("a"), Some(("one".to_owned(), true)));
    assert_eq!(left("b"), Some(("two".to_owned(), true)));
    assert_eq!(left("c"), None);
    // Many in one go, and in the order of nobody.
    let many: Vec<_> = (0..66).rev().map(|n| named(&taken(&**store, &format!("shard-{n}"), "one"))).collect();
    pass(TTL / 2);
    let mut renewed = store.renew_leases("one", &many, TTL).unwrap();
    renewed.sort();
    let mut names: Vec<_> = many.iter().map(|(name, _)| name.clone()).collect();
    names.sort();
    assert_eq!(renewed, names);
}

fn what_is_not_the_holder_s_is_not_given_up(Timed { store, .. }: &Timed) {
    let lease = taken(&**store, "leader", "one");
    store.release_leases("two", &[named(&lease)]).unwrap();
    store.release_leases("one", &[("leader".to_owned(), 9), ("nothing".to_owned(), 1)]).unwrap();
    assert_eq!(held(&**store, "leader", "two").holder, "one");
    store.release_leases("one", &[named(&lease)]).unwrap();
    assert_eq!(taken(&**store, "leader", "two").token, 2);
}

fn under(lease: &Lease) -> Option<Fence> {
    Some(Fence { lease: lease.name.clone(), token: lease.token })
}

/// Tries whatever changes files and cuts.
fn is_fenced(store: &dyn Clustered, from: u64) {
    let before = store.catalogue().unwrap();
    let stream = "logs".parse().unwrap();
    for refused in [
        store.commit(&landing("logs", "late", from, from + 3)),
        store.delete_stream(&stream, &[(key("logs"), Sequence(from + 9))], 1).map(drop),
        store.restore(&crate::Catalogue { files: vec![], ..before.clone() }),
    ] {
        assert!(matches!(&refused, Err(Error::Fenced { lease }) if lease == "leader"), "{refused:?}");
    }
    assert_eq!(store.catalogue().unwrap(), before);
}

fn whoever_lost_the_lease_changes_nothing_in_the_lake(Timed { store, pass }: &Timed) {
    store.commit(&landing("logs", "before", 0, 3)).unwrap();
    store.set_fence(Some(Fence { lease: "leader".to_owned(), token: 0 }));
    is_fenced(&**store, 3);
    let first = taken(&**store, "leader", "one");
    store.set_fence(under(&first));
    store.commit(&landing("logs", "under the first", 3, 6)).unwrap();
    pass(TTL);
    let second = taken(&**store, "leader", "two");
    is_fenced(&**store, 6);
    store.set_fence(under(&second));
    store.commit(&landing("logs", "under the second", 6, 9)).unwrap();
    store.delete_stream(&"logs".parse().unwrap(), &[(key("logs"), Sequence(9))], 1).unwrap();
    assert_eq!(store.catalogue().unwrap().files, []);
    store.release_leases("two", &[named(&second)]).unwrap();
    is_fenced(&**store, 9);
}

fn a_lease_that_expired_is_no_lease_until_it_is_renewed(Timed { store, pass }: &Timed) {
    let lease = taken(&**store, "leader", "one");
    store.set_fence(under(&lease));
    pass(TTL);
    is_fenced(&**store, 0);
    assert_eq!(store.renew_leases("one", &[named(&lease)], TTL).unwrap(), ["leader"]);
    store.commit(&landing("logs", "a", 0, 3)).unwrap();
}

fn a_fence_that_was_cleared_lets_nothing_through(Timed { store, .. }: &Timed) {
    store.set_fence(None);
    store.commit(&landing("logs", "a", 0, 3)).unwrap();
    let lease = taken(&**store, "leader", "one");
    store.set_fence(under(&lease));
    for _ in 0..2 {
        store.set_fence(None);
        is_fenced(&**store, 3);
    }
    store.set_fence(under(&lease));
    store.commit(&landing("logs", "b", 3, 6)).unwrap();
}

fn a_cluster_has_one_name_and_one_authority(Timed { store, .. }: &Timed) {
    for _ in 0..2 {
        store.claim_cluster("east", "aa").unwrap();
    }
    let refused = store.claim_cluster("west", "aa");
    assert!(matches!(&refused, Err(Error::Foreign { found }) if found == "east"), "{refused:?}");
    let refused = store.claim_cluster("east", "bb");
    assert!(matches!(&refused, Err(Error::OtherAuthority { found }) if found == "aa"), "{refused:?}");
    assert!(
        refused.unwrap_err().to_string().starts_with("the cluster's certificate authority is another one")
    );
    let refused = store.convert_claim("east", "west", "aa");
    assert!(matches!(&refused, Err(Error::Foreign { found }) if found == "east"), "{refused:?}");
    store.convert_claim("whoever", "east", "aa").unwrap();
}

fn position(node: &str, kind: SourceKind, name: &str, epoch: u64, at: (u64, i64)) -> LandedPosition {
    let (offset, sealed_us) = at;
    let position = SourcePosition { kind, key: name.to_owned(), offset, detail: format!("{at:?}") };
    let node: NodeId = node.parse().unwrap();
    LandedPosition { node, epoch: Epoch(epoch), sealed_us, updated_us: sealed_us, position }
}

fn a_position_is_only_replaced_by_one_that_is_not_older(Timed { store, .. }: &Timed) {
    // Epochs and offsets beyond what a signed integer holds, and names that are no text to a database or fill a page.
    let (epoch, offset) = (u64::MAX - 5, u64::MAX - 9);
    let long = "k".repeat(10_000);
    let of = |epoch, at| position("n1", SourceKind::File, "a\0ü", epoch, at);
    let others = [
        position("n1", SourceKind::HttpKey, "a\0ü", 1, (1, 70)),
        position("n1", SourceKind::HttpKey, &long, 1, (1, 50)),
        position("n2", SourceKind::File, "a\0ü", 1, (1, 1)),
    ];
    let known = || {
        let all = store.positions().unwrap();
        assert_eq!(all[1..], others);
        all[0].clone()
    };
    store.save_positions(&others).unwrap();
    store.save_positions(&[]).unwrap();
    // Twice in one call: as one after the other.
    store.save_positions(&[of(epoch, (offset, 10)), of(epoch, (offset - 1, 9))]).unwrap();
    assert_eq!(known(), of(epoch, (offset, 10)));
    for older in [of(epoch - 1, (offset + 1, 11)), of(3, (9, 9)), of(epoch, (5, 9)), of(epoch, (0, 0))] {
        store.save_positions(&[older]).unwrap();
        assert_eq!(known(), of(epoch, (offset, 10)));
    }
    // Either alone may fall back: a file is truncated, a clock is set.
    for taken in [
        of(epoch, (offset, 10)),
        of(epoch, (7, 11)),
        of(epoch, (8, 3)),
        of(epoch, (8, 2)),
        of(epoch, (offset + 1, 2)),
        of(epoch + 1, (0, 0)),
    ] {
        store.save_positions(std::slice::from_ref(&taken)).unwrap();
        assert_eq!(known(), taken);
    }
    assert_eq!(store.forget_positions(SourceKind::HttpKey, 70).unwrap(), 1);
    assert_eq!(store.positions().unwrap()[1..], [others[0].clone(), others[2].clone()]);
}
