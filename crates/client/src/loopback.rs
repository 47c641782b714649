//! A log-in by a browser, at the machine that it is for: what goes out with the browser, and the socket where it comes back.
//!
//! ```text
//! verifier ── SHA-256 ──► challenge ──► browser ──► provider ──► 127.0.0.1:PORT/callback?code=…&state=…
//!    └── goes with the code to the coordinator: a code that somebody else caught is worth nothing without it (RFC 7636)
//! ```
//! Whatever comes to the socket without the state of this log-in is turned away, and does not end it.

use std::net::Ipv4Addr;
use std::time::Duration;

use aap_runtime::Secret;
use aap_types::{ExitCode, Problem};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Random bytes of verifier and state: 256 bits.
const SECRET_BYTES: usize = 32;
/// Longest request that is read: a browser's headers, and a code of some hundred letters.
const REQUEST_BYTES_MAX: u64 = 16 << 10;
/// How long a connection may take to ask. Browsers open some that they do not use.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// Connections at once; more wait.
const CONNECTIONS_MAX: usize = 16;
/// Where the browser comes back to.
const PATH: &str = "/callback";

/// A log-in that waits for a browser.
#[derive(Debug)]
pub struct Loopback {
    listener: TcpListener,
    redirect: String,
    verifier: Secret,
    challenge: String,
    state: String,
}

/// What a browser came back with.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Returned {
    Code(String),
    /// A word of OAuth such as `access_denied`, and what else the provider says.
    Error(String),
}

impl Loopback {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// `auth.loopback` (1), `platform.random` (1).
    pub async fn open() -> Result<Self, Problem> {
        let failed = |error: std::io::Error| {
            Problem::new("auth.loopback", ExitCode::Failed, "no port of this machine can be listened on")
                .caused_by(&error)
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let (verifier, state) = (random_letters()?, random_letters()?);
        let challenge = challenge_of(&verifier);
        let redirect = format!("http://{}:{port}{PATH}", Ipv4Addr::LOCALHOST);
        Ok(Self { listener, redirect, verifier: Secret::from(verifier), challenge, state })
    }

    /// Where the browser is to come back to.
    pub fn redirect(&self) -> &str {
        &self.redirect
    }

    /// S256 of the verifier.
    pub fn challenge(&self) -> &str {
        &self.challenge
    }

    /// By which the browser is known when it comes back.
    pub fn state(&self) -> &str {
        &self.state
    }

    /// What goes with the code to whoever redeems it.
    pub fn verifier(&self) -> &Secret {
        &self.verifier
    }

    /// Waits until the browser comes back, and returns its code. `issuer` is the provider that it was sent to.
    ///
    /// # Errors
    /// `auth.login_refused` (4) where the provider says no.
    pub async fn code(&self, issuer: &str) -> Result<String, Problem> {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                    // One that broke off before it was there is no loss.
                    if let Ok((stream, _)) = accepted {
                        connections.spawn(serve(stream, self.state.clone(), issuer.to_owned()));
                    }
                }
                Some(served) = connections.join_next() => match served.ok().flatten() {
                    None => {}
                    Some(Returned::Code(code)) => return Ok(code),
                    Some(Returned::Error(said)) => return Err(refused(&said)),
                },
            }
        }
    }
}

fn refused(said: &str) -> Problem {
    Problem::new("auth.login_refused", ExitCode::LoginNeeded, "the provider does not let you in")
        .cause(format!("it says `{}`", said.chars().take(200).collect::<String>().escape_default()))
        .hint_command("begin anew", "aap auth login")
}

/// Answers one connection.
async fn serve(mut stream: TcpStream, state: String, issuer: String) -> Option<Returned> {
    let target = tokio::time::timeout(REQUEST_WITHIN, target_of(&mut stream)).await.ok()??;
    let returned = returned(&target, &state, &issuer);
    let (status, text) = match &returned {
        Some(Returned::Code(_)) => ("200 OK", "The browser has done its part: go back to the terminal.\n"),
        Some(Returned::Error(_)) => ("200 OK", "The provider did not let you in: see the terminal.\n"),
        None => ("400 Bad Request", "This is not what the terminal waits for.\n"),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Referrer-Policy: no-referrer\r\nConnection: close\r\n\r\n{text}",
        text.len()
    );
    // Whoever has gone already needs no answer; what they brought counts all the same.
    stream.write_all(answer.as_bytes()).await.ok();
    stream.shutdown().await.ok();
    returned
}

/// What a request is for; nothing of a request that is none.
async fn target_of(stream: &mut TcpStream) -> Option<String> {
    let (mut request, mut part) = (Vec::new(), [0; 1024]);
    let mut limited = stream.take(REQUEST_BYTES_MAX);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match limited.read(&mut part).await.ok()? {
            0 => return None,
            read => request.extend_from_slice(&part[..read]),
        }
    }
    let line = request.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let is_get = words.next()? == "GET";
    words.next().filter(|_| is_get).map(str::to_owned)
}

