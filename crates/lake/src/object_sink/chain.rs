//! The objects of a sink: their names, the last of each stream, and the next, which only one writer can create.

use std::sync::Arc;
use std::time::Duration;

use aap_sinks::Positions;
use aap_types::StreamName;
use bytes::Bytes;
use futures::future::ready;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use super::footer::{self, Footer};

/// A question: a page of names, or a footer.
const READ_DEADLINE: Duration = Duration::from_secs(30);
/// An object: the largest group over a line of 5 Mbit/s.
const WRITE_DEADLINE: Duration = Duration::from_secs(120);
/// Names that one question brings: what S3 answers at most.
const PAGE: usize = 1000;
/// Read of the end of an object at first: most footers are shorter.
const FOOTER_GUESS: u64 = 64 << 10;
/// Streams that are asked for at a time.
const QUESTIONS: usize = 16;
/// Digits of a number: an object a millisecond would need thirty years for more.
const DIGITS: usize = 12;
/// Digits of the uid in a name: what tells the sinks of one place apart.
const UID_DIGITS: usize = 8;
/// What is created to see whether the store refuses to do it twice.
const TEST_OBJECT: [&str; 2] = ["_aap", "create-twice.txt"];
const TEST_TEXT: &str =
    "Sinks of AAP create this object again at each start, to see that the store refuses to overwrite it.\n";

/// The chains of one sink in a store.
#[derive(Debug)]
pub(super) struct Chains {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) prefix: Path,
    pub(super) uid: String,
    /// Whether names come in their order when they are listed.
    pub(super) is_ordered: bool,
    /// Whether an object is created only where none of its name is.
    pub(super) is_conditional: bool,
}

/// The last object of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Link {
    /// 0 before the first.
    pub(super) number: u64,
    /// Of all keys of the stream.
    pub(super) positions: Positions,
}

/// An object that is to follow.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) stream: StreamName,
    pub(super) link: Link,
    pub(super) attempt: String,
    pub(super) bytes: Bytes,
}

/// Whether an object was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Appended {
    Yes,
    /// Another writer had its number.
    Taken,
}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("the store does not do it")]
    Store(#[source] object_store::Error),
    #[error("no answer within {s} s", s = .0.as_secs())]
    Late(Duration),
    /// An object where ours should be, which is none of ours.
    #[error("`{path}` is none of this sink's objects: {why}")]
    Foreign { path: String, why: String },
    /// The test object was created twice.
    #[error("the store created `{path}` twice, though it was asked not to overwrite")]
    Overwrites { path: String },
}

