//! The object store in which a lake lies: what a document says about it, and what is asked of it.
//!
//! No name is ever used twice, so whatever is asked can be asked again: a request whose answer was lost has done what the next one
//! would. Every wait has a deadline. An upload that is broken off where it cannot even say so (the process died) leaves parts
//! that nobody sees; stores remove them by a rule of the bucket.
//!
//! Everything here must be driven on the blocking pool: it reads and writes local files between answers.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aap_runtime::{SecretRef, Shutdown};
use aap_types::ByteCount;
use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt, RetryConfig};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::debug;

use crate::Error;
use crate::lake::lock;
use crate::s3::{self, Access, Opened};

/// Copies on the local disk: what a day of queries looks at again and again, on a disk of any server.
const CACHE_DEFAULT: ByteCount = ByteCount::gib(10);
/// Larger objects go in parts: S3 takes none below 5 MiB, and ten thousand of them.
const PART_BYTES: usize = 8 << 20;
/// Parts under way: one is sent while the answer to the other comes.
const PARTS: usize = 2;
/// A question, or the next bytes of an object.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// A part, over a line of 1 Mbit/s.
const PART_DEADLINE: Duration = Duration::from_secs(120);
/// Busy stores answer after a few seconds; whoever asked tries again after that anyway.
const RETRIES: usize = 4;
const RETRY_TIMEOUT: Duration = Duration::from_secs(15);

/// Where the lake of a cluster lies, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LakeStoreSpec {
    /// `s3://BUCKET/PREFIX`, or `file:///DIRECTORY` for a directory that all coordinators see. Nothing else may lie there.
    pub url: String,
    /// The address of a store that is not AWS, as in `https://minio.example.org:9000`. Default: AWS in the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Default: `us-east-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Who we are. Default: the role of the machine, on AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_key: Option<SecretRef>,
    /// And how we prove it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<SecretRef>,
    /// With keys that are lent for a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<SecretRef>,
    /// A PEM file with the authorities that signed the certificate of the store. Default: those of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Utf8PathBuf>,
    /// Whether the bucket stands in the path rather than in the host's name. Default: with an `endpoint`, and where the bucket's
    /// name has a dot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// Takes an `endpoint` that is not encrypted and not on this machine. Default: no.
    #[serde(default)]
    pub insecure: bool,
    /// Most bytes of files that are kept on the local disk for queries, beyond those that queries use at the moment. Default: 10 GiB.
    #[serde(default = "cache")]
    pub cache: ByteCount,
}

fn cache() -> ByteCount {
    CACHE_DEFAULT
}

impl LakeStoreSpec {
    /// Every secret that it refers to, to be resolved before it connects.
    pub fn secrets(&self) -> Vec<SecretRef> {
        [&self.access_key, &self.secret_key, &self.session_token].into_iter().flatten().cloned().collect()
    }

    /// Where it is, without anything secret.
    pub fn place(&self) -> String {
        self.access().place()
    }

    /// Looks at what no single field can know.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn check(&self) -> Result<(), String> {
        self.access().check()
    }

    /// A client of it. Reads keys and authorities, but asks nothing of the store yet. Blocks for small files.
    ///
    /// # Errors
    /// What is wrong with the document, or with a file that it names.
    pub fn open(&self) -> Result<LakeObjects, Error> {
        let opened = Some(Arc::new(self.client()?));
        let (place, cache_bytes) = (self.place(), self.cache.0);
        let inner = Inner { spec: Some(self.clone()), place, cache_bytes, opened: Mutex::new(opened) };
        Ok(LakeObjects { inner: Arc::new(inner), stop: Shutdown::default() })
    }

    fn client(&self) -> Result<Opened, Error> {
        let retry =
            RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
        let failed = |source| Error::Open { place: self.place(), source: Box::new(source) };
        s3::open(&self.access(), retry).map_err(failed)
    }

    fn access(&self) -> Access<'_> {
        Access {
            url: &self.url,
            endpoint: self.endpoint.as_deref(),
            region: self.region.as_deref(),
            access_key: self.access_key.as_ref(),
            secret_key: self.secret_key.as_ref(),
            session_token: self.session_token.as_ref(),
            ca: self.ca.as_deref(),
            path_style: self.path_style,
            insecure: self.insecure,
        }
    }
}

/// The objects of a lake in a store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LakeObjects {
    inner: Arc<Inner>,
    stop: Shutdown,
}

