//! Against a server that answers as Vault does, and fails as it does: log-in, renewal, revocation, outage, policy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aap_runtime::{Secret, SecretPlace, SecretRef, SecretSource, Shutdown, SystemClock};
use aap_types::Problem;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::{Vault, VaultSpec};

const CANARY: &str = "canary-value";
const SECRET_ID: &str = "canary-secret-id";

/// What the server knows, and how it is to behave.
#[derive(Default)]
struct Known {
    tokens: BTreeSet<String>,
    secrets: BTreeMap<String, Value>,
    lease_s: u64,
    is_sealed: bool,
    refuses_renewal: bool,
    log_ins: u32,
    renewals: u32,
    namespace: Option<String>,
}

type Shared = Arc<Mutex<Known>>;

async fn answer(State(known): State<Shared>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 16).await.unwrap();
    let header = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let shown = (header("x-vault-token"), header("x-vault-namespace"));
    reply(&mut known.lock().unwrap(), head.method, head.uri.path(), shown, &body)
}

fn reply(
    known: &mut Known,
    method: Method,
    path: &str,
    (token, namespace): (Option<String>, Option<String>),
    body: &[u8],
) -> Response {
    let say = |status: StatusCode, value: Value| (status, value.to_string()).into_response();
    let denied = || say(StatusCode::FORBIDDEN, json!({ "errors": ["permission denied"] }));
    if known.is_sealed {
        return say(StatusCode::SERVICE_UNAVAILABLE, json!({ "errors": ["Vault is sealed"] }));
    }
    known.namespace = namespace;
    if path == "/v1/auth/machines/login" {
        let body: Value = serde_json::from_slice(body).unwrap();
        if body != json!({ "role_id": "aap", "secret_id": SECRET_ID }) {
            return say(StatusCode::BAD_REQUEST, json!({ "errors": ["invalid role or secret ID"] }));
        }
        known.log_ins += 1;
        let token = format!("canary-token-{}", known.log_ins);
        known.tokens.insert(token.clone());
        let auth = json!({ "client_token": token, "lease_duration": known.lease_s, "renewable": true });
        return say(StatusCode::OK, json!({ "auth": auth }));
    }
    let Some(token) = token.filter(|token| known.tokens.contains(token)) else { return denied() };
    match (method, path) {
        (Method::GET, "/v1/auth/token/lookup-self") => {
            say(StatusCode::OK, json!({ "data": { "ttl": known.lease_s, "renewable": true } }))
        }
        (Method::POST, "/v1/auth/token/renew-self") if known.refuses_renewal => denied(),
        (Method::POST, "/v1/auth/token/renew-self") => {
            known.renewals += 1;
            let auth = json!({ "client_token": token, "lease_duration": known.lease_s, "renewable": true });
            say(StatusCode::OK, json!({ "auth": auth }))
        }
        (Method::GET, "/v1/kv/data/forbidden") => denied(),
        (Method::GET, path) => match known.secrets.get(path) {
            Some(fields) => say(StatusCode::OK, json!({ "data": { "data": fields, "metadata": {} } })),
            None => say(StatusCode::NOT_FOUND, json!({ "errors": [] })),
        },
        _ => say(StatusCode::METHOD_NOT_ALLOWED, json!({ "errors": [] })),
    }
}

