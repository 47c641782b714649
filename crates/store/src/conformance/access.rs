//! What every store promises of users, sessions, tokens and nodes, also to two coordinators that share it.

use std::sync::Barrier;

use aap_access::{
    ApiToken, Certificate, Credential, EnrolmentToken, EnrolmentUse, Fingerprint, HashKey, IssuedKind,
    IssuedSecret, NodeIdentity, NodeState, Origin, Renewal, SecretHash, Session, Taken, User,
};

use crate::{AccessKind, AccessRow, AccessStore, Error, LoginFailures, PAGE_ROWS_MAX, RowsAfter};

/// A new, empty store, as two coordinators have it.
#[derive(Debug)]
pub struct Shared {
    /// As one has it.
    pub one: Box<dyn AccessStore>,
    /// As the other has it.
    pub other: Box<dyn AccessStore>,
}

/// Runs the suite.
pub fn run_access(make: &mut dyn FnMut() -> Shared) {
    for promise in PROMISES {
        promise(&make());
    }
}

const PROMISES: [fn(&Shared); 11] = [
    a_row_takes_the_place_of_the_text_that_was_read_and_of_no_other,
    rows_are_listed_by_the_bytes_of_their_keys_in_pages,
    what_is_over_is_forgotten_and_nothing_else,
    a_change_that_changes_nothing_writes_nothing_and_one_of_nothing_says_so,
    a_user_changes_only_from_the_revision_that_was_seen,
    a_user_is_deleted_with_sessions_tokens_and_failures,
    a_user_from_elsewhere_is_found_by_what_the_provider_calls_them,
    an_enrolment_token_says_why_it_is_not_taken,
    of_many_who_take_a_token_at_once_as_many_get_it_as_it_is_for,
    of_many_who_renew_one_generation_one_does_and_the_node_is_locked,
    of_many_guesses_at_once_five_are_free,
];

/// Where the stamps of what expires begin, in microseconds of Unix time: the year 2100, because a server may let go by itself what is over.
const BASE_US: i64 = 4_102_444_800_000_000;

/// Threads that race, half of them at each coordinator.
const RACERS: usize = 8;
/// How often.
const ROUNDS: usize = 10;

/// What each racer got, all begun at once.
fn race<T: Send>(shared: &Shared, run: impl Fn(&dyn AccessStore, usize) -> T + Sync) -> Vec<T> {
    let (all, run) = (&Barrier::new(RACERS), &run);
    std::thread::scope(|scope| {
        let racers = (0..RACERS).map(|racer| {
            let store = if racer % 2 == 0 { &*shared.one } else { &*shared.other };
            scope.spawn(move || {
                all.wait();
                run(store, racer)
            })
        });
        let racers: Vec<_> = racers.collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    })
}

fn all() -> RowsAfter<'static> {
    RowsAfter { owner: None, after: "", limit: 100 }
}

fn row(key: &str, owner: &str, record: &str) -> AccessRow {
    AccessRow { key: key.to_owned(), owner: owner.to_owned(), expires_us: None, record: record.to_owned() }
}

fn a_row_takes_the_place_of_the_text_that_was_read_and_of_no_other(Shared { one, other }: &Shared) {
    let kind = AccessKind::Session;
    // Letters that a comparison without regard to case, or with one to language, would take for each other.
    let (first, second) = (row("Aa", "Uü'", "{\"n\":\"\\u0000ä\"}"), row("Aa", "v", "{}"));
    assert!(!one.swap_access_row(kind, Some("{}"), &first).unwrap(), "there is none");
    assert!(one.swap_access_row(kind, None, &first).unwrap());
    assert!(!other.swap_access_row(kind, None, &second).unwrap(), "there is one");
    assert!(!other.swap_access_row(kind, Some("{\"n\":\"\\u0000Ä\"}"), &second).unwrap(), "another text");
    assert_eq!(other.access_row(kind, "Aa").unwrap(), Some(first.clone()));
    assert_eq!(other.access_row(kind, "aa").unwrap(), None);
    assert_eq!(other.access_row(AccessKind::ApiToken, "Aa").unwrap(), None);

    let second = AccessRow { expires_us: Some(i64::MAX), ..second };
    assert!(other.swap_access_row(kind, Some(&first.record), &second).unwrap());
    assert!(!one.swap_access_row(kind, Some(&first.record), &first).unwrap(), "it is gone");
    assert_eq!(one.access_row(kind, "Aa").unwrap(), Some(second.clone()));

    assert!(!one.delete_access_row(AccessKind::ApiToken, "Aa").unwrap());
    assert!(one.delete_access_row(kind, "Aa").unwrap());
    assert!(!other.delete_access_row(kind, "Aa").unwrap());
    assert!(!one.swap_access_row(kind, Some(&second.record), &second).unwrap());
    assert!(one.swap_access_row(kind, None, &second).unwrap());
}

