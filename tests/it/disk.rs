//! Disks that are full: producers are told or wait, nothing that was acknowledged is lost, nothing that was refused appears,
//! and everything goes on by itself.

use std::sync::Arc;
use std::time::Duration;

use aap_tests::load::exactly_once;
use aap_tests::{
    Daemon, Load, PATIENCE, Pace, Platform, Random, Settings, SmallDisk, eventually, wait_until,
};

/// An answer that has not come by then waits for room.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Rows of one request of [`Noise`].
const ROWS: u64 = 50;

/// Requests whose rows hardly compress, so that a disk fills quickly.
struct Noise<'a> {
    platform: &'a Platform,
    /// Requests that were begun.
    begun: u64,
    /// Those of them whose answer did not come in time: the one that uses up the last room waits for more.
    open: Vec<u64>,
}

/// How a request went.
#[derive(Debug, PartialEq, Eq)]
enum Went {
    Taken,
    Waits,
    Refused,
}

impl<'a> Noise<'a> {
    fn new(platform: &'a Platform) -> Self {
        Self { platform, begun: 0, open: vec![] }
    }

    /// Posts the next request. One that was refused is posted again the next time.
    fn post(&mut self) -> Went {
        let went = self.post_number(self.begun);
        if went != Went::Refused {
            self.begun += 1;
        }
        if went == Went::Waits {
            self.open.push(self.begun - 1);
        }
        went
    }

    fn post_number(&self, number: u64) -> Went {
        let rows = (number * ROWS..(number + 1) * ROWS).map(|id| {
            let mut random = Random::seeded(id);
            let noise: String = (0..64).map(|_| format!("{:016x}", random.number())).collect();
            format!("{{\"id\":{id},\"noise\":\"{noise}\"}}\n")
        });
        let (body, key) = (rows.collect::<String>(), format!("noise-{number}"));
        let headers = [("content-type", "application/x-ndjson"), ("idempotency-key", key.as_str())];
        match self.platform.http().with_deadline(ANSWER_WITHIN).post("noise", &headers, body.as_bytes()) {
            Ok(answer) if answer.status == 200 => Went::Taken,
            Ok(answer) => {
                assert!([409, 429, 503].contains(&answer.status), "{answer:?}");
                assert_eq!(answer.retry_after.as_deref(), Some("1"), "{answer:?}");
                Went::Refused
            }
            Err(_) => Went::Waits,
        }
    }

    /// Posts until a request is refused.
    #[track_caller]
    fn until_refused(&mut self) {
        let mut waiting = 0;
        loop {
            match self.post() {
                Went::Refused => return,
                Went::Waits => waiting += 1,
                Went::Taken => assert!(self.begun < 10_000, "never refused"),
            }
            assert!(waiting < 3, "those behind a request that waits are told at once");
        }
    }

    /// Waits until a request is taken again.
    #[track_caller]
    fn await_taken(&mut self) {
        eventually("a request that is taken again", || (self.post() == Went::Taken).then_some(()));
    }

    /// Every request is there once, also those whose answer nobody saw.
    #[track_caller]
    fn assert_exactly_once(&self) {
        for number in &self.open {
            eventually("an answer", || (self.post_number(*number) == Went::Taken).then_some(()));
        }
        exactly_once(self.platform, "noise", "id", self.begun * ROWS);
    }
}

/// A platform with a small disk at a part of its home, or at the whole of it.
fn on_small_disk(part: &str, mib: u64, coordinator: &str) -> Option<(Arc<Platform>, SmallDisk)> {
    let platform = Platform::new();
    let disk = SmallDisk::mount(&platform.beside("disk.img"), &platform.home().join(part), mib)?;
    let settings = Settings {
        buffer: "{ segment_bytes: 1MiB }".into(),
        coordinator: coordinator.into(),
        ..Settings::default()
    };
    platform.prepare("n1", &settings.tail(&Load::glob(&platform)));
    Some((Arc::new(platform), disk))
}

/// Starts a daemon on a full disk: it runs, or it ends with a reason that names the disk.
#[track_caller]
fn start_on_full_disk(platform: &Platform, name: &str) -> Daemon {
    let mut daemon = platform.start(name);
    wait_until(Duration::from_secs(1), || daemon.ended().is_some());
    if let Some(status) = daemon.ended() {
        let log = platform.log(name);
        let words = log.lines().rev().take(4).collect::<Vec<_>>().join("\n");
        assert!(status.code().is_some_and(|code| code != 0), "{name} ended with {status}: {words}");
        // Where the log itself lies on the full disk, the reason has nowhere to go.
        let told = words.contains("No space left") || words.contains("is full");
        assert!(told || platform.home().join("filler").exists(), "{words}");
    }
    daemon
}

fn rows_in_lake(platform: &Platform, stream: &str) -> u64 {
    let status = platform.aap(&["status", "-o", "json"]).json();
    let streams = status["item"]["streams"].as_array().into_iter().flatten();
    streams.filter(|of| of["stream"] == stream).filter_map(|of| of["rows_in_lake"].as_u64()).sum()
}