#[derive(Debug)]
struct Inner {
    /// From which the client is made anew when its keys are refused: they are changed under a running daemon.
    spec: Option<LakeStoreSpec>,
    place: String,
    cache_bytes: u64,
    opened: Mutex<Option<Arc<Opened>>>,
}

impl LakeObjects {
    /// Objects of a store without a document.
    #[cfg(test)]
    pub(crate) fn over(objects: Arc<dyn object_store::ObjectStore>, cache_bytes: u64) -> Self {
        let opened = Opened { objects, prefix: Path::from("a/lake"), is_ordered: true };
        let opened = Mutex::new(Some(Arc::new(opened)));
        let inner = Inner { spec: None, place: "memory".to_owned(), cache_bytes, opened };
        Self { inner: Arc::new(inner), stop: Shutdown::default() }
    }

    /// The same, until [`Self::stop`].
    pub(crate) fn until_stop(self) -> Self {
        Self { stop: Shutdown::default(), ..self }
    }

    /// Ends whatever is under way, and all that begins later, with an error.
    pub(crate) fn stop(&self) {
        self.stop.request();
    }

    /// Where they are, without anything secret.
    pub fn place(&self) -> &str {
        &self.inner.place
    }

    /// The url of an object.
    pub(crate) fn url(&self, path: &str) -> String {
        let root = self.inner.spec.as_ref().map_or(self.inner.place.as_str(), |spec| spec.url.as_str());
        format!("{}/{path}", root.trim_end_matches('/'))
    }

    /// Most bytes of local copies.
    pub(crate) fn cache_bytes(&self) -> u64 {
        self.inner.cache_bytes
    }

    /// Creates an object.
    pub(crate) async fn put(&self, path: &str, bytes: Bytes) -> Result<(), Error> {
        let opened = self.opened()?;
        let place = at(&opened, path);
        self.ask("write", path, PART_DEADLINE, opened.objects.put(&place, bytes.into())).await?;
        Ok(())
    }

    /// Creates an object from the next `size` bytes of a file.
    pub(crate) async fn put_file(&self, path: &str, file: &mut File, size: u64) -> Result<(), Error> {
        if size <= PART_BYTES as u64 {
            return self.put(path, next_part(path, file, size)?).await;
        }
        let opened = self.opened()?;
        let place = at(&opened, path);
        let begun = opened.objects.put_multipart(&place);
        let mut upload = self.ask("begin to write", path, ANSWER_DEADLINE, begun).await?;
        let put = self.put_parts(path, upload.as_mut(), file, size).await;
        if put.is_err()
            && let Err(error) = self.ask("give up writing", path, ANSWER_DEADLINE, upload.abort()).await
        {
            debug!(%path, %error, "an upload was not taken back");
        }
        put
    }

    async fn put_parts(
        &self,
        path: &str,
        upload: &mut dyn MultipartUpload,
        file: &mut File,
        size: u64,
    ) -> Result<(), Error> {
        let mut left = size;
        let mut under_way = FuturesUnordered::new();
        loop {
            while left > 0 && under_way.len() < PARTS {
                let part = next_part(path, file, left)?;
                left -= part.len() as u64;
                let put = upload.put_part(part.into());
                under_way.push(self.ask("write", path, PART_DEADLINE, put));
            }
            match under_way.next().await {
                Some(put) => put?,
                None => break,
            }
        }
        self.ask("end", path, ANSWER_DEADLINE, upload.complete()).await?;
        Ok(())
    }