/// What a browser brings that was sent out for this log-in, by this provider (RFC 9207).
fn returned(target: &str, state: &str, issuer: &str) -> Option<Returned> {
    let query = target.strip_prefix(PATH)?.strip_prefix('?')?;
    let fields: Vec<(&str, String)> = query
        .split('&')
        .filter_map(|field| field.split_once('='))
        .filter_map(|(name, value)| Some((name, percent_decode_str(value).decode_utf8().ok()?.into_owned())))
        .collect();
    // Each once, or it is not clear which counts.
    let only = |wanted: &str| {
        let mut found = fields.iter().filter(|(name, _)| *name == wanted).map(|(_, value)| value.as_str());
        found.next().filter(|_| found.next().is_none())
    };
    if only("state")? != state || only("iss").is_some_and(|from| from != issuer) {
        return None;
    }
    match (only("code"), only("error")) {
        (Some(code), None) if !code.is_empty() => Some(Returned::Code(code.to_owned())),
        (None, Some(error)) => Some(Returned::Error(error.to_owned())),
        _ => None,
    }
}

fn challenge_of(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, verifier.as_bytes()))
}

fn random_letters() -> Result<String, Problem> {
    let mut bytes = [0_u8; SECRET_BYTES];
    let none = rustix::rand::GetRandomFlags::empty();
    rustix::rand::getrandom(&mut bytes, none).map_err(|error| {
        Problem::new("platform.random", ExitCode::Failed, "the system gives no random numbers")
            .caused_by(&error)
    })?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://id.example";

    #[test]
    fn the_challenge_is_that_of_the_standard() {
        // RFC 7636, appendix B.
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(challenge_of(verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
        assert_ne!(random_letters().unwrap(), random_letters().unwrap());
    }

    #[test]
    fn a4_only_what_was_sent_out_for_this_log_in_comes_back() {
        let code = |target: &str| returned(target, "s", ISSUER);
        assert_eq!(code("/callback?code=a%2Fb&state=s"), Some(Returned::Code("a/b".into())));
        assert_eq!(
            code("/callback?state=s&iss=https%3A%2F%2Fid.example&code=c&session_state=x"),
            Some(Returned::Code("c".into()))
        );
        assert_eq!(
            code("/callback?error=access_denied&state=s"),
            Some(Returned::Error("access_denied".into()))
        );
        for other in [
            "/",
            "/favicon.ico",
            "/callback",
            "/callback?code=c",
            "/callback?code=c&state=",
            "/callback?code=c&state=t",
            "/callback?code=c&state=s&state=t",
            "/callback?code=c&code=d&state=s",
            "/callback?code=&state=s",
            "/callback?code=c&error=e&state=s",
            "/callback?code=c&state=s&iss=https%3A%2F%2Fthief.example",
            "/callbackcode=c&state=s",
        ] {
            assert_eq!(code(other), None, "{other}");
        }
    }

    async fn ask(port: u16, text: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a4_strangers_at_the_socket_are_turned_away_and_the_browser_still_comes_through() {
        let login = Loopback::open().await.unwrap();
        let port: u16 = login.redirect().trim_end_matches(PATH).rsplit_once(':').unwrap().1.parse().unwrap();
        let strangers_and_browser = async {
            // Somebody who connects and says nothing, and somebody who says half.
            let _silent = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let mut half = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            half.write_all(b"GET /call").await.unwrap();
            let wrong = ask(port, "GET /callback?code=theirs&state=guess HTTP/1.1\r\n\r\n").await;
            assert!(wrong.starts_with("HTTP/1.1 400 "), "{wrong}");
            let posted = format!("POST /callback?code=theirs&state={} HTTP/1.1\r\n\r\n", login.state());
            assert_eq!(ask(port, &posted).await, "");
            let right =
                format!("GET /callback?code=ours&state={} HTTP/1.1\r\nHost: x\r\n\r\n", login.state());
            let right = ask(port, &right).await;
            assert!(
                right.starts_with("HTTP/1.1 200 ") && right.contains("go back to the terminal"),
                "{right}"
            );
        };
        let (code, ()) = tokio::join!(login.code(ISSUER), strangers_and_browser);
        assert_eq!(code.unwrap(), "ours");
        let denied = Loopback::open().await.unwrap();
        let port: u16 = denied.redirect().trim_end_matches(PATH).rsplit_once(':').unwrap().1.parse().unwrap();
        let request = format!("GET /callback?error=access_denied&state={} HTTP/1.1\r\n\r\n", denied.state());
        let (code, _) = tokio::join!(denied.code(ISSUER), ask(port, &request));
        let problem = code.unwrap_err();
        assert_eq!(problem.code, "auth.login_refused");
        assert!(problem.causes[0].contains("access_denied"));
        assert!(!format!("{denied:?}").contains(denied.verifier().reveal()));
    }
}
