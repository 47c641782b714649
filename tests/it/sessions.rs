//! Sessions of people in a real Redis: listed and ended as elsewhere, at every coordinator, and never good while it is away.

use std::process::Command;
use std::time::{Duration, Instant};

use aap_client::v1;
use aap_tests::{Daemon, Platform, Service, Settings, copy, eventually, free_port};

use super::access::{Desk, hub_with};
use super::sinks::kafka::Kafka;
use super::sinks::postgres::Postgres;
use super::sinks::s3::Store;
use super::sinks::settles;

/// Good enough for the platform; that of everybody whom [`Desk::desk_of`] makes.
const PASSWORD: &str = "winter tram mushroom";
/// Within which what one coordinator ends is over at the others.
const ENDED_EVERYWHERE: Duration = Duration::from_secs(5);

struct Redis(Service);

impl Redis {
    fn find(test: &str) -> Option<Self> {
        Service::find("redis", "redis", "AAP_TEST_REDIS", test).map(Self)
    }

    fn node(&self) -> &str {
        let address = self.0.address.rsplit_once('@').map_or(self.0.address.as_str(), |(_, node)| node);
        address.trim_end_matches("/0")
    }

    /// The section of a configuration.
    fn section(&self) -> String {
        format!("sessions: {{ redis: {{ url: 'redis://{}', password: env:AAP_TEST_SECRET }} }}", self.node())
    }

    fn cli(&self, command: &[&str]) -> String {
        let (host, port) = self.node().rsplit_once(':').unwrap();
        let mut client = Command::new("redis-cli");
        let output = client.args(["-h", host, "-p", port]).args(command).env("REDISCLI_AUTH", "aap").output();
        String::from_utf8(output.unwrap().stdout).unwrap().trim().to_owned()
    }

    /// The key of a session.
    fn key_of(&self, id: &str) -> String {
        self.cli(&["--scan", "--pattern", &format!("aap:{{*}}:session:{id}")])
    }
}

fn sessions_of(desk: &Desk, user: &str) -> Result<Vec<v1::Session>, String> {
    let request = v1::ListSessionsRequest { user: user.to_owned() };
    Ok(desk.access(async |api| api.list_sessions(request).await)?.sessions)
}

fn end(desk: &Desk, id: &str, user: &str) -> Result<u64, String> {
    let request = v1::EndSessionsRequest { id: id.to_owned(), user: user.to_owned() };
    Ok(desk.access(async |api| api.end_sessions(request).await)?.ended)
}

fn change(desk: &Desk, request: v1::ChangeUserRequest) -> Result<(), String> {
    desk.access(async |api| api.change_user(request).await).map(drop)
}

fn who_am_i(desk: &Desk) -> String {
    desk.code_of("Access/WhoAmI")
}

#[test]
fn sessions_are_listed_and_ended_in_a_redis_which_holds_no_secret_of_theirs() {
    let Some(redis) = Redis::find("sessions_are_listed_and_ended_in_a_redis") else { return };
    let _quiet = Service::quiet();
    let (hub, _daemon) = hub_with(&redis.section());
    let operator = Desk::of_operator(&hub);
    let ana = operator.desk_of(&hub, "ana", &["viewer"]);
    let second = operator.log_in("ana", PASSWORD).unwrap().token;
    let at_second = Desk::at(&hub, &second);
    let ben = operator.desk_of(&hub, "ben", &["viewer"]);
    assert_eq!((who_am_i(&ana), who_am_i(&at_second)), (String::new(), String::new()));
    let own = sessions_of(&ana, "").unwrap();
    assert_eq!((own.len(), own.iter().filter(|session| session.current).count()), (2, 1));
    assert_eq!(sessions_of(&operator, "*").unwrap().len(), 3);
    let refused = sessions_of(&ben, "ana").unwrap_err();
    assert!(["auth.denied", "user.unknown"].contains(&refused.as_str()), "{refused}");

    let other = own.iter().find(|session| !session.current).unwrap();
    let kept = redis.cli(&["GET", &redis.key_of(&other.id)]);
    assert!(kept.contains("hash") && kept.contains(&other.id), "{kept}");
    let (_, secret) = second.rsplit_once('_').unwrap();
    assert!(!kept.contains(secret), "{kept}");
    let lives: i64 = redis.cli(&["TTL", &redis.key_of(&other.id)]).parse().unwrap();
    assert!((3_600..=4_200).contains(&lives), "an hour without use, and ten minutes: {lives}");

    assert_eq!(end(&ana, &other.id, "").unwrap(), 1);
    assert_eq!(who_am_i(&at_second), "auth.session_over");
    assert_eq!(redis.key_of(&other.id), "");
    assert_eq!((who_am_i(&ana).as_str(), sessions_of(&operator, "ana").unwrap().len()), ("", 1));
    // A new password ends what is left, and nobody else's.
    let request = v1::ChangeUserRequest {
        name: "ana".to_owned(),
        reset_password: true,
        password: "lamp quarry eleven".to_owned(),
        ..Default::default()
    };
    change(&operator, request).unwrap();
    assert_eq!((who_am_i(&ana).as_str(), who_am_i(&ben).as_str()), ("auth.session_over", ""));
    assert_eq!(sessions_of(&operator, "*").unwrap().len(), 1);
    assert_eq!(hub.coordinator_metric("aap_access_sessions_reachable"), Some(1.0));
}