/// A Vault, and what it knows.
async fn vault(lease_s: u64) -> (Vault, Shared) {
    let secrets =
        BTreeMap::from([("/v1/kv/data/aap/pg".to_owned(), json!({ "password": CANARY, "port": 5432 }))]);
    let known = Arc::new(Mutex::new(Known { lease_s, secrets, ..Known::default() }));
    let app = Router::new().fallback(answer).with_state(known.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    #[expect(clippy::disallowed_methods, reason = "the server ends with the test's runtime")]
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (of(&format!("http://{address}"), SECRET_ID), known)
}

fn of(address: &str, secret_id: &str) -> Vault {
    let folder = tempfile::tempdir().unwrap().keep();
    let file = folder.join("secret-id");
    std::fs::write(&file, secret_id).unwrap();
    let text = format!(
        "{{ address: '{address}', namespace: team, auth: {{ app_role: {{ role_id: aap, mount: machines, secret_id: 'file:{}' }} }} }}",
        file.display()
    );
    let spec: VaultSpec = serde_norway::from_str(&text).unwrap();
    Vault::new(spec, "/".into(), Arc::new(SystemClock::default())).unwrap()
}

async fn resolve(vault: &Vault, reference: &str) -> Result<Secret, Problem> {
    let place: SecretPlace = reference.parse::<SecretRef>().unwrap().place().unwrap().clone();
    let resolved = vault.resolve(&place).await;
    if let Err(problem) = &resolved {
        let told = format!("{} {problem:?} {vault:?}", problem.report());
        assert!(!told.contains("canary"), "{told}");
        assert!(!problem.hints.is_empty(), "{problem:?}");
    }
    resolved
}

async fn code(vault: &Vault, reference: &str) -> String {
    resolve(vault, reference).await.unwrap_err().code
}

#[tokio::test]
async fn a_field_is_read_with_one_log_in_and_every_other_answer_has_its_code() {
    let (vault, known) = vault(3600).await;
    assert_eq!(resolve(&vault, "vault:kv/aap/pg#password").await.unwrap().reveal(), CANARY);
    assert_eq!(known.lock().unwrap().namespace.as_deref(), Some("team"));
    for (reference, expected) in [
        ("vault:kv/aap/pg#user", "secret.not_found"),
        ("vault:kv/aap/pg#port", "secret.not_found"),
        ("vault:kv/aap/none#password", "secret.not_found"),
    ] {
        assert_eq!(code(&vault, reference).await, expected, "{reference}");
    }
    assert_eq!(known.lock().unwrap().log_ins, 1);
    assert_eq!(code(&vault, "vault:kv/forbidden#x").await, "secret.vault_denied");
    assert_eq!(known.lock().unwrap().log_ins, 1, "the token is good: another would not help");
    let problem = resolve(&vault, "vault:kv/forbidden#x").await.unwrap_err();
    assert!(problem.hints[0].text.contains("`kv/data/forbidden`"), "{problem:?}");
}

#[tokio::test]
async fn a_revoked_token_is_followed_by_a_log_in_and_an_outage_by_a_code() {
    let (vault, known) = vault(3600).await;
    resolve(&vault, "vault:kv/aap/pg#password").await.unwrap();
    known.lock().unwrap().tokens.clear();
    resolve(&vault, "vault:kv/aap/pg#password").await.unwrap();
    assert_eq!(known.lock().unwrap().log_ins, 2);
    known.lock().unwrap().is_sealed = true;
    let sealed = resolve(&vault, "vault:kv/aap/pg#password").await.unwrap_err();
    assert!(sealed.code == "secret.vault_unreachable" && sealed.is_retryable(), "{sealed:?}");
    assert!(sealed.causes[0].contains("Vault is sealed"), "{sealed:?}");
    known.lock().unwrap().is_sealed = false;
    resolve(&vault, "vault:kv/aap/pg#password").await.unwrap();
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gone = of(&format!("http://{nobody}"), SECRET_ID);
    assert_eq!(code(&gone, "vault:kv/aap/pg#password").await, "secret.vault_unreachable");
}

#[tokio::test]
async fn a_wrong_secret_id_is_denied_and_one_that_is_not_there_is_named() {
    let (vault, _known) = vault(3600).await;
    let address = vault.inner.service.url().to_string();
    let refused = resolve(&of(&address, "canary-wrong"), "vault:kv/aap/pg#password").await.unwrap_err();
    assert_eq!(refused.code, "secret.vault_denied");
    assert!(refused.causes[0].contains("invalid role or secret ID"), "{refused:?}");
    assert_eq!(
        code(&of(&address, "two\nlines-are-no-token"), "vault:kv/aap/pg#password").await,
        "secret.vault_denied"
    );
    let spec: VaultSpec = serde_norway::from_str(&format!(
        "{{ address: '{address}', auth: {{ token: 'file:/no/such/file' }} }}"
    ))
    .unwrap();
    let vault = Vault::new(spec, "/".into(), Arc::new(SystemClock::default())).unwrap();
    assert_eq!(code(&vault, "vault:kv/aap/pg#password").await, "secret.vault_login");
}

/// Waits until the server has seen enough.
async fn until(known: &Shared, seen: impl Fn(&Known) -> bool) {
    let looked = async {
        while !seen(&known.lock().unwrap()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), looked).await.expect("the server has seen it");
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends_and_replaced_where_it_cannot_be() {
    let (vault, known) = vault(1).await;
    let stop = Shutdown::default();
    #[expect(clippy::disallowed_methods, reason = "it is awaited below")]
    let keeping = tokio::spawn(vault.clone().keep(stop.clone()));
    resolve(&vault, "vault:kv/aap/pg#password").await.unwrap();
    until(&known, |known| known.renewals >= 2).await;
    assert_eq!(known.lock().unwrap().log_ins, 1);
    known.lock().unwrap().refuses_renewal = true;
    until(&known, |known| known.log_ins >= 2).await;
    resolve(&vault, "vault:kv/aap/pg#password").await.unwrap();
    stop.request();
    keeping.await.unwrap().unwrap();
}

#[test]
fn a_configuration_that_would_leak_or_cannot_work_is_refused() {
    let check = |text: &str| serde_norway::from_str::<VaultSpec>(text).unwrap().check();
    let role = "auth: { app_role: { role_id: aap, secret_id: 'env:ID' } }";
    assert_eq!(check(&format!("{{ address: 'https://vault.example:8200', {role} }}")), Ok(()));
    assert_eq!(check("{ address: 'http://127.0.0.1:8200', auth: { token: 'env:T' } }"), Ok(()));
    for (bad, named) in [
        (format!("{{ address: 'http://vault.example:8200', {role} }}"), "without TLS"),
        (format!("{{ address: 'vault:8200', {role} }}"), "vault.address"),
        ("{ address: 'https://v', auth: {} }".to_owned(), "one of them"),
        ("{ address: 'https://v', auth: { token: 'vault:kv/a#b' } }".to_owned(), "`vault:kv/a#b`"),
        ("{ address: 'https://v', auth: { token: 'secret:a' } }".to_owned(), "`secret:a`"),
    ] {
        let why = check(&bad).unwrap_err();
        assert!(why.contains(named), "{bad}: {why}");
    }
}