#[test]
fn a_full_disk_of_the_node_makes_producers_wait_and_loses_nothing() {
    let Some((platform, disk)) = on_small_disk("agent", 48, "") else { return };
    let (mut coordinator, mut agent) = platform.start_both();
    let load = Load::start(&platform, Pace::LIGHT);
    let mut noise = Noise::new(&platform);
    assert_eq!(noise.post(), Went::Taken);

    // Nothing is delivered and somebody else takes the space.
    coordinator.kill();
    disk.fill();
    noise.until_refused();
    let posted = load.posted();
    // What the writer tries again may find room for a moment.
    let blocked = || platform.agent_metric("aap_agent_buffer_blocked") == Some(1.0);
    eventually("a buffer that says that it blocks", || blocked().then_some(()));
    disk.free();
    noise.await_taken();
    eventually("the other producers", || (load.posted() > posted).then_some(()));

    // Full again, and killed while it is full.
    disk.fill();
    noise.until_refused();
    agent.kill();
    let mut agent = start_on_full_disk(&platform, "agent");
    assert!(agent.ended().is_none(), "an agent starts on a full disk: it has a reserve");
    eventually("an agent that answers", || platform.agent_metric("aap_agent_buffer_blocked"));

    // What is delivered makes room, although the disk stays full.
    let _coordinator = platform.start("coordinator");
    platform.await_coordinator();
    platform.await_connected();
    noise.await_taken();
    disk.free();
    load.stop().assert_exactly_once(&platform);
    noise.assert_exactly_once();
}

#[test]
fn a_disk_smaller_than_what_is_to_be_retained_never_stops_a_connected_node() {
    let Some((platform, _disk)) = on_small_disk("agent", 32, "") else { return };
    let (_coordinator, _agent) = platform.start_both();
    let mut noise = Noise::new(&platform);
    while noise.begun < 1_200 {
        // More than the disk holds may wait for a moment, not for long.
        if noise.post() != Went::Taken {
            noise.await_taken();
        }
    }
    noise.assert_exactly_once();
}

#[test]
fn a_full_disk_of_the_coordinator_makes_agents_wait_and_loses_nothing() {
    let lake = "lake: { age_seconds: 1, file_bytes: 1MiB }";
    let Some((platform, disk)) = on_small_disk("coordinator", 96, lake) else { return };
    let (mut coordinator, _agent) = platform.start_both();
    let load = Load::start(&platform, Pace::LIGHT);
    let mut noise = Noise::new(&platform);
    noise.post();
    eventually("rows in the lake", || (rows_in_lake(&platform, "noise") > 0).then_some(()));
    disk.fill();
    let waiting = || platform.agent_metric("aap_agent_buffer_waiting_batches").unwrap_or(0.0);
    let held_back = wait_until(PATIENCE, || {
        noise.post();
        waiting() > 20.0 && disk.free_bytes() < 1 << 20
    });
    assert!(held_back, "{} batches wait, {} bytes are free", waiting(), disk.free_bytes());

    // Killed while its disk is full: it starts again, or says why it does not.
    coordinator.kill();
    drop(start_on_full_disk(&platform, "coordinator"));
    disk.free();
    let _coordinator = platform.start("coordinator");
    platform.await_coordinator();
    load.stop().assert_exactly_once(&platform);
    noise.assert_exactly_once();
}

#[test]
fn a_full_disk_of_the_lake_keeps_rows_in_the_landing_buffer_until_there_is_room() {
    let lake = "lake: { age_seconds: 1, file_bytes: 1MiB }";
    let Some((platform, disk)) = on_small_disk("lake", 64, lake) else { return };
    let (_coordinator, _agent) = platform.start_both();
    let mut noise = Noise::new(&platform);
    disk.fill();
    let lake_problem = || {
        let status = platform.aap(&["status", "-o", "json"]).json();
        status["item"]["problems"].to_string().contains("lake").then_some(())
    };
    (0..20).for_each(|_| assert_eq!(noise.post(), Went::Taken));
    eventually("a problem in the status", lake_problem);
    noise.assert_exactly_once();
    disk.free();
    eventually("a lake without problem", || lake_problem().is_none().then_some(()));
    eventually("rows in the lake", || (rows_in_lake(&platform, "noise") == noise.begun * ROWS).then_some(()));
    noise.assert_exactly_once();
}

#[test]
fn a_home_on_a_full_disk_loses_nothing_even_if_its_daemons_are_killed_meanwhile() {
    let lake = "lake: { age_seconds: 1, file_bytes: 1MiB }";
    let Some((platform, disk)) = on_small_disk("", 128, lake) else { return };
    let (mut coordinator, mut agent) = platform.start_both();
    let load = Load::start(&platform, Pace::LIGHT);
    let mut noise = Noise::new(&platform);
    noise.post();
    eventually("rows in the lake", || (rows_in_lake(&platform, "noise") > 0).then_some(()));
    for _ in 0..3 {
        disk.fill();
        for _ in 0..20 {
            noise.post();
        }
        agent.kill();
        coordinator.kill();
        drop((start_on_full_disk(&platform, "coordinator"), start_on_full_disk(&platform, "agent")));
        disk.free();
        (coordinator, agent) = platform.start_both();
        noise.await_taken();
    }
    load.stop().assert_exactly_once(&platform);
    noise.assert_exactly_once();
}
