//! Addresses of coordinators that are kept up to date: those that are written down, and those that are found.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aap_runtime::Shutdown;
use aap_types::Problem;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::locator::Locator;

/// How often is looked again while all is well.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Between two looks when nobody answers: coordinators that move are found at once, and a service that is down is left in peace.
const LOOK_AGAIN_MIN: Duration = Duration::from_millis(500);

/// What is written down, in its order, with what was found last.
#[derive(Debug)]
pub struct Directory {
    /// Who tries them, by which their order is drawn.
    who: String,
    entries: Mutex<Vec<Entry>>,
    wanted: Notify,
}

#[derive(Debug, Clone)]
enum Entry {
    Address(String),
    Found { locator: Box<Locator>, addresses: Vec<String>, problem: Option<Problem> },
}

impl Directory {
    /// Nothing is looked for yet. Texts that are meant as places to look are read as such.
    ///
    /// # Errors
    /// The first that is none.
    pub fn new(texts: &[String], who: &str) -> Result<Self, String> {
        let entry = |text: &String| match Locator::is_meant(text) {
            true => Ok(Entry::Found { locator: Box::new(text.parse()?), addresses: vec![], problem: None }),
            false => Ok(Entry::Address(text.clone())),
        };
        let entries = texts.iter().map(entry).collect::<Result<_, String>>()?;
        Ok(Self { who: who.to_owned(), entries: Mutex::new(entries), wanted: Notify::new() })
    }

    /// What is known now, in the order in which to try.
    pub fn addresses(&self) -> Vec<String> {
        let mut all: Vec<String> = vec![];
        for entry in self.entries().iter() {
            let known = match entry {
                Entry::Address(address) => std::slice::from_ref(address),
                Entry::Found { addresses, .. } => addresses.as_slice(),
            };
            for address in known {
                if !all.contains(address) {
                    all.push(address.clone());
                }
            }
        }
        all
    }

    /// Why nothing is found where it is looked for, as one line.
    pub fn trouble(&self) -> Option<String> {
        let entries = self.entries();
        let problems = entries.iter().filter_map(|entry| match entry {
            Entry::Found { problem: Some(problem), .. } => Some(in_a_line(problem)),
            _ => None,
        });
        Some(problems.collect::<Vec<_>>().join("; ")).filter(|problems| !problems.is_empty())
    }

    /// No address answers: what is known may be old.
    pub fn look_again(&self) {
        self.wanted.notify_one();
    }

    /// Looks again and again until `shutdown`. Returns at once where there is nowhere to look.
    ///
    /// # Errors
    /// None.
    pub async fn keep(&self, shutdown: Shutdown) -> Result<(), std::convert::Infallible> {
        while self.looks_somewhere() && !shutdown.is_requested() {
            tokio::select! {
                () = self.look() => {}
                () = shutdown.requested() => break,
            }
            let asked_for = async {
                tokio::time::sleep(LOOK_AGAIN_MIN).await;
                self.wanted.notified().await;
            };
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = asked_for => {}
                () = shutdown.requested() => {}
            }
        }
        Ok(())
    }

    /// Looks everywhere once.
    pub async fn look(&self) {
        let places: Vec<(usize, Locator)> = {
            let entries = self.entries();
            let found = entries.iter().enumerate().filter_map(|(at, entry)| match entry {
                Entry::Found { locator, .. } => Some((at, Locator::clone(locator))),
                Entry::Address(_) => None,
            });
            found.collect()
        };
        let looked = places.iter().map(|(at, locator)| async { (*at, locator.find(&self.who).await) });
        for (at, found) in futures::future::join_all(looked).await {
            if let Some(entry) = self.entries().get_mut(at) {
                entry.take_over(found);
            }
        }
    }

    fn looks_somewhere(&self) -> bool {
        self.entries().iter().any(|entry| matches!(entry, Entry::Found { .. }))
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// What was found last stays where nothing is found: coordinators outlive a DNS server that is away.
    fn take_over(&mut self, found: Result<Vec<String>, Problem>) {
        let Self::Found { locator, addresses, problem } = self else { return };
        match found {
            Ok(found) => {
                if *addresses != found {
                    info!(place = %locator, addresses = ?found, "coordinators found");
                }
                (*addresses, *problem) = (found, None);
            }
            Err(trouble) => {
                if problem.as_ref().is_none_or(|known| known.code != trouble.code) {
                    warn!(place = %locator, code = trouble.code, causes = ?trouble.causes, "{trouble}");
                }
                *problem = Some(trouble);
            }
        }
    }
}

fn in_a_line(problem: &Problem) -> String {
    std::iter::once(&problem.message).chain(&problem.causes).cloned().collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn what_was_found_stays_while_nothing_else_is() {
        let texts = ["a:1", "consul+http://127.0.0.1:1/aap", "b:1"].map(str::to_owned);
        let directory = Directory::new(&texts, "n1").unwrap();
        assert_eq!(directory.addresses(), ["a:1", "b:1"]);
        let take = |found: Result<&[&str], &str>| {
            let found = found.map(|all| all.iter().map(|it| (*it).to_owned()).collect());
            let found = found.map_err(|code| Problem::new(code, aap_types::ExitCode::Unavailable, "away"));
            directory.entries()[1].take_over(found);
        };
        take(Ok(&["c:1", "b:1"]));
        assert_eq!(
            (directory.addresses(), directory.trouble()),
            (["a:1", "c:1", "b:1"].map(str::to_owned).to_vec(), None)
        );
        take(Err("discovery.unreachable"));
        assert_eq!(directory.addresses(), ["a:1", "c:1", "b:1"]);
        assert_eq!(directory.trouble().as_deref(), Some("away"));
        assert!(Directory::new(&["srv+".to_owned()], "n1").is_err());
    }

    /// Answers every request with what `answer` holds.
    async fn consul(answer: Arc<Mutex<String>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        #[expect(clippy::disallowed_methods, reason = "the server ends with the test's runtime")]
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut seen = [0; 1024];
                let length = stream.read(&mut seen).await.unwrap();
                assert!(
                    seen[..length].starts_with(b"GET /v1/health/service/aap?passing=true&tag=eu HTTP/1.1")
                );
                let body = answer.lock().unwrap().clone();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            }
        });
        format!("consul+http://{address}/aap?tag=eu")
    }

    #[tokio::test]
    async fn a_coordinator_that_moves_is_found_when_somebody_asks() {
        let entry =
            |port: u16| format!(r#"[{{"Node":{{"Address":"127.0.0.1"}},"Service":{{"Port":{port}}}}}]"#);
        let answer = Arc::new(Mutex::new(entry(1)));
        let place = consul(answer.clone()).await;
        let directory = Arc::new(Directory::new(&[place], "n1").unwrap());
        let stop = Shutdown::default();
        let (kept, stopped) = (directory.clone(), stop.clone());
        #[expect(clippy::disallowed_methods, reason = "it is awaited below")]
        let keeping = tokio::spawn(async move { kept.keep(stopped).await });
        let until = async |expected: &str| {
            let found = async {
                while directory.addresses() != [expected] {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), found)
                .await
                .expect("it is found, long before the next look");
        };
        until("127.0.0.1:1").await;
        *answer.lock().unwrap() = entry(2);
        directory.look_again();
        until("127.0.0.1:2").await;
        *answer.lock().unwrap() = "[]".to_owned();
        directory.look().await;
        assert_eq!(directory.addresses(), ["127.0.0.1:2"]);
        assert!(directory.trouble().unwrap().contains("no healthy instance"));
        stop.request();
        keeping.await.unwrap().unwrap();
    }
}
