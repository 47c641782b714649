//! Processes that are killed in the midst of appends: this test binary starts itself again as the one that dies.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use aap_runtime::SystemClock;
use camino::Utf8PathBuf;

use super::world::{Random, World, record, seeds};
use crate::{AuditConfig, AuditLog, SigningKey};

/// Where the child appends; without it, it is a test like others and does nothing.
const FOLDER: &str = "AAP_AUDIT_TEST_FOLDER";
/// What a line of the child begins with; the test harness prints lines of its own.
const ANSWERED: &str = "answered ";
/// How many appends are under way at once, so that groups hold several.
const TASKS: u64 = 8;

/// Appends for ever, and says on stdout what was answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_that_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let folder = Utf8PathBuf::from(folder);
    let key = SigningKey::open_or_create(&folder.join("audit.key")).unwrap();
    let mut config = AuditConfig::new(folder.join("home/audit"));
    config.segment_bytes = aap_types::ByteCount(40_000);
    config.checkpoint_records = 50;
    let log = AuditLog::open_with(config, key, Arc::new(SystemClock::default())).unwrap().log;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let log = log.clone();
        tasks.spawn(async move {
            for i in 0.. {
                let name = format!("{}-{task}-{i}", std::process::id());
                log.append(record("ana", "node ban").with("name", name.as_str())).await.unwrap();
                // One write, so that lines of tasks do not mix.
                std::io::stdout().write_all(format!("{ANSWERED}{name}\n").as_bytes()).unwrap();
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

fn start(world: &World, mutant: Option<&str>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "tests::kills::the_process_that_is_killed", "--nocapture"]);
    command.env(FOLDER, world.folder.path()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.envs(mutant.map(|name| ("AAP_MUTANT", name)));
    command.spawn().unwrap()
}

/// Kills a process after about so many answers. Returns everything that was answered.
fn kill_after(mut child: Child, answers: u64) -> Vec<String> {
    let mut answered = Vec::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while (answered.len() as u64) < answers && output.read_line(&mut line).unwrap() > 0 {
        answered.extend(line.split_once(ANSWERED).map(|(_, name)| name.trim_end().to_owned()));
        line.clear();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    let whole = rest.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    answered.extend(whole.filter_map(|line| Some(line.split_once(ANSWERED)?.1.trim_end().to_owned())));
    answered
}

/// Kills one process after the other over one log; everything that was answered must be there, in a chain that is good.
fn kill_again_and_again(seed: u64, kills: u64, mutant: Option<&str>) -> Result<usize, String> {
    let mut random = Random(seed);
    let world = World::new();
    let mut answered = Vec::new();
    for _ in 0..kills {
        answered.extend(kill_after(start(&world, mutant), 1 + random.below(400)));
        let (writer, recovery) = world.open();
        drop(writer);
        assert_eq!(recovery.broken, None, "seed {seed}");
        world.must_be_good();
    }
    let found: std::collections::HashSet<String> =
        world.of_others().iter().map(|entry| entry.record.details["name"].clone()).collect();
    let lost: Vec<_> = answered.iter().filter(|name| !found.contains(*name)).collect();
    if lost.is_empty() { Ok(answered.len()) } else { Err(format!("seed {seed}: {} are gone", lost.len())) }
}

#[test]
fn what_was_answered_survives_kills_in_a_chain_that_is_good() {
    for seed in seeds(2) {
        let answered = kill_again_and_again(seed, 5, None).unwrap();
        assert!(answered >= 5, "seed {seed}");
    }
}

#[test]
fn kills_notice_a_log_that_answers_before_it_writes() {
    kill_again_and_again(7, 2, Some("answerfirst")).unwrap_err();
}
