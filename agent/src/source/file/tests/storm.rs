//! Every kind of rotation in any order, with restarts in between: each line exactly once.

use std::time::Duration;

use super::*;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

struct Storm {
    rig: Rig,
    follower: Option<Follower>,
    dice: Dice,
    written: u32,
    /// Rotated files, by number: plain ones.
    plain: Vec<u32>,
    rotations: u32,
    story: Vec<String>,
}

impl Storm {
    fn log(&self) -> std::path::PathBuf {
        self.rig.path("logs/a.log")
    }

    fn rotated(&self, number: u32) -> std::path::PathBuf {
        self.rig.path(&format!("logs/a.log.{number}"))
    }

    fn write(&mut self) {
        let count = [1, 3, 40, 900][usize::try_from(self.dice.roll(4)).unwrap()];
        append(&self.log(), &numbered(self.written, self.written + count));
        self.written += count;
        self.story.push(format!("write up to {}", self.written));
    }

    fn rotate(&mut self, copy: bool) {
        let to = self.rotated(self.rotations);
        if fs::metadata(self.log()).map_or(0, |metadata| metadata.len()) == 0 {
            return;
        }
        if copy {
            fs::copy(self.log(), &to).unwrap();
            OpenOptions::new().write(true).open(self.log()).unwrap().set_len(0).unwrap();
        } else {
            fs::rename(self.log(), &to).unwrap();
        }
        self.story.push(format!("{} to {}", if copy { "copy" } else { "rename" }, self.rotations));
        self.plain.push(self.rotations);
        self.rotations += 1;
    }

    fn compress(&mut self) {
        if self.plain.is_empty() {
            return;
        }
        let index = usize::try_from(self.dice.roll(self.plain.len() as u64)).unwrap();
        let number = self.plain.swap_remove(index);
        let from = self.rotated(number);
        self.story.push(format!("compress {number}"));
        if self.dice.roll(2) == 0 {
            gzip(&from, &self.rig.path(&format!("logs/a.log.{number}.gz")));
        } else {
            let bytes = zstd::encode_all(fs::read(&from).unwrap().as_slice(), 1).unwrap();
            fs::write(self.rig.path(&format!("logs/a.log.{number}.zst")), bytes).unwrap();
        }
        fs::remove_file(from).unwrap();
    }

    /// A stop, or a death at any point between two steps of the source.
    async fn restart(&mut self) {
        let Some(follower) = self.follower.take() else { return };
        let graceful = self.dice.roll(2) == 0;
        self.story.push(format!(
            "{} with {} stored",
            if graceful { "stop" } else { "kill" },
            self.rig.texts("logs", "body").len()
        ));
        if graceful {
            follower.stop().await;
        } else {
            follower.task.abort();
            follower.task.await.unwrap_err();
        }
        for _ in 0..self.dice.roll(4) {
            self.act_on_files();
        }
        self.rig.restart();
        self.story.push(format!("start with {} stored", self.rig.texts("logs", "body").len()));
        self.follower = Some(follow(&self.rig, ""));
    }

    fn act_on_files(&mut self) {
        match self.dice.roll(8) {
            0 => self.rotate(false),
            1 => self.rotate(true),
            2 => self.compress(),
            _ => self.write(),
        }
    }
}

async fn storm(seed: u64) {
    let rig = Rig::new();
    let follower = Some(follow(&rig, ""));
    let mut storm =
        Storm { rig, follower, dice: Dice(seed), written: 0, plain: vec![], rotations: 0, story: vec![] };
    for _ in 0..60 {
        match storm.dice.roll(12) {
            0 => storm.restart().await,
            _ => storm.act_on_files(),
        }
        let pause = [0, 0, 5, 60, 400][usize::try_from(storm.dice.roll(5)).unwrap()];
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    let written = storm.written;
    let arrived = async {
        while storm.rig.texts("logs", "body").len() < written as usize {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(60), arrived).await.is_ok();
    // What would come twice comes within this.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let mut counts = vec![0_u32; written as usize];
    for text in storm.rig.texts("logs", "body") {
        let number: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
        counts[number] += 1;
    }
    let wrong: Vec<(usize, &u32)> = counts.iter().enumerate().filter(|(_, count)| **count != 1).collect();
    if !wrong.is_empty() {
        let number = wrong[0].0;
        let wanted = format!("row {number} ");
        let (texts, paths) = (storm.rig.texts("logs", "body"), storm.rig.texts("logs", "resource"));
        let from = texts.iter().zip(&paths).filter(|(text, _)| text.starts_with(&wanted));
        storm.story.extend(from.map(|(text, path)| format!("{text} from {path}")));
        storm
            .story
            .extend(storm.rig.deps.ingress.buffer.positions().iter().map(|position| format!("{position:?}")));
    }
    assert!(
        wrong.is_empty() && in_time,
        "seed {seed}: of {written}, {} wrong: {:?}\n{}",
        wrong.len(),
        &wrong[..wrong.len().min(20)],
        storm.story.join("\n")
    );
    storm.follower.unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_order_of_rotations_and_restarts_gives_each_line_once() {
    let seeds = match std::env::var("AAP_FILE_STORM_SEEDS") {
        Ok(seeds) => seeds.split(',').map(|seed| seed.parse().unwrap()).collect(),
        Err(_) => vec![1, 2, 3],
    };
    let mut all = tokio::task::JoinSet::new();
    for seed in seeds {
        all.spawn(storm(seed));
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
}
