//! The provider against a server of the test: what is kept, what is asked anew, what is believed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aap_runtime::ManualClock;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::claims;
use super::issuer::{CLIENT, Issuer, NONCE, NOW_S};
use crate::{CodeRequest, Error, Fault, Provider, Settings};

/// What the server answers, and how often it was asked.
#[derive(Default)]
struct Says {
    discovery: Value,
    jwks: Value,
    discovery_asked: usize,
    jwks_asked: usize,
    /// Whoever asks for keys then waits for as long as there is nothing in it.
    held: Option<Arc<Semaphore>>,
    is_away: bool,
    /// What the token endpoint answers, the last first.
    tokens: Vec<(u16, Value)>,
    /// The forms that it was sent.
    forms: Vec<String>,
}

type Shared = Arc<Mutex<Says>>;

fn document(says: &Says, value: &Value) -> Response {
    match says.is_away {
        true => StatusCode::BAD_GATEWAY.into_response(),
        false => value.to_string().into_response(),
    }
}

/// A server, a provider that asks it, and a clock that stands still.
struct Rig {
    says: Shared,
    provider: Provider,
    clock: Arc<ManualClock>,
    issuer: String,
}

impl Rig {
    fn token(&self, by: &Issuer, key: &str, change: Value) -> (u16, Value) {
        let mut body = claims(json!({"iss": self.issuer}));
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let token = by.token(&json!({"alg": "ES256", "kid": key}), &body);
        (200, json!({"id_token": token, "access_token": "thrown away"}))
    }

    fn answers(&self, tokens: impl IntoIterator<Item = (u16, Value)>) {
        self.says.lock().unwrap().tokens = tokens.into_iter().collect();
    }

    async fn redeem(&self) -> Result<String, Error> {
        let redeemed =
            self.provider.redeem(("the code", "the verifier"), "http://127.0.0.1:1/callback", NONCE);
        redeemed.await.map(|claims| claims.subject().to_owned())
    }
}

/// Runs a test against a server that lists the key `ec` of an issuer.
async fn with_server(by: &Issuer, test: impl AsyncFnOnce(&Rig)) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}/realms/aap", listener.local_addr().unwrap());
    let at = |path: &str| format!("{issuer}/{path}");
    let discovery = json!({
        "issuer": issuer, "authorization_endpoint": at("auth"), "token_endpoint": at("token"), "jwks_uri": at("certs"),
        "device_authorization_endpoint": at("device"),
    });
    let says = Says { discovery, jwks: json!({"keys": [by.jwk("ec")]}), ..Says::default() };
    let says: Shared = Arc::new(Mutex::new(says));
    let router = Router::new()
        .route(
            "/realms/aap/.well-known/openid-configuration",
            get(|State(says): State<Shared>| async move {
                let mut says = says.lock().unwrap();
                says.discovery_asked += 1;
                document(&says, &says.discovery)
            }),
        )
        .route(
            "/realms/aap/certs",
            get(|State(says): State<Shared>| async move {
                let held = {
                    let mut says = says.lock().unwrap();
                    says.jwks_asked += 1;
                    says.held.clone()
                };
                if let Some(held) = held {
                    held.acquire().await.unwrap().forget();
                }
                let says = says.lock().unwrap();
                document(&says, &says.jwks)
            }),
        )
        .route(
            "/realms/aap/token",
            post(|State(says): State<Shared>, form: String| async move {
                let mut says = says.lock().unwrap();
                says.forms.push(form);
                let (status, body) = says.tokens.pop().unwrap();
                (StatusCode::from_u16(status).unwrap(), body.to_string())
            }),
        )
        .route(
            "/realms/aap/device",
            post(|State(says): State<Shared>, form: String| async move {
                says.lock().unwrap().forms.push(form);
                json!({
                    "device_code": "the secret", "user_code": "WDJB-MJHT", "verification_uri": "https://id.example/device",
                    "expires_in": 600, "interval": 0,
                })
                .to_string()
            }),
        )
        .with_state(says.clone());
    let clock = Arc::new(ManualClock::at(u64::try_from(NOW_S).unwrap() * 1000));
    let settings = Settings {
        issuer: issuer.clone(),
        client_id: CLIENT.to_owned(),
        audiences: vec![CLIENT.to_owned()],
        scopes: vec!["openid".to_owned(), "profile".to_owned()],
    };
    let roots = rustls::RootCertStore::empty();
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let provider = Provider::new(settings, Arc::new(tls), clock.clone());
    let rig = Rig { says, provider, clock, issuer };
    tokio::select! {
        () = test(&rig) => {}
        served = async { axum::serve(listener, router).await } => panic!("{served:?}"),
    }
}

