//! What happens to logs, done to real files: nothing is lost and nothing comes twice.

mod archives;
mod formats;
mod passes;
mod rotation;
mod storm;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use aap_runtime::Shutdown;
use tokio::task::JoinHandle;

use crate::board::{SourceEntry, SourceState};
use crate::config::{SourceConfig, SourceSpec};
use crate::source;
use crate::testing::Rig;

struct Follower {
    shutdown: Shutdown,
    task: JoinHandle<Result<(), source::SourceError>>,
}

/// Starts a file source on the logs of the rig; `more` are further lines of its specification.
fn follow(rig: &Rig, more: &str) -> Follower {
    let root = rig.path("logs");
    fs::create_dir_all(&root).unwrap();
    let text = format!("type: file\nstream: logs\ninclude: ['{}/**/*.log*']\n{more}", root.display());
    let spec = SourceSpec::File(serde_norway::from_str(&text).unwrap());
    let entry = SourceEntry {
        kind: "file",
        stream: "logs".into(),
        guarantee: spec.guarantee(),
        state: SourceState::Running,
        detail: String::new(),
        problems: BTreeMap::new(),
    };
    rig.deps.board.add_source("tail", entry);
    let shutdown = Shutdown::default();
    let config = SourceConfig { name: "tail".into(), spec };
    #[expect(clippy::disallowed_methods, reason = "the test waits for it")]
    let task = tokio::spawn(source::run(config, rig.deps.clone(), shutdown.clone()));
    Follower { shutdown, task }
}

impl Follower {
    async fn stop(self) {
        self.shutdown.request();
        self.task.await.unwrap().unwrap();
    }
}

