//! Elasticsearch and OpenSearch.

mod bulk;
mod index;
mod ledger;
mod server;
mod sink;
mod spec;

pub use sink::ElasticsearchSink;
pub use spec::{ElasticsearchSpec, IndexName};
