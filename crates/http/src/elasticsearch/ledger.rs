//! Who may write, and how far each key was written: documents in an index of their own.
//!
//! ```text
//!  _id: UID          {"sink": "search", "owner": NUMBER, "streams": ["events"]}
//!  _id: UID/events   {"sink": "search", "stream": "events", "positions": [{"node": …, "epoch": …, "through": …}]}
//! ```
//! Documents are read by id, which sees what was written last, and never searched. Each is changed on condition that it stands
//! as it was read (`if_seq_no`, `if_primary_term`), or is not there (`create`): of two that write, one finds out.

use std::collections::BTreeMap;

use aap_sinks::{Failure, FailureKind, Group, Positions};
use aap_types::{Epoch, ExitCode, NodeId, Problem, Sequence, StreamKey, StreamName};
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::index;
use super::server::{Said, Server};
use super::spec::ElasticsearchSpec;
use crate::fail::HttpError;

/// How often the owner may change under our hands while we take over. Whoever else takes over does so once, as it starts.
const TRIES: usize = 5;

/// A number that nobody had before, also where the ledger was lost and begins again.
fn unique() -> Result<u64, HttpError> {
    let mut bytes = [0; 8];
    match rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()) {
        Ok(8) => Ok(u64::from_le_bytes(bytes)),
        _ => Err(HttpError::Answer("this machine gives no random numbers".to_owned())),
    }
}

