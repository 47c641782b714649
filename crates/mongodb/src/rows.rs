//! Documents into collections, and what the server says of each.

use std::collections::HashSet;

use aap_sinks::BadRow;
use futures::TryStreamExt;
use mongodb::bson::{RawDocumentBuf, doc};
use mongodb::error::{ErrorKind, IndexedWriteError};
use mongodb::results::CollectionType;

use crate::documents::Ready;
use crate::fail::{DUPLICATE_KEY, MongoError, passes};
use crate::link::{Link, within};

/// Documents in a command: enough that waiting for the majority does not count, and few enough that a server which looks at each
/// document by itself, as all do where some are there already, answers in time.
const DOCUMENTS_AT_A_TIME: usize = 1_000;

/// Why a collection cannot be one for rows; nothing where it can, or would be made.
pub(crate) async fn unfit(link: &Link, collection: &str) -> Result<Option<&'static str>, MongoError> {
    let named = doc! { "name": collection };
    let found = within(async { link.database().list_collections().filter(named).await?.try_collect().await });
    let found: Vec<mongodb::results::CollectionSpecification> = found.await?;
    Ok(found.first().and_then(|found| match found.collection_type {
        CollectionType::Timeseries => {
            Some("a time series, which keeps no `_id` unique: rows could stand there twice")
        }
        CollectionType::View => Some("a view: nothing can be written there"),
        _ => None,
    }))
}

/// Inserts documents, those that are there already included. The rows that the server will never take; all others are
/// acknowledged.
pub(crate) async fn insert(
    link: &Link,
    collection: &str,
    ready: &[Ready],
) -> Result<Vec<BadRow>, MongoError> {
    let mut bad = vec![];
    for some in ready.chunks(DOCUMENTS_AT_A_TIME) {
        let refused = insert_some(link, collection, some).await?;
        bad.extend(refused_rows(link, collection, some, refused).await?);
    }
    Ok(bad)
}

/// What the server refused.
async fn insert_some(
    link: &Link,
    collection: &str,
    ready: &[Ready],
) -> Result<Vec<IndexedWriteError>, MongoError> {
    let target = link.collection(collection);
    let documents = ready.iter().map(|ready| &ready.document);
    let error = match within(target.insert_many(documents).ordered(false)).await {
        Ok(_inserted) => return Ok(vec![]),
        Err(error) => error,
    };
    let MongoError::Driver(driver) = &error else { return Err(error) };
    let ErrorKind::InsertMany(failure) = driver.kind.as_ref() else { return Err(error) };
    if let Some(concern) = &failure.write_concern_error {
        return Err(MongoError::Server { code: concern.code, message: concern.message.clone() });
    }
    let refused = failure.write_errors.clone().unwrap_or_default();
    match refused.iter().find(|refused| passes(refused.code)) {
        Some(IndexedWriteError { code, message, .. }) => {
            Err(MongoError::Server { code: *code, message: message.clone() })
        }
        None if refused.is_empty() => Err(error),
        None => Ok(refused),
    }
}

/// Those of the refused documents that are not there.
async fn refused_rows(
    link: &Link,
    collection: &str,
    ready: &[Ready],
    refused: Vec<IndexedWriteError>,
) -> Result<Vec<BadRow>, MongoError> {
    let refused: Vec<(&Ready, IndexedWriteError)> =
        refused.into_iter().filter_map(|error| Some((ready.get(error.index)?, error))).collect();
    let doubled = refused.iter().filter(|(_, error)| error.code == DUPLICATE_KEY);
    let there = there(link, collection, doubled.map(|(ready, _)| ready.id()).collect()).await?;
    let bad = refused.into_iter().filter(|(ready, _)| !there.contains(ready.id()));
    Ok(bad.map(|(ready, error)| ready.bad(error.message)).collect())
}

/// Which of these ids the collection has. A duplicate key may be one of another index, and servers differ in how they say
/// which.
async fn there(link: &Link, collection: &str, ids: Vec<&str>) -> Result<HashSet<String>, MongoError> {
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let target = link.collection(collection);
    let found = within(async {
        let ids = doc! { "_id": { "$in": ids } };
        target.find(ids).projection(doc! { "_id": 1 }).await?.try_collect::<Vec<RawDocumentBuf>>().await
    });
    let id = |document: &RawDocumentBuf| document.get_str("_id").map(str::to_owned);
    let ids: Result<_, _> = found.await?.iter().map(id).collect();
    ids.map_err(|error| MongoError::Answer(error.to_string()))
}