#[tokio::test]
async fn a_code_is_redeemed_with_its_verifier_and_a_refusal_is_told_in_the_providers_words() {
    let by = Issuer::new();
    with_server(&by, async |rig| {
        let request =
            CodeRequest { redirect: "http://127.0.0.1:1/callback", challenge: "c", state: "s", nonce: NONCE };
        let url = rig.provider.code_url(&request).await.unwrap();
        let wanted = format!(
            "{}/auth?response_type=code&client_id=aap-cli&redirect_uri=http%3A%2F%2F127.0.0.1%3A1%2Fcallback\
             &scope=openid%20profile&state=s&nonce={NONCE}&code_challenge=c&code_challenge_method=S256",
            rig.issuer
        );
        assert_eq!(url, wanted);
        rig.answers([rig.token(&by, "ec", json!({}))]);
        assert_eq!(rig.redeem().await.unwrap(), "7c1");
        let form = rig.says.lock().unwrap().forms[0].clone();
        assert!(
            form.contains("code=the%20code&") && form.ends_with("&code_verifier=the%20verifier"),
            "{form}"
        );
        rig.answers([(400, json!({"error": "invalid_grant", "error_description": "PKCE\nfailed"}))]);
        let error = rig.redeem().await.unwrap_err();
        assert_eq!(error.to_string(), "the provider says `invalid_grant`: PKCEfailed");
        rig.answers([(200, json!({"access_token": "only this"}))]);
        assert!(matches!(rig.redeem().await, Err(Error::Unusable { .. })));
        rig.answers([rig.token(&by, "ec", json!({"nonce": "another"}))]);
        assert!(matches!(rig.redeem().await, Err(Error::Token(Fault::Nonce))));
    })
    .await;
}

#[tokio::test]
async fn a3_keys_are_looked_for_again_rarely_and_the_old_ones_count_while_the_issuer_is_away() {
    let (by, next) = (Issuer::new(), Issuer::another());
    with_server(&by, async |rig| {
        let asked = || rig.says.lock().unwrap().jwks_asked;
        rig.answers([rig.token(&by, "ec", json!({}))]);
        rig.redeem().await.unwrap();
        assert_eq!(asked(), 1);
        // A key that nobody has does not make us ask again and again.
        for _ in 0..3 {
            rig.answers([rig.token(&next, "made-up", json!({}))]);
            assert!(matches!(rig.redeem().await, Err(Error::Token(Fault::UnknownKey))));
        }
        assert_eq!(asked(), 1);
        // The issuer has a new key beside the old one.
        let mut key = next.jwk("ec");
        key["kid"] = "new".into();
        rig.says.lock().unwrap().jwks = json!({"keys": [by.jwk("ec"), key]});
        rig.clock.advance(Duration::from_secs(31));
        rig.answers([rig.token(&next, "new", json!({}))]);
        rig.redeem().await.unwrap();
        assert_eq!(asked(), 2);
        // Away for hours: what it said before counts, and nothing else.
        rig.says.lock().unwrap().is_away = true;
        rig.clock.advance(Duration::from_secs(2 * 60 * 60));
        let later = NOW_S + 3 * 60 * 60;
        rig.answers([rig.token(&next, "new", json!({"exp": later}))]);
        rig.redeem().await.unwrap();
        // Another document under the same name has no say before it is fetched; the key that it withdrew has none after.
        {
            let mut says = rig.says.lock().unwrap();
            (says.is_away, says.jwks) = (false, json!({"keys": [next.jwk("ec")]}));
        }
        rig.answers([rig.token(&next, "ec", json!({"exp": later}))]);
        assert!(matches!(rig.redeem().await, Err(Error::Token(Fault::Signature))));
        rig.clock.advance(Duration::from_secs(60 * 60));
        rig.answers([rig.token(&by, "ec", json!({"exp": later + 60 * 60}))]);
        assert!(matches!(rig.redeem().await, Err(Error::Token(Fault::Signature))));
    })
    .await;
}

