//! A place for one test: a bucket of a server in this process, a directory, or a bucket of a real MinIO.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "helpers of tests are tests too, and each binary uses another part of them"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use aap_lake::{S3Sink, S3Spec};
use aap_sinks::conformance::{Server, Stored};
use aap_sinks::{Sink, Target};
use bytes::Bytes;
use futures::future::BoxFuture;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use crate::objects::Objects;
use crate::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};

/// Which sink a test writes with.
pub(crate) const UID: &str = "0123456789abcdef0123456789abcdef";

/// Where a test writes.
pub(crate) struct Place {
    pub(crate) server: Option<S3Server>,
    pub(crate) objects: Objects,
    spec: Value,
    is_minio: bool,
    folder: TempDir,
}

impl Place {
    /// A server in this process.
    pub(crate) async fn new() -> Self {
        Self::with(None).await
    }

    /// The same, with a certificate that `ca.pem` beside this file signed.
    pub(crate) async fn encrypted() -> Self {
        let certificate = CertificateDer::from_pem_file(support("server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(support("server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        Self::with(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn with(tls: Option<TlsAcceptor>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = S3Server::start(&folder.path().join("server"), tls).await;
        let objects = Objects::Directory(server.bucket().join("some/prefix"));
        let spec = json!({
            "url": format!("s3://{BUCKET}/some/prefix"),
            "endpoint": server.endpoint(),
            "access_key": secret(&folder, "access", ACCESS_KEY),
            "secret_key": secret(&folder, "secret", SECRET_KEY),
        });
        Self { server: Some(server), objects, spec, is_minio: false, folder }
    }

    /// A directory.
    pub(crate) fn directory() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let objects = Objects::Directory(folder.path().to_owned());
        let spec = json!({ "url": format!("file://{}", folder.path().display()) });
        Self { server: None, objects, spec, is_minio: false, folder }
    }

    /// A real MinIO. `None`, with a line that says so, where there is none.
    pub(crate) fn minio(test: &str) -> Option<Self> {
        let told = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let Some(endpoint) = told("AAP_TEST_S3") else {
            let required = std::env::var("AAP_TEST_SERVICES_REQUIRED").unwrap_or_default();
            assert!(!required.contains("minio"), "{test}: no MinIO (AAP_TEST_S3), and it is required");
            println!("skipped: {test}: no MinIO (AAP_TEST_S3)");
            return None;
        };
        let (access, secret_key) =
            (told("AAP_TEST_S3_ACCESS_KEY").unwrap(), told("AAP_TEST_S3_SECRET_KEY").unwrap());
        let (bucket, ca) = (told("AAP_TEST_S3_BUCKET").unwrap(), told("AAP_TEST_S3_CA"));
        let prefix = format!("{test}-{}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        let mut spec = json!({
            "url": format!("s3://{bucket}/{prefix}"),
            "endpoint": endpoint,
            "access_key": secret(&folder, "access", &access),
            "secret_key": secret(&folder, "secret", &secret_key),
        });
        if let Some(ca) = &ca {
            spec["ca"] = ca.as_str().into();
        }
        let keys = format!("{access}:{secret_key}");
        let objects = Objects::Store { endpoint, keys, ca, bucket, prefix };
        Some(Self { server: None, objects, spec, is_minio: true, folder })
    }

    /// The server in this process.
    pub(crate) fn server(&self) -> &S3Server {
        self.server.as_ref().unwrap()
    }

    /// An instance of the sink, with a document changed by `more`.
    pub(crate) fn sink(&self, more: Value) -> S3Sink {
        self.sink_named(UID, more)
    }

    /// The same for a sink of another identity.
    pub(crate) fn sink_named(&self, uid: &str, more: Value) -> S3Sink {
        let mut spec = self.spec.clone();
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let spec: S3Spec = serde_json::from_value(spec).unwrap();
        S3Sink::new(Target { name: "archive".into(), uid: uid.into() }, spec)
    }

    /// A reference to a secret that this test makes.
    pub(crate) fn secret(&self, name: &str, text: &str) -> String {
        secret(&self.folder, name, text)
    }

    /// Where a file for this test may lie.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The plainest client there is: puts objects under these names, one after the other over one connection.
    pub(crate) fn put_by_curl(&self, objects: impl Iterator<Item = (String, Bytes)>) {
        let read = |name: &str| std::fs::read_to_string(self.file(name)).unwrap();
        let (endpoint, url) = (self.spec["endpoint"].as_str().unwrap(), self.spec["url"].as_str().unwrap());
        let place = url.strip_prefix("s3://").unwrap();
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail", "--aws-sigv4", "aws:amz:us-east-1:s3"]);
        command.args(["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]);
        command.args(["--user", &format!("{}:{}", read("access"), read("secret"))]);
        if let Some(ca) = self.spec["ca"].as_str() {
            command.args(["--cacert", ca]);
        }
        for (name, bytes) in objects {
            let path = self.file(&name.replace('/', "-"));
            std::fs::write(&path, &bytes).unwrap();
            command.arg("-T").arg(path).arg(format!("{endpoint}/{place}/{name}"));
        }
        let output = command.output().expect("curl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Rows of the stream of the suite.
    pub(crate) fn stored(&self) -> Vec<Stored> {
        let rows = self.objects.rows("events", &["_node", "_epoch", "_seq", "_row", "n"]);
        let number = |text: &Option<String>| text.as_ref().unwrap().parse::<u64>().unwrap();
        let stored = rows.iter().map(|row| Stored {
            node: row[0].clone().unwrap(),
            epoch: number(&row[1]),
            seq: number(&row[2]),
            row: number(&row[3]),
            n: number(&row[4]) as i64,
        });
        stored.collect()
    }

    pub(crate) async fn restart(&self) {
        if let Some(server) = &self.server {
            server.kill().await;
            server.revive().await;
        }
        if self.is_minio {
            run_script("fault", &["minio", "KILL"]);
            run_script("minio.sh", &["start"]);
        }
    }
}

fn run_script(script: &str, arguments: &[&str]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/services").join(script);
    let output = Command::new(path).args(arguments).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A file beside this one.
pub(crate) fn support(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(name)
}

fn secret(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    format!("file:{}", path.display())
}

/// The suite over a place, with a document changed by something.
pub(crate) struct Suite(pub(crate) Place, pub(crate) Value);

impl Server for Suite {
    fn sink(&self) -> Box<dyn Sink> {
        Box::new(self.0.sink(self.1.clone()))
    }

    fn stored(&self) -> BoxFuture<'_, Vec<Stored>> {
        Box::pin(async { self.0.stored() })
    }

    fn restart(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.0.restart())
    }
}