fn append(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn numbered(from: u32, to: u32) -> String {
    (from..to).map(|n| format!("row {n} of this log, which is long enough to be recognised\n")).collect()
}

fn rows(from: u32, to: u32) -> Vec<String> {
    numbered(from, to).lines().map(str::to_owned).collect()
}

fn refs(rows: &[String]) -> Vec<&str> {
    rows.iter().map(String::as_str).collect()
}

fn gzip(from: &Path, to: &Path) {
    let mut out = flate2::write::GzEncoder::new(File::create(to).unwrap(), flate2::Compression::fast());
    out.write_all(&fs::read(from).unwrap()).unwrap();
    out.finish().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_come_in_order_once_and_go_on_after_a_restart() {
    let mut rig = Rig::new();
    let log = rig.path("logs/a.log");
    append(&log, "one\r\ntwo\n");
    let follower = follow(&rig, "");
    rig.expect("logs", "body", &["one", "two"]).await;
    append(&log, "three\n");
    rig.expect("logs", "body", &["one", "two", "three"]).await;
    follower.stop().await;
    append(&log, "four\n");
    rig.restart();
    let follower = follow(&rig, "");
    append(&log, "five\n");
    rig.expect("logs", "body", &["one", "two", "three", "four", "five"]).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_by_rename_loses_and_doubles_nothing() {
    let mut rig = Rig::new();
    let (log, old) = (rig.path("logs/a.log"), rig.path("logs/a.log.1"));
    append(&log, &numbered(0, 50));
    let follower = follow(&rig, "");
    rig.expect("logs", "body", &refs(&rows(0, 50))).await;
    let mut writer = OpenOptions::new().append(true).open(&log).unwrap();
    fs::rename(&log, &old).unwrap();
    writer.write_all(numbered(50, 60).as_bytes()).unwrap();
    rig.expect("logs", "body", &refs(&rows(0, 60))).await;
    append(&log, &numbered(60, 70));
    rig.expect("logs", "body", &refs(&rows(0, 70))).await;
    follower.stop().await;
    // While nobody looks, it rotates again, and the oldest is compressed.
    gzip(&old, &rig.path("logs/a.log.2.gz"));
    fs::rename(&log, &old).unwrap();
    append(&log, &numbered(70, 80));
    rig.restart();
    let follower = follow(&rig, "");
    rig.expect("logs", "body", &refs(&rows(0, 80))).await;
    append(&log, &numbered(80, 81));
    rig.expect("logs", "body", &refs(&rows(0, 81))).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_file_is_read_to_its_end() {
    let rig = Rig::new();
    let log = rig.path("logs/a.log");
    append(&log, &numbered(0, 5));
    let follower = follow(&rig, "");
    rig.expect("logs", "body", &refs(&rows(0, 5))).await;
    let mut writer = OpenOptions::new().append(true).open(&log).unwrap();
    fs::remove_file(&log).unwrap();
    writer.write_all(numbered(5, 9).as_bytes()).unwrap();
    rig.expect("logs", "body", &refs(&rows(0, 9))).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copytruncate_loses_and_doubles_nothing() {
    let rig = Rig::new();
    let (log, old) = (rig.path("logs/a.log"), rig.path("logs/a.log.1"));
    append(&log, &numbered(0, 50));
    let follower = follow(&rig, "");
    rig.expect("logs", "body", &refs(&rows(0, 50))).await;
    fs::copy(&log, &old).unwrap();
    OpenOptions::new().write(true).open(&log).unwrap().set_len(0).unwrap();
    append(&log, &numbered(50, 60));
    rig.expect("logs", "body", &refs(&rows(0, 60))).await;
    // The copy is recognised; what is added to it counts.
    append(&old, "added to the copy\n");
    let mut expected = rows(0, 60);
    expected.push("added to the copy".into());
    rig.expect("logs", "body", &refs(&expected)).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_the_same_content_is_another_file() {
    let rig = Rig::new();
    append(&rig.path("logs/a.log"), &numbered(0, 30));
    append(&rig.path("logs/b.log"), &numbered(0, 30));
    let follower = follow(&rig, "");
    rig.until("both are read", |rig| rig.texts("logs", "body").len() == 60).await;
    fs::copy(rig.path("logs/a.log"), rig.path("logs/c.log")).unwrap();
    rig.until("the copy too", |rig| rig.texts("logs", "body").len() == 90).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_are_read_once() {
    let mut rig = Rig::new();
    append(&rig.path("plain"), &numbered(0, 3000));
    fs::create_dir_all(rig.path("logs")).unwrap();
    gzip(&rig.path("plain"), &rig.path("logs/old.log.gz"));
    let zst = zstd::encode_all(numbered(3000, 3010).as_bytes(), 1).unwrap();
    fs::write(rig.path("logs/z.log.zst"), zst).unwrap();
    let follower = follow(&rig, "");
    rig.until("all rows", |rig| rig.texts("logs", "body").len() == 3010).await;
    follower.stop().await;
    rig.restart();
    let follower = follow(&rig, "");
    append(&rig.path("logs/live.log"), "live\n");
    rig.until("the live row", |rig| rig.texts("logs", "body").contains(&"live".to_owned())).await;
    follower.stop().await;
    assert_eq!(rig.texts("logs", "body").len(), 3011);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_line_is_taken_after_a_second_and_its_end_adds_nothing() {
    let mut rig = Rig::new();
    let log = rig.path("logs/a.log");
    append(&log, "one\ntwo");
    let follower = follow(&rig, "");
    rig.expect("logs", "body", &["one"]).await;
    rig.expect("logs", "body", &["one", "two"]).await;
    follower.stop().await;
    append(&log, "\nthree\n");
    rig.restart();
    let follower = follow(&rig, "");
    rig.expect("logs", "body", &["one", "two", "three"]).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_several_lines_and_long_lines() {
    let rig = Rig::new();
    let log = rig.path("logs/a.log");
    let long = "x".repeat(5000);
    append(&log, &format!("1 first\n  at a\n  at b\n2 {long}\n3 last\n"));
    let follower = follow(&rig, "multiline: { start: '^[0-9]' }\nline_bytes_max: 1KiB\n");
    let cut = format!("2 {}", "x".repeat(1022));
    rig.expect("logs", "body", &["1 first\n  at a\n  at b", &cut, "3 last"]).await;
    let counts = rig.deps.ingress.counters.snapshot();
    assert_eq!(counts[&"logs".parse().unwrap()].bytes_cut, 5002 - 1024);
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn start_at_the_end_skips_what_was_there_and_nothing_later() {
    let mut rig = Rig::new();
    let log = rig.path("logs/a.log");
    append(&log, "old\n");
    let follower = follow(&rig, "start: end\n");
    rig.until("the starting point is durable", |rig| !rig.deps.ingress.buffer.positions().is_empty()).await;
    follower.stop().await;
    append(&log, "while down\n");
    rig.restart();
    let follower = follow(&rig, "start: end\n");
    append(&rig.path("logs/new.log"), "new file\n");
    rig.until("two rows", |rig| rig.texts("logs", "body").len() == 2).await;
    follower.stop().await;
    let mut texts = rig.texts("logs", "body");
    texts.sort();
    assert_eq!(texts, ["new file", "while down"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_a_problem_and_is_tried_again() {
    let rig = Rig::new();
    let follower = follow(&rig, "");
    fs::remove_dir(rig.path("logs")).unwrap();
    append(&rig.path("logs/sub/a.log"), "one\n");
    append(&rig.path("logs/bad.log.gz"), "\u{1f}");
    fs::write(rig.path("logs/bad.log.gz"), [0x1f, 0x8b, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap();
    rig.expect("logs", "body", &["one"]).await;
    rig.until("the broken archive is a problem", |rig| {
        rig.deps.board.problems().iter().any(|p| p.contains("bad.log.gz"))
    })
    .await;
    append(&rig.path("logs/sub/a.log"), "two\n");
    rig.expect("logs", "body", &["one", "two"]).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_lines_give_columns_and_bad_ones_are_kept_as_dead_letters() {
    let rig = Rig::new();
    append(&rig.path("logs/a.log"), "{\"a\":1}\nnot json\n{\"a\":2}\n");
    let follower = follow(&rig, "format: json\n");
    rig.expect("logs", "a", &["1", "2"]).await;
    rig.expect("logs.dead", "text", &["not json"]).await;
    follower.stop().await;
    let count = &rig.deps.ingress.counters.snapshot()[&"logs".parse().unwrap()];
    assert_eq!((count.rows_read, count.rows_durable, count.rows_dropped_total()), (3, 2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_files_and_megabytes_all_arrive() {
    let rig = Rig::new();
    for file in 0..200 {
        append(&rig.path(&format!("logs/f{file}.log")), &format!("file {file}\n"));
    }
    append(&rig.path("logs/big.log"), &numbered(0, 100_000));
    let follower = follow(&rig, "");
    rig.until("all rows", |rig| {
        let counts = rig.deps.ingress.counters.snapshot();
        counts.get(&"logs".parse().unwrap()).is_some_and(|count| count.rows_durable == 100_200)
    })
    .await;
    follower.stop().await;
    let texts = rig.texts("logs", "body");
    let big: Vec<String> = texts.into_iter().filter(|text| text.starts_with("row")).collect();
    assert_eq!(big, rows(0, 100_000));
}