#[tokio::test]
async fn a_provider_that_is_away_is_asked_once_in_a_while_and_whoever_comes_meanwhile_is_told() {
    let by = Issuer::new();
    with_server(&by, async |rig| {
        let asked = || rig.says.lock().unwrap().discovery_asked;
        rig.says.lock().unwrap().is_away = true;
        for _ in 0..3 {
            assert!(matches!(rig.redeem().await, Err(Error::Unreachable { .. })));
        }
        assert_eq!(asked(), 1);
        rig.clock.advance(Duration::from_millis(4_999));
        assert!(matches!(rig.redeem().await, Err(Error::Unreachable { .. })));
        assert_eq!(asked(), 1);
        // It is back, and is seen to be soon.
        rig.says.lock().unwrap().is_away = false;
        rig.clock.advance(Duration::from_millis(1));
        rig.answers([rig.token(&by, "ec", json!({}))]);
        rig.redeem().await.unwrap();
        assert_eq!(asked(), 2);
        // What is known counts while it is away once more, and it is not waited an hour for.
        rig.says.lock().unwrap().is_away = true;
        rig.clock.advance(Duration::from_secs(60 * 60));
        let later = json!({"exp": NOW_S + 4 * 60 * 60});
        let token = rig.token(&by, "ec", later);
        rig.answers([token.clone(), token.clone(), token]);
        rig.redeem().await.unwrap();
        rig.redeem().await.unwrap();
        assert_eq!(asked(), 3);
        rig.clock.advance(Duration::from_secs(5));
        rig.redeem().await.unwrap();
        assert_eq!(asked(), 4);
    })
    .await;
}

#[tokio::test]
async fn while_one_asks_for_keys_the_known_ones_count_for_the_others() {
    let by = Issuer::new();
    Box::pin(with_server(&by, async |rig| {
        rig.answers([rig.token(&by, "ec", json!({}))]);
        rig.redeem().await.unwrap();
        let held = Arc::new(Semaphore::new(0));
        rig.says.lock().unwrap().held = Some(held.clone());
        rig.clock.advance(Duration::from_secs(60 * 60));
        let later = json!({"exp": NOW_S + 4 * 60 * 60});
        let token = rig.token(&by, "ec", later);
        rig.answers([token.clone(), token.clone(), token]);
        let asked = || rig.says.lock().unwrap().jwks_asked;
        let mut first = std::pin::pin!(rig.redeem());
        while asked() < 2 {
            assert!(one_step(first.as_mut()).await.is_none(), "it waits for the keys");
        }
        // Neither waits, nor asks.
        rig.redeem().await.unwrap();
        rig.redeem().await.unwrap();
        assert_eq!(asked(), 2);
        held.add_permits(1);
        first.await.unwrap();
        assert_eq!(asked(), 2);
    }))
    .await;
}