/// The state of a document when it was read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct Stand {
    #[serde(rename = "_seq_no")]
    seq_no: i64,
    #[serde(rename = "_primary_term")]
    primary_term: i64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Head {
    sink: String,
    owner: u64,
    streams: Vec<StreamName>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Page {
    sink: String,
    stream: StreamName,
    positions: Vec<Position>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Position {
    node: NodeId,
    epoch: u64,
    through: u64,
}

/// The ledger of a sink.
#[derive(Debug)]
pub(crate) struct Ledger<'a> {
    pub(crate) server: &'a Server,
    pub(crate) spec: &'a ElasticsearchSpec,
    pub(crate) sink: &'a str,
    pub(crate) uid: &'a str,
}

/// A ledger that is ours, as it stands.
#[derive(Debug)]
pub(crate) struct Held {
    head: Head,
    head_stand: Stand,
    pages: BTreeMap<StreamName, Stand>,
    pub(crate) positions: Positions,
}

#[derive(Debug, Deserialize)]
struct Document<T> {
    #[serde(default = "Option::default", rename = "_source")]
    source: Option<T>,
    #[serde(flatten)]
    stand: Option<Stand>,
}

/// One document to be written, and how it must stand.
struct Change {
    id: String,
    stand: Option<Stand>,
    source: Value,
}

/// What became of the changes.
enum Changed {
    All(Vec<Stand>),
    /// One of them does not stand so; the others may be written.
    Conflict(String),
}

impl Ledger<'_> {
    /// Makes us the owner.
    pub(crate) async fn take_over(&self) -> Result<Held, Failure> {
        self.ensure().await?;
        for _ in 0..TRIES {
            let (mut head, stand) = match self.head().await.map_err(|error| self.failed(&error))? {
                Some((head, stand)) => (head, Some(stand)),
                None => (Head { sink: self.sink.to_owned(), ..Head::default() }, None),
            };
            head.owner = unique().map_err(|error| self.failed(&error))?;
            match self.change(vec![self.head_change(&head, stand)]).await? {
                Changed::Conflict(_) => {}
                Changed::All(stands) => {
                    let (pages, positions) =
                        self.pages(&head.streams).await.map_err(|error| self.failed(&error))?;
                    return Ok(Held { head, head_stand: stands[0], pages, positions });
                }
            }
        }
        let message = format!("others take the place in `{}` over all the time", self.spec.ledger);
        let problem = Problem::new("sink.unreachable", ExitCode::Unavailable, message);
        Err(Failure::new(FailureKind::Retry, problem))
    }

    async fn ensure(&self) -> Result<(), Failure> {
        let index = &self.spec.ledger;
        let found = index::fields(self.server, index).await.map_err(|error| self.failed(&error))?;
        match found {
            Some(_) => Ok(()),
            None if !self.spec.create => Err(index::missing(self.server, index)),
            None => {
                // Nobody searches in it, so nothing of it is indexed.
                let body = json!({
                    "settings": { "number_of_shards": 1, "auto_expand_replicas": "0-1" },
                    "mappings": { "dynamic": false },
                });
                index::create(self.server, index, &body).await.map_err(|error| self.failed(&error))
            }
        }
    }

    /// Whether the place is still ours.
    pub(crate) async fn check(&self, held: &Held) -> Result<(), Failure> {
        let found = self.head().await.map_err(|error| self.failed(&error))?;
        match found {
            Some((head, _)) if head.owner == held.head.owner => Ok(()),
            _ => Err(Failure::moved("another instance of the sink has taken the place over")),
        }
    }

    /// Writes the positions of a group, all of whose rows are acknowledged.
    pub(crate) async fn advance(&self, held: &mut Held, group: &Group) -> Result<(), Failure> {
        let streams = group.by_stream();
        let new: Vec<StreamName> = streams
            .keys()
            .filter(|stream| !held.pages.contains_key(**stream))
            .map(|stream| (*stream).clone())
            .collect();
        if !new.is_empty() {
            // Named first: a page that the head does not name is not found.
            let mut head = held.head.clone();
            head.streams.extend(new.into_iter().filter(|stream| !held.head.streams.contains(stream)));
            let stands = self.changed(vec![self.head_change(&head, Some(held.head_stand))]).await?;
            (held.head, held.head_stand) = (head, stands[0]);
        }
        let mut positions = held.positions.clone();
        positions.extend(group.positions());
        let changes = streams.keys().map(|stream| {
            let of_stream = positions.iter().filter(|(key, _)| key.stream == **stream);
            let positions = of_stream.map(|(key, through)| Position {
                node: key.node.clone(),
                epoch: key.epoch.0,
                through: through.0,
            });
            let page = Page {
                sink: self.sink.to_owned(),
                stream: (*stream).clone(),
                positions: positions.collect(),
            };
            Change { id: self.page_id(stream), stand: held.pages.get(*stream).copied(), source: json!(page) }
        });
        let stands = self.changed(changes.collect()).await?;
        held.pages.extend(streams.keys().map(|stream| (*stream).clone()).zip(stands));
        held.positions = positions;
        Ok(())
    }

    /// How far everything was written, for somebody who only looks.
    pub(crate) async fn look(&self) -> Result<Option<Positions>, HttpError> {
        if index::fields(self.server, &self.spec.ledger).await?.is_none() {
            return Ok(None);
        }
        let streams = self.head().await?.map(|(head, _)| head.streams).unwrap_or_default();
        Ok(Some(self.pages(&streams).await?.1))
    }

    async fn head(&self) -> Result<Option<(Head, Stand)>, HttpError> {
        let path = format!("{}/_doc/{}", self.spec.ledger, self.uid);
        let Some(found) = self.server.find(&path).await? else { return Ok(None) };
        let Document { source, stand } = found.read::<Document<Head>>()?;
        Ok(source.zip(stand))
    }

    async fn pages(
        &self,
        streams: &[StreamName],
    ) -> Result<(BTreeMap<StreamName, Stand>, Positions), HttpError> {
        #[derive(Deserialize)]
        struct Found {
            docs: Vec<Document<Page>>,
        }
        if streams.is_empty() {
            return Ok((BTreeMap::new(), Positions::new()));
        }
        let ids: Vec<String> = streams.iter().map(|stream| self.page_id(stream)).collect();
        let path = format!("{}/_mget", self.spec.ledger);
        let found: Found =
            self.server.ask(Method::POST, &path, Some(json!({ "ids": ids }).to_string())).await?.read()?;
        let (mut pages, mut positions) = (BTreeMap::new(), Positions::new());
        for (page, stand) in found.docs.into_iter().filter_map(|document| document.source.zip(document.stand))
        {
            for Position { node, epoch, through } in page.positions {
                let key = StreamKey { node, epoch: Epoch(epoch), stream: page.stream.clone() };
                positions.insert(key, Sequence(through));
            }
            pages.insert(page.stream, stand);
        }
        Ok((pages, positions))
    }

    fn page_id(&self, stream: &StreamName) -> String {
        format!("{}/{stream}", self.uid)
    }

    fn head_change(&self, head: &Head, stand: Option<Stand>) -> Change {
        Change { id: self.uid.to_owned(), stand, source: json!(head) }
    }

    /// Writes; whoever finds another state has lost the place.
    async fn changed(&self, changes: Vec<Change>) -> Result<Vec<Stand>, Failure> {
        match self.change(changes).await? {
            Changed::All(stands) => Ok(stands),
            Changed::Conflict(why) => {
                Err(Failure::moved(format!("another writer was at `{}`: {why}", self.spec.ledger)))
            }
        }
    }

    async fn change(&self, changes: Vec<Change>) -> Result<Changed, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            items: Vec<BTreeMap<String, Outcome>>,
        }
        #[derive(Deserialize)]
        struct Outcome {
            status: u16,
            #[serde(default)]
            error: Option<Said>,
            #[serde(flatten)]
            stand: Option<Stand>,
        }
        let mut body = String::new();
        for Change { id, stand, source } in &changes {
            let action = match stand {
                None => json!({ "create": { "_id": id } }),
                Some(Stand { seq_no, primary_term }) => {
                    json!({ "index": { "_id": id, "if_seq_no": seq_no, "if_primary_term": primary_term } })
                }
            };
            body.push_str(&format!("{action}\n{source}\n"));
        }
        let failed = |error: HttpError| self.failed(&error);
        let done =
            self.server.plain_bulk(&format!("{}/_bulk", self.spec.ledger), body).await.map_err(failed)?;
        let answer: Answer = done.read().map_err(failed)?;
        let mut stands = vec![];
        for outcome in answer.items.into_iter().flat_map(BTreeMap::into_values) {
            let status = StatusCode::from_u16(outcome.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let reason = outcome.error.unwrap_or_default().text();
            match outcome.stand {
                Some(stand) if status.is_success() => stands.push(stand),
                _ if status == StatusCode::CONFLICT => return Ok(Changed::Conflict(reason)),
                _ => return Err(failed(HttpError::Status { status, reason })),
            }
        }
        match stands.len() == changes.len() {
            true => Ok(Changed::All(stands)),
            false => Err(failed(HttpError::Answer("fewer answers than changes".to_owned()))),
        }
    }

    fn failed(&self, error: &HttpError) -> Failure {
        self.server.words.failure(error)
    }
}
