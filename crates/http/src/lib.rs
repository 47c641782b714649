//! Sinks over HTTP: Elasticsearch and OpenSearch, and servers that take requests with rows.
//!
//! Nothing else in the workspace names `reqwest`.
//!
//! # Elasticsearch and OpenSearch
//! Both speak the same here. They have no transaction, so what is written is made harmless to write again: a document's `_id` is
//! its row's id, and its content never changes.
//! ```text
//!  Group ──► do the keys stand at `after`, and is the place still ours?                 no: moved
//!            each index: there, made, or missing; columns that it does not know get a type
//!            _bulk: `index` under the row's id, some MiB a request, a few at a time     rows that the server does not take
//!            when all are acknowledged: the position documents of the streams, each only if it stands as we left it
//! ```
//! The ledger is an index of small documents (`ledger.rs`): one for each sink, which says who owns the place, and one for each of
//! its streams with the positions. They are read and written by id, which sees the newest state, and changed on condition of
//! `_seq_no`.
//!
//! # HTTP
//! A server that takes requests keeps no ledger for us: it lies on our side ([`aap_sinks::Book`]).
//! ```text
//!  Group ──► note what is about to be sent ──► a request for each slice, named by its range ──► note that it was taken
//! ```
//! After a crash in between the same ranges are sent again under the same `Idempotency-Key`.
//!
//! | file | owns |
//! |---|---|
//! | `elasticsearch.rs` and its folder | [`ElasticsearchSink`], [`ElasticsearchSpec`] |
//! | `requests.rs` and its folder | [`HttpSink`], [`HttpSpec`] |
//! | `client.rs` | requests with deadlines, TLS, logins, compression |
//! | `rows.rs` | rows as JSON, and their ids |
//! | `fail.rs` | what the runner is told of trouble |

mod client;
mod elasticsearch;
mod fail;
mod requests;
mod rows;

pub use client::Compression;
pub use elasticsearch::{ElasticsearchSink, ElasticsearchSpec, IndexName};
pub use requests::{Format, HttpSink, HttpSpec, Verb};