fn rows_are_listed_by_the_bytes_of_their_keys_in_pages(Shared { one, other }: &Shared) {
    let kind = AccessKind::Node;
    let sorted = ["-", "B", "_", "a", "a.b", "b", "ä"];
    for (at, key) in sorted.iter().enumerate().rev() {
        assert!(one.swap_access_row(kind, None, &row(key, ["x", "y"][at % 2], "{}")).unwrap());
    }
    assert!(one.swap_access_row(AccessKind::User, None, &row("a", "x", "{}")).unwrap());
    let keys = |which| {
        let rows = other.access_rows(kind, which).unwrap();
        rows.into_iter().map(|row| row.key).collect::<Vec<_>>()
    };
    assert_eq!(keys(all()), sorted);
    assert_eq!(keys(RowsAfter { limit: 3, ..all() }), sorted[..3]);
    assert_eq!(keys(RowsAfter { after: sorted[2], limit: 2, owner: None }), sorted[3..5]);
    assert_eq!(keys(RowsAfter { after: "ä", ..all() }), [""; 0]);
    assert_eq!(keys(RowsAfter { owner: Some("y"), after: "B", limit: 9 }), ["a", "b"]);
    assert_eq!(keys(RowsAfter { owner: Some("X"), ..all() }), [""; 0]);
    assert_eq!(one.delete_access_rows(kind, "y").unwrap(), 3);
    assert_eq!(keys(all()), ["-", "_", "a.b", "ä"]);
    assert_eq!(other.access_rows(AccessKind::User, all()).unwrap().len(), 1);
    assert_eq!(RowsAfter { limit: usize::MAX, ..all() }.limit(), PAGE_ROWS_MAX);
}

fn what_is_over_is_forgotten_and_nothing_else(Shared { one, other }: &Shared) {
    for (key, kind, expires_us) in [
        ("a", AccessKind::Session, Some(BASE_US - 5)),
        ("b", AccessKind::Login, Some(BASE_US + 10)),
        ("c", AccessKind::Session, Some(BASE_US + 11)),
        ("d", AccessKind::User, None),
    ] {
        let row = AccessRow { expires_us, ..row(key, "", "{}") };
        assert!(one.swap_access_row(kind, None, &row).unwrap());
    }
    assert_eq!(other.forget_access_rows(BASE_US + 10).unwrap(), 2);
    assert_eq!(other.forget_access_rows(BASE_US + 10).unwrap(), 0);
    assert!(one.access_row(AccessKind::Session, "c").unwrap().is_some());
    assert!(one.access_row(AccessKind::User, "d").unwrap().is_some());
}

/// A user of the name, who comes from elsewhere under it.
fn user(name: &str, revision: u64) -> User {
    User {
        name: name.parse().unwrap(),
        uid: format!("uid-of-{name}"),
        display: "Ana \"Ä\" O'Hara".to_owned(),
        origin: Origin::Oidc { issuer: "https://id.example".to_owned(), subject: name.to_owned() },
        password: None,
        must_change_password: false,
        disabled: false,
        roles: vec!["viewer".to_owned()],
        revision,
        created_us: 1,
        updated_us: i64::MAX,
    }
}

fn hashed(kind: IssuedKind) -> (IssuedSecret, SecretHash) {
    let secret = IssuedSecret::mint(kind).unwrap();
    let hash = HashKey::derive(&[7; 32]).hash(&secret);
    (secret, hash)
}