#[tokio::test]
async fn whoever_goes_away_before_the_answer_leaves_behind_how_long_it_took() {
    let by = Issuer::new();
    Box::pin(with_server(&by, async |rig| {
        rig.says.lock().unwrap().held = Some(Arc::new(Semaphore::new(0)));
        let token = rig.token(&by, "ec", json!({}));
        rig.answers(std::iter::repeat_n(token, 4));
        let asked = || rig.says.lock().unwrap().jwks_asked;
        let leaves_after = async |waited: Duration| {
            let before = asked();
            let mut one = Box::pin(rig.redeem());
            while asked() == before {
                assert!(one_step(one.as_mut()).await.is_none(), "it waits for the keys");
            }
            rig.clock.advance(waited);
        };
        // Somebody who changes their mind says nothing of the provider.
        leaves_after(Duration::from_millis(4_999)).await;
        leaves_after(Duration::from_secs(5)).await;
        let told = rig.redeem().await.unwrap_err().to_string();
        assert!(told.contains("nothing came in 5.0s"), "{told}");
        assert_eq!(asked(), 2);
        rig.says.lock().unwrap().held = None;
        rig.clock.advance(Duration::from_secs(5));
        rig.redeem().await.unwrap();
    }))
    .await;
}

/// One step of work, and then a turn for everybody else.
async fn one_step<T>(mut work: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    let step = std::future::poll_fn(|context| match work.as_mut().poll(context) {
        std::task::Poll::Ready(done) => std::task::Poll::Ready(Some(done)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    });
    let done = step.await;
    tokio::task::yield_now().await;
    done
}

#[tokio::test]
async fn a_provider_that_calls_itself_something_else_or_leads_away_from_tls_is_not_believed() {
    let by = Issuer::new();
    for (field, value) in [
        ("issuer", json!("https://thief.example")),
        ("issuer", json!(null)),
        ("token_endpoint", json!("http://thief.example/token")),
        ("jwks_uri", json!("file:///etc/passwd")),
        ("authorization_endpoint", json!(7)),
    ] {
        with_server(&by, async |rig| {
            rig.says.lock().unwrap().discovery[field] = value.clone();
            let error = rig.redeem().await.unwrap_err();
            assert!(matches!(error, Error::Unusable { .. } | Error::Url { .. }), "{field}: {error}");
            // And it is asked again in a while, where nothing of it was kept.
            rig.says.lock().unwrap().is_away = true;
            rig.clock.advance(Duration::from_secs(5));
            assert!(matches!(rig.redeem().await, Err(Error::Unreachable { .. })));
        })
        .await;
    }
}

#[tokio::test]
async fn a_device_flow_ends_when_the_person_has_decided() {
    let by = Issuer::new();
    with_server(&by, async |rig| {
        let device = rig.provider.start_device(NONCE, "the verifier".to_owned()).await.unwrap();
        assert_eq!((device.url.as_str(), device.code.as_str()), ("https://id.example/device", "WDJB-MJHT"));
        assert_eq!(device.lasts, Duration::from_secs(300), "five minutes, whatever the provider allows");
        assert!(!format!("{device:?}").contains("the secret"));
        let pending = || (400, json!({"error": "authorization_pending"}));
        rig.answers([rig.token(&by, "ec", json!({})), pending()]);
        assert_eq!(rig.provider.await_device(&device, NONCE).await.unwrap().subject(), "7c1");
        rig.answers([(400, json!({"error": "access_denied"}))]);
        let error = rig.provider.await_device(&device, NONCE).await.unwrap_err();
        assert!(matches!(error, Error::Refused { code, .. } if code == "access_denied"));
        rig.answers([(400, json!({"error": "expired_token"}))]);
        assert!(matches!(rig.provider.await_device(&device, NONCE).await, Err(Error::Expired)));
        let forms = rig.says.lock().unwrap().forms.clone();
        assert!(
            forms[0].contains(&format!("nonce={NONCE}")) && forms[1].contains("device_code=the%20secret"),
            "{forms:?}"
        );
    })
    .await;
}