#[test]
fn while_redis_is_away_no_session_is_good_and_who_needs_none_goes_on() {
    let Some(redis) = Redis::find("while_redis_is_away_no_session_is_good") else { return };
    let _quiet = Service::quiet();
    let (hub, _daemon) = hub_with(&redis.section());
    let operator = Desk::of_operator(&hub);
    let (ana, ben) = (operator.desk_of(&hub, "ana", &["viewer"]), operator.desk_of(&hub, "ben", &["viewer"]));
    let request = v1::CreateApiTokenRequest::default();
    let token = ana.access(async |api| api.create_api_token(request).await).unwrap().text;
    let program = Desk::at(&hub, &token);
    let lock = |disabled| {
        let disabled = Some(disabled);
        change(&operator, v1::ChangeUserRequest { name: "ben".to_owned(), disabled, ..Default::default() })
    };

    redis.0.kill_process("redis");
    for desk in [&ana, &ben] {
        eventually("a session that cannot be checked", || {
            (who_am_i(desk) == "auth.sessions_unavailable").then_some(())
        });
    }
    let told = ana.aap(&["auth", "whoami"]).refused(7, "auth.sessions_unavailable");
    assert!(
        !told.to_string().contains(redis.node()),
        "who shows a session is not told where it lies: {told}"
    );
    assert_eq!(operator.log_in("ana", PASSWORD).unwrap_err(), "auth.sessions_unavailable");
    assert_eq!(sessions_of(&operator, "*").unwrap_err(), "auth.sessions_unavailable");
    assert_eq!((who_am_i(&operator), who_am_i(&program)), (String::new(), String::new()));
    // What needs sessions to end changes nothing; a lock counts without.
    let reset = v1::ChangeUserRequest {
        name: "ana".to_owned(),
        reset_password: true,
        password: "lamp quarry eleven".to_owned(),
        ..Default::default()
    };
    assert_eq!(change(&operator, reset).unwrap_err(), "auth.sessions_unavailable");
    lock(true).unwrap();
    assert_eq!(hub.coordinator_metric("aap_access_sessions_reachable"), Some(0.0));
    let status = hub.aap(&["status", "-o", "json"]).out;
    assert!(status.contains("sessions cannot be checked"), "{status}");
    assert_eq!(hub.log("coordinator").matches("records of access cannot be had from Redis").count(), 1);

    redis.0.revive();
    eventually("a session that is good again", || who_am_i(&ana).is_empty().then_some(()));
    operator.log_in("ana", PASSWORD).unwrap();
    assert_eq!(who_am_i(&ben), "auth.session_over");
    lock(false).unwrap();
    assert_eq!(who_am_i(&ben), "auth.session_over", "what was not ended then is ended now");
    eventually("a figure that says so", || {
        (hub.coordinator_metric("aap_access_sessions_reachable") == Some(1.0)).then_some(())
    });

    // It lost what it had: whoever was logged in logs in again.
    for session in sessions_of(&operator, "*").unwrap() {
        redis.cli(&["DEL", &redis.key_of(&session.id)]);
    }
    eventually("a session that is lost", || (who_am_i(&ana) == "auth.session_over").then_some(()));
    assert!(sessions_of(&operator, "*").unwrap().is_empty());
    let again = Desk::at(&hub, &operator.log_in("ana", PASSWORD).unwrap().token);
    assert_eq!(who_am_i(&again), "");
}

/// Two coordinators of one cluster.
fn members(test: &str, redis: &Redis) -> Option<Vec<(Platform, Daemon)>> {
    let (kafka, postgres) = (Kafka::find(test)?, Postgres::find(test, "it_sessions")?);
    let store = Store::find(test);
    let mut members: Vec<(Platform, Daemon)> = vec![];
    for name in ["c1", "c2"] {
        let platform = Platform::new();
        if let Some((first, _)) = members.first() {
            std::fs::create_dir_all(platform.home()).unwrap();
            copy(&first.home().join("tls"), &platform.home().join("tls"));
        }
        let coordinator = format!(
            "metadata: {{ postgres: {} }}, {}, \
             cluster: {{ name: it-sessions, coordinator: {name}, landing: {}, lake: {{ {} }} }}",
            postgres.metadata(),
            redis.section(),
            kafka.landing(),
            store.spec()
        );
        let settings = Settings { agents_port: Some(free_port()), coordinator, ..Settings::default() };
        platform.prepare("n1", &settings);
        let daemon = platform.start("coordinator");
        platform.await_coordinator();
        settles("it has its place in the cluster", || platform.aap(&["cluster", "status"]).code == 0);
        members.push((platform, daemon));
    }
    Some(members)
}

#[test]
fn a_session_is_good_at_every_coordinator_and_over_at_all_of_them_within_five_seconds() {
    let test = "a_session_is_good_at_every_coordinator";
    let Some(redis) = Redis::find(test) else { return };
    let _quiet = Service::quiet();
    let Some(members) = members(test, &redis) else { return };
    let [(one, _first), (other, _second)] = &members[..] else { unreachable!() };
    let (operator, elsewhere) = (Desk::of_operator(one), Desk::of_operator(other));
    let at_one = operator.desk_of(one, "ana", &["viewer"]);
    let token = operator.log_in("ana", PASSWORD).unwrap().token;
    let at_other = Desk::at(other, &token);
    assert_eq!((who_am_i(&at_one), who_am_i(&at_other)), (String::new(), String::new()));
    let own = sessions_of(&at_other, "").unwrap();
    assert_eq!((own.len(), sessions_of(&elsewhere, "*").unwrap().len()), (2, 2));
    let current = own.iter().find(|session| session.current).unwrap();

    assert_eq!(end(&operator, &current.id, "ana").unwrap(), 1);
    let began = Instant::now();
    eventually("a session that is over elsewhere", || {
        (who_am_i(&at_other) == "auth.session_over").then_some(())
    });
    assert!(began.elapsed() < ENDED_EVERYWHERE, "{:?}", began.elapsed());
    assert_eq!(sessions_of(&elsewhere, "*").unwrap().len(), 1);
    assert_eq!(who_am_i(&at_one), "");
}