fn session(user: &User) -> Session {
    let (secret, hash) = hashed(IssuedKind::Session);
    Session {
        id: secret.id().clone(),
        hash,
        user: user.name.clone(),
        user_uid: user.uid.clone(),
        from: "::1".to_owned(),
        created_us: BASE_US,
        expires_us: BASE_US + 100,
        idle_us: 10,
        used_us: BASE_US,
    }
}

fn api_token(user: &User) -> ApiToken {
    let (secret, hash) = hashed(IssuedKind::ApiToken);
    ApiToken {
        id: secret.id().clone(),
        hash,
        user: user.name.clone(),
        user_uid: user.uid.clone(),
        label: "ci".to_owned(),
        scope: None,
        created_us: BASE_US,
        expires_us: BASE_US + 100,
        used_us: 0,
    }
}

fn a_change_that_changes_nothing_writes_nothing_and_one_of_nothing_says_so(Shared { one, other }: &Shared) {
    let session = session(&user("ana", 1));
    assert!(one.add(&session).unwrap());
    assert!(!other.add(&session).unwrap());
    let key = session.id.as_str();
    let (same, wrote) =
        other.change(key, |session: &mut Session| session.note_use(BASE_US + 1)).unwrap().unwrap();
    assert_eq!((&same, wrote), (&session, false));
    // What is changed is what stands there when it is written.
    let mut calls = 0;
    let later = BASE_US + 120_000_000;
    let (changed, times) = one
        .change(key, |session: &mut Session| {
            calls += 1;
            if calls == 1 {
                other.change(key, |session: &mut Session| session.note_use(later)).unwrap();
            }
            session.used_us += 1;
            calls
        })
        .unwrap()
        .unwrap();
    assert_eq!((changed.used_us, times), (later + 1, 2));
    assert_eq!(other.find::<Session>(key).unwrap(), Some(changed));
    assert!(one.change("nobody", |_: &mut Session| ()).unwrap().is_none());

    let broken = row("broken", "", "{\"hash\":\"s3cret\"}");
    assert!(one.swap_access_row(AccessKind::Session, None, &broken).unwrap());
    let error = one.find::<Session>("broken").unwrap_err().to_string();
    assert!(error.contains("session broken") && !error.contains("s3cret"), "{error}");
}

fn a_user_changes_only_from_the_revision_that_was_seen(shared: &Shared) {
    let Shared { one, other } = shared;
    one.put_user(&user("ana", 1)).unwrap();
    for stale in [1, 3] {
        let refused = other.put_user(&user("ana", stale)).unwrap_err();
        assert!(matches!(refused, Error::Revision { found: 1, .. }), "{refused:?}");
    }
    let second = User { disabled: true, ..user("ana", 2) };
    other.put_user(&second).unwrap();
    assert_eq!(one.find::<User>("ana").unwrap(), Some(second));
    // Deleted and made again: whoever saw the former changes nothing of the new one.
    one.delete_user(&"ana".parse().unwrap()).unwrap();
    one.put_user(&User { uid: "new".to_owned(), ..user("ana", 1) }).unwrap();
    let refused = other.put_user(&user("ana", 2)).unwrap_err();
    assert!(matches!(refused, Error::Revision { found: 0, .. }), "{refused:?}");

    for revision in 2..2 + ROUNDS as u64 {
        let done = race(shared, |store, racer| {
            let display = format!("racer {racer}");
            store.put_user(&User { uid: "new".to_owned(), display, ..user("ana", revision) }).is_ok()
        });
        assert_eq!(done.iter().filter(|done| **done).count(), 1, "revision {revision}");
    }
}