impl Chains {
    /// Creates an object twice: the second time must be refused. Leaves it there.
    pub(super) async fn test_create(&self) -> Result<(), StoreError> {
        let path = TEST_OBJECT.iter().fold(self.prefix.clone(), |path, part| path.join(*part));
        for _ in 0..2 {
            let text = PutPayload::from_static(TEST_TEXT.as_bytes());
            let created = self.objects.put_opts(&path, text, PutMode::Create.into());
            match within(READ_DEADLINE, created).await {
                Ok(_) => {}
                Err(StoreError::Store(object_store::Error::AlreadyExists { .. })) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Overwrites { path: path.to_string() })
    }

    /// The last object of every stream that has one.
    pub(super) async fn all(&self) -> Result<Vec<(StreamName, Link)>, StoreError> {
        let folders = within(READ_DEADLINE, self.objects.list_with_delimiter(Some(&self.prefix)))
            .await?
            .common_prefixes;
        // Whatever else lies there has a name that no stream has, or no objects of ours.
        let streams: Vec<StreamName> =
            folders.iter().filter_map(|folder| folder.filename()?.parse().ok()).collect();
        let links = futures::stream::iter(streams).map(|stream| async move {
            let link = self.last(&stream).await?;
            Ok::<_, StoreError>(link.map(|link| (stream, link)))
        });
        links.buffer_unordered(QUESTIONS).try_filter_map(|found| ready(Ok(found))).try_collect().await
    }

    async fn last(&self, stream: &StreamName) -> Result<Option<Link>, StoreError> {
        let Some((number, Found { path, size })) = self.last_found(stream).await? else { return Ok(None) };
        let footer = self.footer(stream, &path, size).await?;
        Ok(Some(Link { number, positions: footer.positions }))
    }

    /// The object with the highest number. A stream may have millions, of which the first may be gone: so the end is found by
    /// strides that double, and then by halves. Few streams need more than one question.
    pub(super) async fn last_found(&self, stream: &StreamName) -> Result<Option<(u64, Found)>, StoreError> {
        let page = self.page(stream, 0).await?;
        let Some(mut last) = page.last() else { return Ok(None) };
        if page.is_whole {
            return Ok(Some(last));
        }
        // No object has this number or a higher one, once that is known.
        let mut beyond = None;
        let mut stride = PAGE as u64;
        loop {
            let probe = match beyond {
                None => last.0 + stride,
                Some(beyond) if beyond - last.0 <= 1 => return Ok(Some(last)),
                Some(beyond) => last.0 + (beyond - last.0) / 2,
            };
            let page = self.page(stream, probe).await?;
            match page.last() {
                None => beyond = Some(probe),
                Some(found) if page.is_whole => return Ok(Some(found)),
                Some(found) => (last, stride) = (found, 2 * stride),
            }
        }
    }

    /// Objects of a stream with this number and higher ones.
    async fn page(&self, stream: &StreamName, from: u64) -> Result<Page, StoreError> {
        let (folder, family) = (self.prefix.clone().join(stream.as_str()), self.family());
        // Every name with this number is longer, and so comes after this.
        let before = folder.clone().join(format!("{family}{from:0DIGITS$}").as_str());
        let found = self.objects.list_with_offset(Some(&folder), &before);
        let found = found.map_ok(|found| Found { path: found.location, size: found.size });
        let is_ours = |found: &Found| found.path.filename().is_some_and(|name| name.starts_with(&family));
        let listing = async {
            match self.is_ordered {
                // The names of other sinks are not looked through.
                true => {
                    let ours = found.try_take_while(|found| ready(Ok(is_ours(found))));
                    ours.take(PAGE).try_collect::<Vec<Found>>().await
                }
                false => found.try_filter(|found| ready(is_ours(found))).try_collect::<Vec<Found>>().await,
            }
        };
        let found = within(READ_DEADLINE, listing).await?;
        let is_whole = found.len() < PAGE || !self.is_ordered;
        let numbered = found.into_iter().filter_map(|found| Some((self.number(&found.path)?, found)));
        Ok(Page { numbered: numbered.collect(), is_whole })
    }

    /// How the names of this sink's objects begin.
    fn family(&self) -> String {
        format!("{}-", &self.uid[..UID_DIGITS.min(self.uid.len())])
    }

    fn number(&self, path: &Path) -> Option<u64> {
        let name = path.filename()?.strip_suffix(".parquet")?.strip_prefix(&self.family())?;
        name.get(..DIGITS)?.parse().ok()
    }

    /// The name of an object. Where a store would overwrite, each attempt has a name of its own: two writers would destroy each
    /// other's rows otherwise.
    fn path(&self, stream: &StreamName, number: u64, attempt: &str) -> Path {
        let family = self.family();
        let name = match self.is_conditional {
            true => format!("{family}{number:0DIGITS$}.parquet"),
            false => format!("{family}{number:0DIGITS$}-{attempt}.parquet"),
        };
        self.prefix.clone().join(stream.as_str()).join(name.as_str())
    }

    /// What an object of this size says about itself.
    async fn footer(&self, stream: &StreamName, path: &Path, size: u64) -> Result<Footer, StoreError> {
        let foreign = |why: String| StoreError::Foreign { path: path.to_string(), why };
        let mut end = self.end(path, size, FOOTER_GUESS).await?;
        let length = footer::length(&end).map_err(foreign)?;
        if length > end.len() {
            end = self.end(path, size, length as u64).await?;
        }
        let begin = end.len().checked_sub(length);
        let begin = begin.ok_or_else(|| foreign("its footer is longer than it is".to_owned()))?;
        let footer = Footer::read(&end[begin..], stream).map_err(foreign)?;
        match footer.sink == self.uid {
            true => Ok(footer),
            false => Err(foreign(format!("it was written by the sink with the uid {}", footer.sink))),
        }
    }

    /// The last bytes of an object, as many as it has.
    async fn end(&self, path: &Path, size: u64, bytes: u64) -> Result<Bytes, StoreError> {
        match size {
            0 => Ok(Bytes::new()),
            _ => {
                let range = size.saturating_sub(bytes)..size;
                within(READ_DEADLINE, self.objects.get_range(path, range)).await
            }
        }
    }

    /// Adds an object, unless another one has its number. If its answer is lost, the object itself is asked.
    pub(super) async fn append(&self, next: &Next) -> Result<Appended, StoreError> {
        let path = self.path(&next.stream, next.link.number, &next.attempt);
        let mode = if self.is_conditional { PutMode::Create } else { PutMode::Overwrite };
        let put = self.objects.put_opts(&path, next.bytes.clone().into(), mode.into());
        let Err(error) = within(WRITE_DEADLINE, put).await else { return Ok(Appended::Yes) };
        if !error.leaves_doubt() {
            return Err(error);
        }
        let looked = async {
            let size = within(READ_DEADLINE, self.objects.head(&path)).await?.size;
            self.footer(&next.stream, &path, size).await
        };
        match looked.await {
            Ok(footer) if footer.attempt == next.attempt => Ok(Appended::Yes),
            Ok(_) | Err(StoreError::Foreign { .. }) if self.is_conditional => Ok(Appended::Taken),
            // It is not there, or that cannot be told either.
            _ => Err(error),
        }
    }
}

/// An object that was listed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    path: Path,
    /// In bytes.
    size: u64,
}

/// Objects that were listed.
struct Page {
    numbered: Vec<(u64, Found)>,
    /// Whether no other name comes after them.
    is_whole: bool,
}

impl Page {
    fn last(&self) -> Option<(u64, Found)> {
        self.numbered.iter().max().cloned()
    }
}

impl StoreError {
    /// Whether an object may be there all the same.
    fn leaves_doubt(&self) -> bool {
        use object_store::Error as E;
        match self {
            Self::Store(error) => !matches!(
                error,
                E::PermissionDenied { .. }
                    | E::Unauthenticated { .. }
                    | E::NotFound { .. }
                    | E::NotImplemented { .. }
            ),
            Self::Late(_) => true,
            Self::Foreign { .. } | Self::Overwrites { .. } => false,
        }
    }
}

async fn within<T>(
    deadline: Duration,
    doing: impl Future<Output = object_store::Result<T>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(deadline, doing).await {
        Ok(done) => done.map_err(StoreError::Store),
        Err(_late) => Err(StoreError::Late(deadline)),
    }
}
