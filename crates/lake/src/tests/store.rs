//! A lake in an object store: what trouble with it costs, and its copies on the local disk.

use super::cluster::next_random;
use super::s3::{ACCESS_KEY, BUCKET, Fault, S3Server, SECRET_KEY};
use super::*;
use crate::LakeStoreSpec;

/// A server, and documents about it.
struct Server {
    s3: S3Server,
    folder: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let s3 = S3Server::start(&folder.path().join("server"), None).await;
        let server = Self { s3, folder };
        server.secret("access", ACCESS_KEY);
        server.secret("secret", SECRET_KEY);
        server
    }

    fn secret(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        format!("file:{}", path.display())
    }

    fn objects(&self, cache: u64) -> LakeObjects {
        self.objects_at(&self.s3.endpoint(), cache)
    }

    fn objects_at(&self, endpoint: &str, cache: u64) -> LakeObjects {
        let at = |name: &str| format!("file:{}", self.folder.path().join(name).display());
        let spec = serde_json::json!({
            "url": format!("s3://{BUCKET}/a/lake"),
            "endpoint": endpoint,
            "access_key": at("access"),
            "secret_key": at("secret"),
            "cache": cache,
        });
        serde_json::from_value::<LakeStoreSpec>(spec).unwrap().open().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_delays_everything_and_costs_nothing() {
    let server = Server::start().await;
    let rig = Rig::over(Some(server.objects(TINY_CACHE)), LakeConfig::default()).await;
    let logs = key("n1", "logs");
    rig.land(&logs, 1, rows(0)).await;
    rig.lake.load_all().await.unwrap();
    rig.land(&logs, 2, rows(0)).await;

    server.s3.kill().await;
    let mut passes = Passes::default();
    rig.pass(&mut passes).await;
    let problem = rig.lake.problem().unwrap();
    assert!(problem.contains("stream `logs`: write `logs/date="), "{problem}");
    assert!(fetch(&rig.lake, &rig.files()).is_err(), "there is no copy, and nobody to ask");
    assert_eq!(rig.buffer.cursor(CONSUMER, &logs), Sequence(1), "nothing may be reclaimed yet");

    server.s3.revive().await;
    rig.clock.advance(Duration::from_secs(10));
    rig.pass(&mut passes).await;
    assert_eq!(rig.lake.problem(), None);
    assert_eq!(rig.files().len(), 2);
    check_once(&rig.visible("logs"), &expected(&["n1"], 1..=2));
    assert_eq!(rig.on_disk(), rig.visible_files());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_the_store_does_not_take_only_delays_what_follows_a_commit() {
    let server = Server::start().await;
    let rig = Rig::over(Some(server.objects(TINY_CACHE)), LakeConfig::default()).await;
    let logs = key("n1", "logs");
    rig.land(&logs, 1, rows(0)).await;
    // The file is taken, and so is the commit.
    rig.store.fault.store(AFTER_COMMIT, Ordering::SeqCst);
    assert!(rig.lake.load_all().await.is_err());
    rig.store.fault.store(NONE, Ordering::SeqCst);
    server.s3.fault(Some(Fault::Answers(403, "AccessDenied")));
    assert!(rig.lake.load_all().await.is_err());
    assert_eq!(rig.buffer.cursor(CONSUMER, &logs), Sequence::ZERO);
    server.s3.fault(None);
    rig.pass(&mut Passes::default()).await;
    assert_eq!((rig.lake.problem(), rig.buffer.cursor(CONSUMER, &logs)), (None, Sequence(1)));
    check_once(&rig.visible("logs"), &expected(&["n1"], 1..=1));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_read_again_when_the_store_refuses_them() {
    let server = Server::start().await;
    let rig = Rig::over(Some(server.objects(TINY_CACHE)), LakeConfig::default()).await;
    rig.land(&key("n1", "logs"), 1, rows(0)).await;
    server.s3.fault(Some(Fault::Answers(403, "ExpiredToken")));
    assert!(rig.lake.load_all().await.is_err());
    server.s3.fault(None);
    server.secret("secret", "another one");
    let refused = rig.lake.load_all().await.unwrap_err();
    assert!(crate::lake::chain(&refused).contains("SignatureDoesNotMatch"), "{refused:?}");
    server.secret("secret", SECRET_KEY);
    rig.lake.load_all().await.unwrap();
    check_once(&rig.visible("logs"), &expected(&["n1"], 1..=1));
}

/// A prefix of a real MinIO. `None`, with a line that says so, where there is none.
fn minio(folder: &tempfile::TempDir) -> Option<LakeObjects> {
    let told = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let Some(endpoint) = told("AAP_TEST_S3") else {
        let required = std::env::var("AAP_TEST_SERVICES_REQUIRED").unwrap_or_default();
        assert!(!required.contains("minio"), "no MinIO (AAP_TEST_S3), and it is required");
        println!("skipped: no MinIO (AAP_TEST_S3)");
        return None;
    };
    let secret = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, told(name).unwrap()).unwrap();
        format!("file:{}", path.display())
    };
    let mut spec = serde_json::json!({
        "url": format!("s3://{}/lake-{}", told("AAP_TEST_S3_BUCKET").unwrap(), std::process::id()),
        "endpoint": endpoint,
        "access_key": secret("AAP_TEST_S3_ACCESS_KEY"),
        "secret_key": secret("AAP_TEST_S3_SECRET_KEY"),
        "cache": TINY_CACHE,
    });
    if let Some(ca) = told("AAP_TEST_S3_CA") {
        spec["ca"] = ca.into();
    }
    Some(serde_json::from_value::<LakeStoreSpec>(spec).unwrap().open().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_lives_in_a_bucket_of_minio() {
    let folder = tempfile::tempdir().unwrap();
    let Some(objects) = minio(&folder) else { return };
    check_large(objects.clone()).await;
    let config = LakeConfig { compact_files: 2, ..LakeConfig::default() };
    let mut rig = Rig::over(None, config.clone()).await;
    rig.objects = Some(objects);
    rig.home = rig.home.join("in-minio");
    std::fs::create_dir_all(&rig.home).unwrap();
    rig.restart(config.clone()).await;
    // The catalogue is new, so it came back from the manifest.
    assert!(!rig.on_disk().is_empty());
    assert_eq!(rig.on_disk(), rig.visible_files());
    rig.lake.delete(&"logs".parse().unwrap()).await.unwrap();
    assert!(rig.on_disk().is_empty());
    for sequence in 1..=4 {
        rig.land(&key("n2", "logs"), sequence, rows(0)).await;
        rig.lake.load_all().await.unwrap();
    }
    while rig.lake.compact_once().await.unwrap() {}
    rig.restart(config).await;
    check_once(&rig.visible("logs"), &expected(&["n2"], 1..=4));
    assert_eq!((rig.on_disk().len(), rig.on_disk()), (1, rig.visible_files()));
    rig.lake.delete(&"logs".parse().unwrap()).await.unwrap();
    assert!(rig.on_disk().is_empty());
    super::faults::lose_manifests(&rig.lake);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_goes_in_parts_and_comes_back_whole() {
    let server = Server::start().await;
    check_large(server.objects(TINY_CACHE)).await;
}

async fn check_large(objects: LakeObjects) {
    let rig = Rig::over(Some(objects), LakeConfig::default()).await;
    let mut random = 7;
    let mut sum = 0i64;
    for sequence in 1..=6 {
        let numbers = Int64Array::from_iter_values((0..300_000).map(|_| next_random(&mut random) as i64));
        sum = numbers.values().iter().fold(sum, |sum, number| sum.wrapping_add(*number));
        rig.land(&key("n1", "logs"), sequence, with_column(1 << 40, "n", Arc::new(numbers))).await;
    }
    while rig.lake.load(&"logs".parse().unwrap()).await.unwrap() {}
    let files = rig.files();
    assert!(files.iter().any(|file| file.bytes > 8 << 20), "{files:?}");
    let mut found = 0i64;
    for batch in files.iter().flat_map(|file| rig.batches(file)) {
        let numbers = batch.column_by_name("n").unwrap();
        let numbers = numbers.as_primitive::<arrow_array::types::Int64Type>().values();
        found = numbers.iter().fold(found, |sum, number| sum.wrapping_add(*number));
    }
    assert_eq!(found, sum);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_many_readers_want_comes_once() {
    let server = Server::start().await;
    let mut rig = Rig::over(Some(server.objects(1 << 30)), LakeConfig::default()).await;
    rig.land(&key("n1", "logs"), 1, rows(0)).await;
    rig.lake.load_all().await.unwrap();
    let files = rig.files();
    rig.lake.inner.storage.forget(&[files[0].path.clone()]);
    let before = server.s3.requests();
    let readers = (0..16).map(|_| {
        let (lake, files) = (rig.lake.clone(), files.clone());
        tokio::task::spawn_blocking(move || lake.fetch(&files).unwrap())
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await.unwrap();
    }
    assert_eq!(server.s3.requests() - before, 1);

    rig.restart(LakeConfig::default()).await;
    let before = server.s3.requests();
    rig.batches(&files[0]);
    assert_eq!(server.s3.requests() - before, 0, "copies stay over a restart");
    // Whatever somebody did to it.
    std::fs::write(rig.lake.locate(&files[0].path), b"nothing").unwrap();
    assert_eq!(rig.batches(&files[0])[0].num_rows(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_go_when_there_are_too_many_but_not_while_a_reader_may_open_them() {
    let rig = Rig::on(Place::Objects, LakeConfig::default()).await;
    for sequence in 1..=3 {
        rig.land(&key("n1", "logs"), sequence, rows(0)).await;
        rig.lake.load_all().await.unwrap();
    }
    let held = || rig.lake.inner.storage.held().0;
    assert_eq!(held(), 0, "nothing fits");
    let files = rig.files();
    let early = rig.lake.pin();
    fetch(&rig.lake, &files[..2]).unwrap();
    let late = rig.lake.pin();
    fetch(&rig.lake, &files[1..]).unwrap();
    assert_eq!(held(), 3);
    drop(early);
    rig.lake.unlink().await.unwrap();
    assert_eq!(held(), 2, "the late reader fetched the other two");
    assert!(files[1..].iter().all(|file| rig.lake.locate(&file.path).exists()));
    drop(late);
    rig.lake.unlink().await.unwrap();
    assert_eq!(held(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_copies_is_cleared_of_what_nobody_needs_and_used_for_nothing_else() {
    let objects = LakeObjects::over(Arc::new(object_store::memory::InMemory::new()), 1 << 30);
    let mut rig = Rig::over(Some(objects), LakeConfig { compact_files: 2, ..LakeConfig::default() }).await;
    for sequence in 1..=2 {
        rig.land(&key("n1", "logs"), sequence, rows(0)).await;
        rig.lake.load_all().await.unwrap();
    }
    // A crash while one copy was made, after which another coordinator hid a file.
    let begun = rig.lake.locate("_coming/17");
    std::fs::write(&begun, b"PAR1").unwrap();
    let left = rig.lake.locate("logs/date=2023-11-14/left.parquet");
    std::fs::write(&left, b"PAR1").unwrap();
    rig.restart(LakeConfig::default()).await;
    assert!(!begun.exists() && !left.exists());
    assert_eq!(rig.lake.inner.storage.held().0, 2);

    let open =
        |objects| open_lake(&rig.home, &rig.clock, &rig.buffer, &rig.store, objects, LakeConfig::default());
    assert!(matches!(open(None).await, Err(Error::OtherUse { .. })), "files would be missing");
    std::fs::remove_file(rig.lake.locate("_copies")).unwrap();
    let refused = open(rig.objects.clone()).await;
    assert!(matches!(refused, Err(Error::OtherUse { .. })), "the only copy of a file might go");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_all_see_is_an_object_store() {
    let folder = tempfile::tempdir().unwrap();
    let spec = format!(r#"{{"url": "file://{}", "cache": 0}}"#, folder.path().display());
    let spec: LakeStoreSpec = serde_json::from_str(&spec).unwrap();
    let config = LakeConfig { compact_files: 2, ..LakeConfig::default() };
    let mut rig = Rig::over(Some(spec.open().unwrap()), config.clone()).await;
    for sequence in 1..=2 {
        rig.land(&key("n1", "logs"), sequence, rows(0)).await;
        rig.lake.load_all().await.unwrap();
    }
    assert!(rig.lake.compact_once().await.unwrap());
    rig.restart(config).await;
    check_once(&rig.visible("logs"), &expected(&["n1"], 1..=2));
    assert_eq!((rig.on_disk().len(), rig.on_disk()), (1, rig.visible_files()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_put_below_the_prefix_is_left_alone() {
    let mut rig = Rig::on(Place::Objects, LakeConfig::default()).await;
    // As the sink into object stores names them.
    let theirs = "logs/4f1d09c2-000000000001.parquet";
    rig.overwrite(theirs, b"theirs");
    rig.restart(LakeConfig::default()).await;
    let found = tokio::task::block_in_place(|| rig.lake.inner.storage.read(theirs)).unwrap();
    assert_eq!(found, b"theirs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_on_disk_becomes_one_in_an_object_store() {
    let mut rig = Rig::on(Place::Disk, LakeConfig::default()).await;
    for sequence in 1..=3 {
        rig.land(&key("n1", "logs"), sequence, rows(0)).await;
        rig.lake.load_all().await.unwrap();
    }
    let before = rig.visible_files();
    rig.objects = Place::Objects.objects();
    let (root, objects) = (rig.lake.root().to_owned(), rig.objects.clone().unwrap());
    let broken = root.join(&before[1]);
    let bytes = std::fs::read(&broken).unwrap();
    std::fs::write(&broken, b"nothing").unwrap();
    let store: Arc<dyn MetadataStore> = rig.store.clone();
    let refused = crate::upload(&root, &objects, store.clone()).await;
    assert!(matches!(refused, Err(Error::SizeDiffers { .. })), "{refused:?}");
    std::fs::write(&broken, bytes).unwrap();
    assert_eq!(crate::upload(&root, &objects, store.clone()).await.unwrap(), 2, "one is there already");
    assert_eq!(crate::upload(&root, &objects, store).await.unwrap(), 0);
    rig.home = rig.home.join("elsewhere");
    std::fs::create_dir_all(&rig.home).unwrap();
    let (buffer, clock) = (open_buffer(&rig.home, &rig.clock).await, rig.clock.clone());
    let opened =
        open_lake(&rig.home, &clock, &buffer, &rig.store, rig.objects.clone(), LakeConfig::default());
    let lake = opened.await.unwrap();
    assert_eq!(stored(&lake), before);
    check_once(&visible(&buffer, &lake, &"logs".parse().unwrap()), &expected(&["n1"], 1..=3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_answer_keeps_no_daemon_from_stopping() {
    // It takes connections, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::start().await;
    let objects = server.objects_at(&format!("http://{}", silent.local_addr().unwrap()), TINY_CACHE);
    let directory = tempfile::tempdir().unwrap();
    let home = Utf8PathBuf::from_path_buf(directory.path().to_owned()).unwrap();
    let clock = Arc::new(ManualClock::at(START_MS));
    let buffer = open_buffer(&home, &clock).await;
    let (_lead, told) = tokio::sync::watch::channel(true);
    let dependencies = LakeDependencies {
        buffer: buffer.clone(),
        store: open_store(&home),
        clock,
        root: home.join("copies"),
        objects: Some(objects),
        lead: Some(told),
    };
    let lake = Lake::open(dependencies, LakeConfig::default()).await.unwrap();
    let shutdown = Shutdown::default();
    let running = tokio::spawn(lake.clone().run(shutdown.clone()));
    // The first thing that it does is to ask the store.
    let _line = silent.accept().unwrap();
    shutdown.request();
    tokio::time::timeout(Duration::from_secs(20), running).await.expect("it stops").unwrap().unwrap();
    assert!(!lake.leads());
}