fn a_user_is_deleted_with_sessions_tokens_and_failures(Shared { one, other }: &Shared) {
    let (ana, bea) = (user("ana", 1), user("bea", 1));
    for user in [&ana, &bea] {
        one.put_user(user).unwrap();
        for _ in 0..2 {
            assert!(one.add(&session(user)).unwrap() && one.add(&api_token(user)).unwrap());
        }
        one.attempt_login(&user.uid, BASE_US).unwrap().unwrap();
    }
    assert!(other.delete_user(&ana.name).unwrap());
    assert!(!other.delete_user(&ana.name).unwrap());
    assert_eq!(one.list::<User>(all()).unwrap(), std::slice::from_ref(&bea));
    let of = |uid| RowsAfter { owner: Some(uid), ..all() };
    for (uid, left) in [(ana.uid.as_str(), 0), (bea.uid.as_str(), 2)] {
        assert_eq!(one.list::<Session>(of(uid)).unwrap().len(), left, "{uid}");
        assert_eq!(one.list::<ApiToken>(of(uid)).unwrap().len(), left, "{uid}");
        assert_eq!(one.find::<LoginFailures>(uid).unwrap().is_some(), left > 0, "{uid}");
    }
    assert_eq!(other.remove_all_of::<Session>(&bea.uid).unwrap(), 2);
}

fn a_user_from_elsewhere_is_found_by_what_the_provider_calls_them(Shared { one, other }: &Shared) {
    let ana = user("ana", 1);
    one.put_user(&ana).unwrap();
    one.put_user(&User { origin: Origin::Local, ..user("bea", 1) }).unwrap();
    assert_eq!(other.user_of(&ana.origin).unwrap(), Some(ana));
    assert_eq!(other.user_of(&Origin::Local).unwrap(), None);
    // The same letters, divided in another place.
    let origin = Origin::Oidc { issuer: "https://id.examplea".to_owned(), subject: "na".to_owned() };
    assert_eq!(other.user_of(&origin).unwrap(), None);
}

fn enrolment(uses_max: u32) -> EnrolmentToken {
    let (secret, hash) = hashed(IssuedKind::Enrolment);
    EnrolmentToken {
        id: secret.id().clone(),
        hash,
        site: "berlin".parse().unwrap(),
        node: None,
        labels: [("rack".to_owned(), "7".to_owned())].into(),
        requires_approval: true,
        uses_max,
        uses: vec![],
        expires_us: BASE_US + 100,
        revoked_us: None,
        author: "ana".to_owned(),
        created_us: 1,
    }
}

fn taking(node: usize, at_us: i64) -> EnrolmentUse {
    let key = Fingerprint([u8::try_from(node).unwrap(); 32]);
    let at_us = BASE_US + at_us;
    EnrolmentUse { node: format!("n{node}").parse().unwrap(), key, from: format!("10.0.0.{node}:7"), at_us }
}

fn an_enrolment_token_says_why_it_is_not_taken(Shared { one, other }: &Shared) {
    let token = enrolment(1);
    assert!(one.add(&token).unwrap());
    let take = |id: &aap_access::IssuedId, hash: &aap_access::SecretHash, by: &EnrolmentUse| {
        other.take_enrolment_token(id, hash, by).unwrap()
    };
    let (_, wrong) = hashed(IssuedKind::Enrolment);
    assert_eq!(take(&token.id, &wrong, &taking(1, 5)), (Taken::Unknown, None));
    assert_eq!(take(&enrolment(1).id, &token.hash, &taking(1, 5)), (Taken::Unknown, None));
    assert_eq!(one.find(token.id.as_str()).unwrap(), Some(token.clone()), "none of that used it");

    let used = EnrolmentToken { uses: vec![taking(1, 5)], ..token.clone() };
    for (node, at_us, expected) in [
        (1, 5, Taken::Granted),
        (1, 9, Taken::Again),
        (2, 9, Taken::UsedUp),
        (2, 100, Taken::UsedUp),
        (1, 100, Taken::UsedUp),
    ] {
        let found = take(&token.id, &token.hash, &taking(node, at_us));
        assert_eq!(found, (expected, Some(used.clone())), "node {node} at {at_us}");
    }
    for (token, expected) in [
        (EnrolmentToken { node: Some("n9".parse().unwrap()), ..enrolment(2) }, Taken::OtherNode),
        (EnrolmentToken { revoked_us: Some(3), ..enrolment(2) }, Taken::Revoked),
        (EnrolmentToken { expires_us: BASE_US + 5, ..enrolment(2) }, Taken::Expired),
    ] {
        assert!(one.add(&token).unwrap());
        assert_eq!(take(&token.id, &token.hash, &taking(1, 5)), (expected, Some(token.clone())));
    }
    assert_eq!(one.list::<EnrolmentToken>(all()).unwrap().len(), 4);
    // It is over long before its record goes.
    one.forget_access_rows(BASE_US + 1_000).unwrap();
    assert_eq!(take(&token.id, &token.hash, &taking(2, 1_000)).0, Taken::UsedUp);
}

