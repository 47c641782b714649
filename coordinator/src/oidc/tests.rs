use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aap_runtime::ManualClock;
use camino::Utf8Path;

use super::*;

const SPEC: &str = "{issuer: 'http://127.0.0.1:1/realms/aap', client_id: aap-cli, roles: {admins: [admin, operator], people: [viewer]}}";

fn logins(clock: &Arc<ManualClock>) -> ExternalLogins {
    let config: OidcConfig = serde_norway::from_str(SPEC).unwrap();
    config.check().unwrap();
    ExternalLogins::new(&config, Utf8Path::new("/"), clock.clone()).unwrap()
}

fn address(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

fn begun(clock: &ManualClock, from: IpAddr) -> Begun {
    let way = Way::Browser("http://127.0.0.1:5/".to_owned());
    Begun { at: clock.monotonic(), from, nonce: String::new(), way }
}

#[test]
fn a_log_in_that_has_begun_ends_once_and_in_ten_minutes() {
    let clock = Arc::new(ManualClock::at(0));
    let logins = logins(&clock);
    logins.remember("a".into(), begun(&clock, address(1)));
    logins.remember("b".into(), begun(&clock, address(1)));
    assert!(logins.take("a").is_some() && logins.take("a").is_none());
    clock.advance(BEGUN_FOR);
    assert!(logins.take("b").is_none());
}

#[test]
fn an_address_that_begins_many_log_ins_makes_only_its_own_be_forgotten() {
    let clock = Arc::new(ManualClock::at(0));
    let logins = logins(&clock);
    logins.remember("of another".into(), begun(&clock, address(2)));
    for number in 0..=BEGUN_OF_ADDRESS_MAX {
        clock.advance(Duration::from_millis(1));
        logins.remember(format!("{number}"), begun(&clock, address(1)));
    }
    assert_eq!(logins.begun().len(), 1 + BEGUN_OF_ADDRESS_MAX);
    assert!(logins.take("0").is_none() && logins.take("1").is_some() && logins.take("of another").is_some());
    for number in 0..=BEGUN_MAX {
        clock.advance(Duration::from_millis(1));
        let from = IpAddr::from(u32::try_from(number).unwrap().to_be_bytes());
        logins.remember(format!("far {number}"), begun(&clock, from));
    }
    assert_eq!(logins.begun().len(), BEGUN_MAX);
    assert!(logins.take("2").is_none() && logins.take(&format!("far {BEGUN_MAX}")).is_some());
}

#[test]
fn a_browser_comes_back_to_its_own_machine() {
    let check = |redirect: &str, challenge: &str, state: &str| {
        let browser = Browser { redirect: redirect.into(), challenge: challenge.into(), state: state.into() };
        check_browser(&browser).map_err(|problem| problem.code)
    };
    let (challenge, state) = ("c".repeat(43), "s".repeat(43));
    check("http://127.0.0.1:4711/callback", &challenge, &state).unwrap();
    for bad in [
        "",
        "https://127.0.0.1:1/",
        "http://127.0.0.1/",
        "http://127.0.0.2:1/",
        "http://thief.example:1/",
        "http://127.0.0.1.thief.example:1/",
    ] {
        assert_eq!(check(bad, &challenge, &state).unwrap_err(), "auth.bad_login", "{bad}");
    }
    for (challenge, state) in
        [("c", state.as_str()), (challenge.as_str(), "short"), (&"&".repeat(43), &state)]
    {
        assert!(check("http://127.0.0.1:1/", challenge, state).is_err());
    }
}

#[tokio::test]
async fn what_cannot_be_is_refused_each_for_its_own_reason() {
    let clock = Arc::new(ManualClock::at(0));
    let logins = logins(&clock);
    let code = |problem: Problem| (problem.code, problem.exit);
    assert_eq!(
        code(logins.start(None, address(1)).await.unwrap_err()),
        ("auth.device_off".to_owned(), ExitCode::Denied)
    );
    let browser =
        Browser { redirect: "http://127.0.0.1:5/".into(), challenge: "c".repeat(43), state: "s".repeat(43) };
    // Nobody listens on port 1.
    assert_eq!(
        code(logins.start(Some(browser), address(1)).await.unwrap_err()),
        ("auth.provider".to_owned(), ExitCode::Unavailable)
    );
    assert_eq!(
        code(logins.finish("made up", "c", "v").await.unwrap_err()),
        ("auth.login_over".to_owned(), ExitCode::LoginNeeded)
    );
}
