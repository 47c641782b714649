//! The S3 sink, counted by a reader of Parquet over the objects themselves: against MinIO where there is one, else against a server
//! over a directory in this process, whose connections are cut as if it were killed.

#[path = "../../../crates/lake/tests/support/objects.rs"]
mod objects;
#[path = "../../../crates/lake/tests/support/s3.rs"]
mod server;

use std::thread;

use aap_tests::{Platform, Random, Service, amount};
use objects::Objects;
use server::{ACCESS_KEY, BUCKET, Fault, S3Server, SECRET_KEY};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{Place, apply, assert_each_once, each_once_through_kills, ingest, settles, sink};

pub(crate) struct Store {
    server: Server,
    objects: Objects,
    spec: String,
    _folder: TempDir,
}

enum Server {
    Minio(Service),
    Here(S3Server, Runtime),
}

impl Store {
    /// A prefix of its own in the real server, or a server here.
    pub(crate) fn find(test: &str) -> Self {
        match std::env::var("AAP_TEST_S3").is_ok_and(|address| !address.is_empty()) {
            true => Self::of(Service::find("minio", "minio", "AAP_TEST_S3", test).unwrap(), test),
            false => Self::here(),
        }
    }

    fn here() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = runtime.block_on(S3Server::start(&folder.path().join("server"), None));
        let objects = Objects::Directory(server.bucket().join("lake"));
        let keys = keys(&folder, ACCESS_KEY, SECRET_KEY);
        let spec = format!("url: s3://{BUCKET}/lake, endpoint: '{}', {keys}", server.endpoint());
        Self { server: Server::Here(server, runtime), objects, spec, _folder: folder }
    }

    fn of(service: Service, test: &str) -> Self {
        let told = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let folder = tempfile::tempdir().unwrap();
        let (access, secret) =
            (told("AAP_TEST_S3_ACCESS_KEY").unwrap(), told("AAP_TEST_S3_SECRET_KEY").unwrap());
        let (bucket, ca) = (told("AAP_TEST_S3_BUCKET").unwrap(), told("AAP_TEST_S3_CA"));
        let prefix = format!("it-{}-{}", test.replace(' ', "-"), std::process::id());
        let trust = ca.as_ref().map(|ca| format!(", ca: '{ca}'")).unwrap_or_default();
        let endpoint = service.address.clone();
        let spec = format!(
            "url: s3://{bucket}/{prefix}, endpoint: '{endpoint}', {}{trust}",
            keys(&folder, &access, &secret)
        );
        let objects = Objects::Store { endpoint, keys: format!("{access}:{secret}"), ca, bucket, prefix };
        Self { server: Server::Minio(service), objects, spec, _folder: folder }
    }

    /// Address and keys, as a section of a document has them.
    pub(crate) fn spec(&self) -> &str {
        &self.spec
    }

    fn with(&self, more: &str) -> String {
        format!(
            "apiVersion: aap/v1\nkind: Sink\nmetadata: {{ name: s3 }}\nspec:\n  streams: [events]\n  s3: {{ {}, {more} }}\n",
            self.spec
        )
    }
}

fn keys(folder: &TempDir, access: &str, secret: &str) -> String {
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("access"), access).unwrap();
    std::fs::write(path("secret"), secret).unwrap();
    format!("access_key: 'file:{}', secret_key: 'file:{}'", path("access"), path("secret"))
}

impl Place for Store {
    fn document(&self) -> String {
        // Often, so that many objects are under way when somebody is killed.
        self.with("every: 100ms")
    }

    fn stored(&self) -> (u64, u64, u64) {
        let rows = self.objects.rows("events", &["id"]);
        let mut ids: Vec<u64> = rows.iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect();
        let (rows, sum) = (ids.len() as u64, ids.iter().sum());
        ids.sort_unstable();
        ids.dedup();
        (rows, ids.len() as u64, sum)
    }

    fn kill_and_restart(&self) {
        match &self.server {
            Server::Minio(service) => service.kill_and_restart(),
            Server::Here(server, runtime) => runtime.block_on(async {
                server.kill().await;
                server.revive().await;
            }),
        }
    }
}

#[test]
fn rows_in_an_object_store_are_there_exactly_once_whoever_is_killed() {
    let place = Store::find("s3 kills");
    each_once_through_kills(&place, Platform::new(), "s3");
}

#[test]
fn an_object_that_is_on_its_way_when_somebody_is_killed_is_there_once() {
    const ROWS: u64 = 500;
    let (place, rounds) = (Store::find("s3 commits"), amount("AAP_TEST_SINK_KILLS", 12, 60));
    let platform = Platform::started(&[]);
    apply(&platform, &place.document());
    let mut random = Random::of_test("s3 commits");
    for round in 0..rounds {
        settles("what came before is written", || place.stored().1 == round * ROWS);
        ingest(&platform, round * ROWS, (round + 1) * ROWS);
        // About when its object is made.
        thread::sleep(random.millis(0, 300));
        match round % 3 {
            0 => place.kill_and_restart(),
            _ => drop(platform.kill_and_wait("coordinator")),
        }
    }
    assert_each_once(&platform, &place, "s3", rounds * ROWS);
    let objects = place.objects.parquet().len() as u64;
    assert!(objects >= rounds, "{objects} objects");
}

#[test]
fn an_object_store_that_overwrites_is_refused_until_the_document_allows_it() {
    let place = Store::here();
    let Server::Here(server, _) = &place.server else { unreachable!("it is here") };
    server.fault(Some(Fault::Overwrites));
    let platform = Platform::started(&[]);
    ingest(&platform, 0, 1_000);
    apply(&platform, &place.document());
    settles("it is refused", || sink(&platform, "s3")["state"] == "refused");
    assert_eq!(sink(&platform, "s3")["problem"]["code"], "sink.no_conditional_create");
    assert_eq!(sink(&platform, "s3")["guarantee"], "exactly-once");
    apply(&platform, &place.with("every: 200ms, allow_duplicates: true"));
    assert_each_once(&platform, &place, "s3", 1_000);
    assert_eq!(sink(&platform, "s3")["guarantee"], "at-least-once");
}

/// The harness, over programs whose objects say too little: whoever starts anew writes the last one again.
pub(crate) fn finds_doubled_rows(platform: &Platform) {
    let place = Store::here();
    platform.up(&[]).ok();
    apply(platform, &place.document());
    for from in (0..3_000).step_by(1_000) {
        ingest(platform, from, from + 1_000);
        settles("it is written", || place.stored().1 == from + 1_000);
        platform.kill_and_wait("coordinator");
    }
    settles("the harness finds rows that are there twice", || {
        let (rows, distinct, _) = place.stored();
        rows > distinct && distinct == 3_000
    });
}
