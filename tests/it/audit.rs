//! What is done with privilege and what is denied is written down, by whom and on what, and nobody changes it unseen: rows A6 and E10.

use aap_client::v1;
use aap_tests::eventually;
use serde_json::Value;

use super::access::{Desk, hub};

/// Records that a search finds, the newest first.
fn found(desk: &Desk, arguments: &[&str]) -> Vec<Value> {
    let all = [&["audit", "search", "-o", "json"], arguments].concat();
    desk.aap_json(&all)["items"].as_array().unwrap().clone()
}

#[test]
fn what_is_done_and_what_is_denied_is_recorded_and_a_changed_byte_is_found() {
    let (hub, daemon) = hub();
    let operator = Desk::of_operator(&hub);
    let ana = operator.desk_of(&hub, "ana", &["viewer"]);
    ana.aap(&["token", "create"]).refused(5, "auth.denied");
    operator.log_in("ana", "not her password").unwrap_err();
    operator.aap(&["token", "create", "--site", "lyon"]).ok();
    let request = v1::ListUsersRequest::default();
    operator.access(async |api| api.list_users(request).await).unwrap();

    let made = found(&operator, &["--action", "user create", "--outcome", "done"]);
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(made[0]["actor"], "operator", "{made:?}");
    assert_eq!(made[0]["object"], "user/ana", "{made:?}");
    assert_eq!(found(&operator, &["--action", "user create", "--outcome", "begun"]).len(), 1);
    let denied = found(&operator, &["--actor", "ana", "--outcome", "denied"]);
    let has = |action: &str| denied.iter().any(|record| record["action"] == action);
    assert!(has("token create") && has("auth login"), "{denied:?}");
    let looked = found(&operator, &["--action", "user ls"]);
    assert!(looked.is_empty(), "who only looks leaves no record: {looked:?}");
    // Refusals of whoever is nobody are counted rather than written down one by one.
    let stranger = Desk::at(&hub, "aaps_not-a-token");
    for _ in 0..50 {
        assert_eq!(stranger.code_of("Operator/Status"), "auth.token_refused");
    }
    let counted = eventually("refusals that are counted", || {
        stranger.code_of("Operator/Status");
        let strangers = found(&operator, &["--outcome", "denied"]);
        strangers
            .iter()
            .find_map(|record| record["details"]["refused beside it"].as_str()?.parse::<u64>().ok())
    });
    assert!(counted >= 25, "{counted}");
    ana.aap(&["audit", "tail"]).refused(5, "auth.denied");
    operator.aap(&["audit", "verify"]).ok();

    let kept = hub.beside("kept");
    operator.aap(&["audit", "export", "--to", kept.to_str().unwrap()]).ok();
    drop(daemon);
    let folder = hub.home().join("coordinator/audit");
    let segment = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment.filter(|path| path.extension().is_some_and(|kind| kind == "ndjson")).min().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(3).position(|window| window == b"ana").unwrap();
    bytes[at] = b'b';
    std::fs::write(&segment, bytes).unwrap();
    let key = std::fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().path());
    let key = key.filter(|path| path.to_str().unwrap().contains("key")).min().unwrap();
    let verified =
        hub.aap(&["audit", "verify", "--dir", folder.to_str().unwrap(), "--key", key.to_str().unwrap()]);
    assert_eq!(verified.code, 11, "{}{}", verified.out, verified.err);

    // Damage does not keep the platform from starting.
    let _again = hub.start("coordinator");
    hub.await_coordinator();
}