fn of_many_who_take_a_token_at_once_as_many_get_it_as_it_is_for(shared: &Shared) {
    for round in 0..ROUNDS {
        let uses_max = if round % 2 == 0 { 1 } else { 3 };
        let token = enrolment(uses_max);
        assert!(shared.one.add(&token).unwrap());
        let found = race(shared, |store, racer| {
            store.take_enrolment_token(&token.id, &token.hash, &taking(racer, 5)).unwrap().0
        });
        let got = |taken| found.iter().filter(|found| **found == taken).count();
        let uses = usize::try_from(uses_max).unwrap();
        assert_eq!((got(Taken::Granted), got(Taken::UsedUp)), (uses, RACERS - uses), "{found:?}");
        let kept: EnrolmentToken = shared.other.find(token.id.as_str()).unwrap().unwrap();
        let winners = (0..RACERS).filter(|racer| found[*racer] == Taken::Granted);
        let mut winners: Vec<_> = winners.map(|racer| taking(racer, 5)).collect();
        let mut uses = kept.uses;
        uses.sort_by(|a, b| a.from.cmp(&b.from));
        winners.sort_by(|a, b| a.from.cmp(&b.from));
        assert_eq!(uses, winners);
    }
}

fn of_many_who_renew_one_generation_one_does_and_the_node_is_locked(shared: &Shared) {
    let certificate = |serial: &str| Certificate { serial: serial.to_owned(), expires_us: 100, root: None };
    for round in 0..ROUNDS {
        let node = NodeIdentity {
            node: format!("n{round}").parse().unwrap(),
            site: "berlin".parse().unwrap(),
            labels: [].into(),
            state: NodeState::Approved,
            reason: String::new(),
            key: Fingerprint([1; 32]),
            generation: 7,
            shown: 7,
            renewal: "earlier".to_owned(),
            certificate: Some(certificate("7")),
            trusts: None,
            draining: false,
            recoveries: 0,
            created_us: 1,
            updated_us: 1,
        };
        assert!(shared.one.add(&node).unwrap());
        let found = race(shared, |store, racer| {
            let (serial, key) = (racer.to_string(), node.node.as_str());
            let renew =
                |node: &mut NodeIdentity| node.renew(7, &format!("by {racer}"), &certificate(&serial), 2);
            store.change(key, renew).unwrap().unwrap().1
        });
        let winners: Vec<_> = (0..RACERS).filter(|racer| found[*racer] == Renewal::Granted(8)).collect();
        let [winner] = winners[..] else { panic!("{found:?}") };
        // Whoever was second locked it, so that the others were refused.
        let got = |renewal| found.iter().filter(|found| **found == renewal).count();
        assert_eq!(got(Renewal::Cloned), 1, "{found:?}");
        assert_eq!(got(Renewal::Refused(NodeState::Locked)), RACERS - 2, "{found:?}");
        let kept: NodeIdentity = shared.other.find(node.node.as_str()).unwrap().unwrap();
        assert_eq!((kept.generation, kept.state), (8, NodeState::Locked));
        assert_eq!(kept.certificate, Some(certificate(&winner.to_string())));
    }
    let of_site = RowsAfter { owner: Some("berlin"), ..all() };
    assert_eq!(shared.one.list::<NodeIdentity>(of_site).unwrap().len(), ROUNDS);
}

fn of_many_guesses_at_once_five_are_free(shared: &Shared) {
    let guesses = race(shared, |store, _| store.attempt_login("uid", BASE_US).unwrap().is_ok());
    assert_eq!(guesses.iter().filter(|free| **free).count(), 5, "{guesses:?}");
    assert!(shared.one.attempt_login("another", BASE_US).unwrap().is_ok());
    // The password was right.
    assert!(shared.other.remove::<LoginFailures>("uid").unwrap());
    assert!(shared.one.attempt_login("uid", BASE_US).unwrap().is_ok());
}