    /// A small object.
    pub(crate) async fn get(&self, path: &str) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![];
        self.get_into(path, &mut bytes).await?;
        Ok(bytes)
    }

    /// Writes an object to `to`. Returns its size.
    pub(crate) async fn get_into(&self, path: &str, to: &mut impl Write) -> Result<u64, Error> {
        let opened = self.opened()?;
        let place = at(&opened, path);
        let got = match self.ask("read", path, ANSWER_DEADLINE, opened.objects.get(&place)).await {
            Err(Error::Object { source: source @ object_store::Error::NotFound { .. }, path, .. }) => {
                return Err(Error::Gone { path, source });
            }
            got => got?,
        };
        let mut bytes = got.into_stream();
        let mut size = 0;
        loop {
            let next = async { bytes.next().await.transpose() };
            let Some(next) = self.ask("read", path, ANSWER_DEADLINE, next).await? else { return Ok(size) };
            to.write_all(&next).map_err(Error::file("keep a copy of", Utf8Path::new(path)))?;
            size += next.len() as u64;
        }
    }

    /// Removes an object. One that is not there is removed.
    pub(crate) async fn delete(&self, path: &str) -> Result<(), Error> {
        let opened = self.opened()?;
        let place = at(&opened, path);
        match self.ask("remove", path, ANSWER_DEADLINE, opened.objects.delete(&place)).await {
            Err(Error::Object { source: object_store::Error::NotFound { .. }, .. }) => Ok(()),
            deleted => deleted,
        }
    }

    /// Names of the objects in a folder and those below it, relative to the lake's root; of the whole lake if `None`.
    pub(crate) async fn list(&self, folder: Option<&str>) -> Result<Vec<String>, Error> {
        let opened = self.opened()?;
        let below = folder.map_or_else(|| opened.prefix.clone(), |folder| at(&opened, folder));
        let name = folder.unwrap_or_default();
        let mut listed = opened.objects.list(Some(&below));
        let mut found = vec![];
        loop {
            let next = async { listed.next().await.transpose() };
            let Some(next) = self.ask("list", name, ANSWER_DEADLINE, next).await? else { return Ok(found) };
            let Some(parts) = next.location.prefix_match(&opened.prefix) else { continue };
            found.push(parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"));
        }
    }

    fn opened(&self) -> Result<Arc<Opened>, Error> {
        let mut opened = lock(&self.inner.opened);
        if let (None, Some(spec)) = (&*opened, &self.inner.spec) {
            *opened = Some(Arc::new(spec.client()?));
        }
        let closed = || Error::Open { place: self.inner.place.clone(), source: "it was closed".into() };
        opened.clone().ok_or_else(closed)
    }

    async fn ask<T>(
        &self,
        doing: &'static str,
        path: &str,
        deadline: Duration,
        asked: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Error> {
        use object_store::Error as E;
        let answered = tokio::select! {
            biased;
            () = self.stop.requested() => return Err(Error::Stopping { doing, path: path.to_owned() }),
            answered = timeout(deadline, asked) => answered,
        };
        match answered {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => {
                let is_refused = matches!(source, E::PermissionDenied { .. } | E::Unauthenticated { .. });
                if is_refused && self.inner.spec.is_some() {
                    *lock(&self.inner.opened) = None;
                }
                Err(Error::Object { doing, path: path.to_owned(), source })
            }
            Err(_late) => Err(Error::Late { doing, path: path.to_owned(), deadline }),
        }
    }
}

/// The name of an object in its store.
fn at(opened: &Opened, path: &str) -> Path {
    path.split('/').fold(opened.prefix.clone(), |folder, part| folder.join(part))
}

/// The next bytes of a file that has `left` of them.
fn next_part(path: &str, file: &mut File, left: u64) -> Result<Bytes, Error> {
    let size = usize::try_from(left).unwrap_or(PART_BYTES).min(PART_BYTES);
    let mut bytes = vec![0; size];
    file.read_exact(&mut bytes).map_err(Error::file("read back", Utf8Path::new(path)))?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let found = match serde_json::from_str::<LakeStoreSpec>(text) {
            Ok(spec) => spec.check().err().unwrap_or_else(|| format!("{} {}", spec.place(), spec.cache.0)),
            Err(error) => error.to_string(),
        };
        assert!(found.contains(expected), "{text}: {found}");
    }

    #[test]
    fn a_document_about_the_store_says_where_it_is_and_what_is_wrong() {
        check(r#"{"url": "s3://b/lake"}"#, "s3://b/lake 10737418240");
        check(r#"{"url": "file:///mnt/lake", "cache": "1GiB"}"#, "file:///mnt/lake 1073741824");
        check(
            r#"{"url": "s3://b", "endpoint": "https://s:9000", "access_key": "env:A", "secret_key": "file:/s"}"#,
            "s3://b at https://s:9000",
        );
        check(r#"{"url": "b/lake"}"#, "`url` is `s3://BUCKET/PREFIX`");
        check(r#"{"url": "s3://b", "endpoint": "https://s"}"#, "needs an `access_key`");
        check(r#"{"url": "s3://b", "every": "1s"}"#, "unknown field `every`");
        check(r#"{}"#, "missing field `url`");
    }
}
