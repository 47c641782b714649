//! Several coordinators over one catalogue and one object store: each has the frames in a buffer of its own, sooner or later, and one
//! of them leads.

use aap_store::MemoryStore;
use tokio::sync::watch;

use super::feed::{all, read_all};
use super::*;
use crate::lead::GRACE;

/// The coordinators, and what they have in common.
struct Cluster {
    clock: Arc<ManualClock>,
    objects: LakeObjects,
    store: Arc<dyn MetadataStore>,
    /// Who has the lease.
    holder: Arc<Mutex<usize>>,
    members: Vec<Member>,
    _directory: tempfile::TempDir,
}

struct Member {
    home: Utf8PathBuf,
    buffer: Buffer,
    lake: Lake,
    lead: watch::Sender<bool>,
    passes: Passes,
}

impl Cluster {
    /// Nobody leads yet.
    async fn of(members: usize, config: &LakeConfig) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut cluster = Self {
            clock: Arc::new(ManualClock::at(START_MS)),
            objects: Place::Objects.objects().unwrap(),
            store: Arc::new(MemoryStore::default()),
            holder: Arc::new(Mutex::new(usize::MAX)),
            members: vec![],
            _directory: directory,
        };
        for me in 0..members {
            let home = cluster._directory.path().join(me.to_string());
            let member = cluster.open(me, Utf8PathBuf::from_path_buf(home).unwrap(), config).await;
            cluster.members.push(member);
        }
        cluster
    }

    async fn open(&self, me: usize, home: Utf8PathBuf, config: &LakeConfig) -> Member {
        std::fs::create_dir_all(&home).unwrap();
        let buffer = open_buffer(&home, &self.clock).await;
        let lease = Some((self.holder.clone(), me));
        let store = Arc::new(Faulty { lease, ..Faulty::over(self.store.clone()) });
        let (lead, told) = watch::channel(false);
        let dependencies = LakeDependencies {
            buffer: buffer.clone(),
            store,
            clock: self.clock.clone(),
            root: home.join("copies"),
            objects: Some(self.objects.clone()),
            lead: Some(told),
        };
        let lake = Lake::open(dependencies, config.clone()).await.unwrap();
        Member { home, buffer, lake, lead, passes: Passes::default() }
    }

    /// As after the death of its process. It does not lead then, whatever the lease says.
    async fn restart(&mut self, me: usize, config: &LakeConfig) {
        let buffer = self.members[me].buffer.clone();
        tokio::task::spawn_blocking(move || buffer.close()).await.unwrap();
        self.members[me] = self.open(me, self.members[me].home.clone(), config).await;
    }

    /// The lease goes to `me`, who is told. The one before may not be. Whoever has it again is told that it was lost.
    fn give_lease(&self, me: usize) {
        let before = std::mem::replace(&mut *self.holder.lock().unwrap(), me);
        if before != me {
            self.members[me].tell(false);
        }
        self.members[me].tell(true);
    }

    fn tell_those_who_lost_it(&self) {
        let holder = *self.holder.lock().unwrap();
        self.members.iter().enumerate().filter(|(me, _)| *me != holder).for_each(|(_, member)| {
            member.tell(false);
        });
    }
}

impl Member {
    fn tell(&self, leads: bool) {
        self.lead.send_if_modified(|told| std::mem::replace(told, leads) != leads);
    }

    async fn land(&self, key: &StreamKey, sequence: u64, rows: RecordBatch) {
        land(&self.buffer, &self.lake, key, sequence, rows).await;
    }

    async fn pass(&mut self) -> bool {
        self.lake.pass(&mut self.passes, &Shutdown::default()).await
    }

    fn visible(&self, stream: &StreamName) -> BTreeMap<(String, u64, u64), u64> {
        visible(&self.buffer, &self.lake, stream)
    }

    fn paths(&self) -> Vec<String> {
        let mut paths: Vec<String> =
            self.lake.catalogue().unwrap().files.into_iter().map(|file| file.path).collect();
        paths.sort();
        paths
    }
}

fn small() -> LakeConfig {
    LakeConfig { file_bytes: ByteCount(3000), compact_files: 2, ..LakeConfig::default() }
}

/// One number after the other that looks like chance.
pub(super) fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_and_the_others_see_the_same_and_let_go_of_the_same() {
    let mut cluster = Cluster::of(2, &small()).await;
    let logs = key("n1", "logs");
    cluster.give_lease(0);
    for sequence in 1..=4 {
        cluster.members[0].land(&logs, sequence, rows(0)).await;
        cluster.members[0].pass().await;
    }
    assert!(cluster.members[0].lake.leads() && !cluster.members[1].lake.leads());
    // The follower has nothing of it in its buffer, and later a part.
    for member in &mut cluster.members {
        member.pass().await;
        check_once(&member.visible(&logs.stream), &expected(&["n1"], 1..=4));
    }
    let follower = &mut cluster.members[1];
    for sequence in 1..=5 {
        follower.land(&logs, sequence, rows(0)).await;
    }
    let waiting = follower.lake.waiting().frames().beyond(&[]);
    assert_eq!(waiting.iter().map(|(_, counts)| counts.batches).collect::<Vec<_>>(), [1]);
    assert_eq!(follower.buffer.cursor(CONSUMER, &logs), Sequence::ZERO);
    follower.pass().await;
    assert_eq!(follower.buffer.cursor(CONSUMER, &logs), Sequence(4), "what came late is let go too");
    assert!(!follower.lake.load(&logs.stream).await.unwrap() && !follower.lake.compact_once().await.unwrap());
    check_once(&follower.visible(&logs.stream), &expected(&["n1"], 1..=5));
    assert_eq!(cluster.members[0].lake.problem(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_a_former_leader_is_refused_and_leaves_nothing_and_is_no_problem() {
    let mut cluster = Cluster::of(2, &LakeConfig::default()).await;
    let logs = key("n1", "logs");
    cluster.give_lease(0);
    for member in &mut cluster.members {
        member.land(&logs, 1, rows(0)).await;
        member.pass().await;
    }
    for member in &cluster.members {
        member.land(&logs, 2, rows(0)).await;
    }
    // The first one was not told.
    cluster.give_lease(1);
    let refused = cluster.members[0].lake.load(&logs.stream).await;
    assert!(matches!(refused, Err(Error::Store(aap_store::Error::Fenced { .. }))), "{refused:?}");
    cluster.members[0].pass().await;
    assert_eq!(cluster.members[0].lake.problem(), None);
    assert_eq!(stored(&cluster.members[0].lake), cluster.members[0].paths());
    for member in &cluster.members {
        check_once(&member.visible(&logs.stream), &expected(&["n1"], 1..=2));
    }
    cluster.members[1].pass().await;
    assert_eq!(cluster.members[1].paths().len(), 2);
    cluster.tell_those_who_lost_it();
    for member in &mut cluster.members {
        member.pass().await;
        check_once(&member.visible(&logs.stream), &expected(&["n1"], 1..=2));
        assert_eq!(member.lake.problem(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_hidden_stays_for_readers_elsewhere_and_goes_in_its_time() {
    let mut cluster = Cluster::of(2, &small()).await;
    let logs = key("n1", "logs");
    cluster.give_lease(0);
    for sequence in 1..=2 {
        cluster.members[0].land(&logs, sequence, rows(0)).await;
        cluster.members[0].lake.load_all().await.unwrap();
    }
    let [leader, follower] = &mut cluster.members[..] else { panic!("two") };
    follower.pass().await;
    let (_pin, known) = (follower.lake.pin(), follower.lake.catalogue().unwrap().files);
    assert!(leader.lake.compact_once().await.unwrap());
    leader.pass().await;
    follower.pass().await;
    assert_eq!((leader.paths().len(), stored(&leader.lake).len()), (1, 3));
    fetch(&follower.lake, &known[..1]).unwrap();

    // A new term finds what the one before it had hidden.
    leader.tell(false);
    leader.pass().await;
    leader.tell(true);
    cluster.clock.advance(GRACE);
    leader.pass().await;
    assert_eq!(stored(&leader.lake).len(), 3, "its time begins with the term");
    cluster.clock.advance(GRACE);
    leader.pass().await;
    assert_eq!(stored(&leader.lake), leader.paths());
    assert!(follower.lake.locate(&known[0].path).exists(), "what was fetched in time can be read for ever");
    let late = fetch(&follower.lake, &known).unwrap_err();
    assert!(late.is_gone(), "{late}");
    check_once(&follower.visible(&logs.stream), &expected(&["n1"], 1..=2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_deleted_on_one_coordinator_is_gone_from_all() {
    let mut cluster = Cluster::of(2, &small()).await;
    let logs = key("n1", "logs");
    cluster.give_lease(0);
    for member in &mut cluster.members {
        for sequence in 1..=2 {
            member.land(&logs, sequence, rows(0)).await;
        }
        member.pass().await;
    }
    // The leader is further than the one that is asked.
    cluster.members[0].land(&logs, 3, rows(0)).await;
    cluster.members[0].lake.load_all().await.unwrap();
    let (rows_gone, _) = cluster.members[1].lake.delete(&logs.stream).await.unwrap();
    assert_eq!(rows_gone, 9);
    cluster.members[1].land(&logs, 3, rows(0)).await;
    for member in &mut cluster.members {
        member.land(&logs, 4, rows(0)).await;
        member.pass().await;
        check_once(&member.visible(&logs.stream), &expected(&["n1"], 4..=4));
    }
    cluster.clock.advance(GRACE);
    cluster.members[0].pass().await;
    assert_eq!(stored(&cluster.members[0].lake), cluster.members[0].paths());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_went_back_costs_no_file() {
    let mut cluster = Cluster::of(2, &small()).await;
    let logs = key("n1", "logs");
    cluster.give_lease(0);
    for sequence in 1..=3 {
        cluster.members[0].land(&logs, sequence, rows(0)).await;
        cluster.members[0].lake.load_all().await.unwrap();
    }
    let before = stored(&cluster.members[0].lake);
    cluster.store = Arc::new(MemoryStore::default());
    for me in 0..2 {
        cluster.restart(me, &small()).await;
    }
    cluster.give_lease(1);
    for _ in 0..3 {
        cluster.members[1].pass().await;
        cluster.clock.advance(GRACE);
    }
    let problem = cluster.members[1].lake.problem().unwrap();
    assert!(problem.contains("`_manifest/3.json.lost`"), "{problem}");
    assert_eq!(stored(&cluster.members[1].lake), before);
    // The version comes past the one that was lost.
    for sequence in 1..=5 {
        cluster.members[1].land(&logs, sequence, rows(0)).await;
        cluster.members[1].lake.load_all().await.unwrap();
    }
    cluster.give_lease(0);
    cluster.tell_those_who_lost_it();
    for _ in 0..3 {
        cluster.members[0].pass().await;
        cluster.clock.advance(GRACE);
    }
    let after = stored(&cluster.members[0].lake);
    assert!(before.iter().all(|path| after.contains(path)), "it still lies aside");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_lake_that_the_database_never_knew_are_not_touched() {
    let mut cluster = Cluster::of(1, &small()).await;
    cluster.give_lease(0);
    cluster.members[0].land(&key("n1", "logs"), 1, rows(0)).await;
    cluster.members[0].lake.load_all().await.unwrap();
    super::faults::lose_manifests(&cluster.members[0].lake);
    let before = stored(&cluster.members[0].lake);
    cluster.store = Arc::new(MemoryStore::default());
    cluster.restart(0, &small()).await;
    cluster.give_lease(0);
    for _ in 0..3 {
        cluster.members[0].pass().await;
        cluster.clock.advance(GRACE);
    }
    let problem = cluster.members[0].lake.problem().unwrap();
    assert!(problem.contains("`memory` holds Parquet files, but the catalogue is new"), "{problem}");
    assert_eq!(stored(&cluster.members[0].lake), before);
    assert!(!cluster.members[0].lake.leads());
}

/// What was sealed, by whom and in which order, and how far each coordinator has it.
struct History {
    cluster: Cluster,
    random: u64,
    topic: Vec<(StreamKey, u64)>,
    /// How much of the topic each member has.
    landed: Vec<usize>,
    deleted: BTreeMap<StreamKey, u64>,
}

const MEMBERS: usize = 3;
const STEPS: usize = 220;

impl History {
    async fn new(seed: u64) -> Self {
        let cluster = Cluster::of(MEMBERS, &small()).await;
        let landed = vec![0; MEMBERS];
        Self { cluster, random: seed, topic: vec![], landed, deleted: BTreeMap::new() }
    }

    fn below(&mut self, limit: usize) -> usize {
        (next_random(&mut self.random) % limit as u64) as usize
    }

    async fn step(&mut self) {
        let (choice, me) = (self.below(24), self.below(MEMBERS));
        match choice {
            0..=5 => self.publish(),
            6..=10 => {
                let count = 1 + self.below(5);
                self.consume(me, count).await;
            }
            11..=14 => drop(self.cluster.members[me].pass().await),
            15 => drop(self.cluster.members[me].lake.load(&"logs".parse().unwrap()).await),
            16 => drop(self.cluster.members[me].lake.compact_once().await),
            17 => self.cluster.give_lease(me),
            18 => self.cluster.tell_those_who_lost_it(),
            19 | 20 => self.check(me),
            21 => self.cluster.clock.advance(GRACE / 8),
            22 if self.below(4) == 0 => {
                self.cluster.restart(me, &small()).await;
                // What it learns before it acts: that it leads no more.
                self.cluster.members[me].pass().await;
            }
            23 if self.below(4) == 0 => self.delete(me).await,
            _ => {}
        }
    }

    fn publish(&mut self) {
        let key = key(["n1", "n2"][self.below(2)], ["logs", "other"][self.below(2)]);
        let next = 1 + self.topic.iter().filter(|(of, _)| *of == key).count() as u64;
        self.topic.push((key, next));
    }

    async fn consume(&mut self, me: usize, count: usize) {
        let until = self.topic.len().min(self.landed[me] + count);
        for (key, sequence) in &self.topic[self.landed[me]..until] {
            let hours = i64::try_from(sequence % 40).unwrap();
            self.cluster.members[me].land(key, *sequence, rows(hours)).await;
        }
        self.landed[me] = until;
    }

    async fn delete(&mut self, me: usize) {
        let stream: StreamName = "logs".parse().unwrap();
        let cuts = self.cluster.store.catalogue().unwrap().cursors;
        self.cluster.members[me].lake.delete(&stream).await.unwrap();
        let has = self.topic[..self.landed[me]].iter().map(|(key, sequence)| (key.clone(), *sequence));
        let cuts = cuts.into_iter().map(|(key, cut)| (key, cut.0));
        for (key, end) in has.chain(cuts).filter(|(key, _)| key.stream == stream) {
            let floor = self.deleted.entry(key).or_default();
            *floor = (*floor).max(end);
        }
    }

    /// Every row that this member has, once, except what was deleted; and of what only others have, each at most once.
    fn check(&self, me: usize) {
        for stream in ["logs", "other"] {
            let seen = self.cluster.members[me].visible(&stream.parse().unwrap());
            let twice: Vec<_> = seen.iter().filter(|(_, count)| **count != 1).collect();
            assert!(twice.is_empty(), "member {me}: not once: {twice:?}");
            let of_stream =
                self.topic.iter().enumerate().filter(|(_, (key, _))| key.stream.as_str() == stream);
            for (at, (key, sequence)) in of_stream {
                let is_deleted = *sequence <= self.deleted.get(key).copied().unwrap_or(0);
                for row in 0..3 {
                    let is_seen = seen.contains_key(&(key.node.to_string(), *sequence, row));
                    assert!(!(is_deleted && is_seen), "member {me}: {key} {sequence} was deleted");
                    assert!(
                        is_deleted || is_seen || at >= self.landed[me],
                        "member {me}: {key} {sequence} is missing"
                    );
                }
            }
        }
    }

    /// Everybody has everything, and one leads for as long as it takes.
    async fn end(&mut self) {
        let leader = self.below(MEMBERS);
        self.cluster.give_lease(leader);
        self.cluster.tell_those_who_lost_it();
        for me in 0..MEMBERS {
            self.consume(me, usize::MAX / 2).await;
        }
        // Past what rests after a refusal, and what waits for its time.
        for _ in 0..4 {
            while self.cluster.members[leader].pass().await {}
            self.cluster.clock.advance(GRACE);
        }
        assert_eq!(stored(&self.cluster.members[leader].lake), self.cluster.members[leader].paths());
        for me in 0..MEMBERS {
            self.check(me);
            self.cluster.members[me].pass().await;
            self.check(me);
            let member = &self.cluster.members[me];
            member.lake.unlink().await.unwrap();
            assert_eq!(member.lake.problem(), None);
            assert_eq!(member.lake.inner.storage.held().0, 0);
            assert!(member.lake.waiting().frames().beyond(&[]).is_empty());
            for (key, tail) in member.buffer.tails() {
                assert_eq!(member.buffer.cursor(CONSUMER, &key), tail, "{key}");
                let after = self.deleted.get(&key).copied().unwrap_or(0);
                let fed = tokio::task::block_in_place(|| read_all(&member.lake, &key, 0));
                assert_eq!(fed, all(after + 1..=tail.0), "{key}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_coordinator_sees_every_row_once_whoever_leads_and_whoever_believes_to() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("AAP_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("AAP_MODEL_SEEDS").unwrap_or(12),
    };
    for seed in seeds {
        let history = tokio::spawn(async move {
            let mut history = History::new(seed).await;
            for _ in 0..STEPS {
                history.step().await;
            }
            history.end().await;
        });
        assert!(history.await.is_ok(), "replay with AAP_SEED={seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn queries_on_all_coordinators_see_every_row_once_while_the_lead_moves() {
    const BATCHES: u64 = 100;
    const TERM: u64 = 12;
    /// How far the second is behind the first.
    const BEHIND: u64 = 3;
    let mut cluster = Cluster::of(2, &small()).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut working = vec![];
    for member in &mut cluster.members {
        let (lake, stop) = (member.lake.clone(), done.clone());
        working.push(tokio::spawn(async move {
            let (mut passes, mut changed) = (Passes::default(), 0);
            while !stop.load(Ordering::SeqCst) {
                lake.pass(&mut passes, &Shutdown::default()).await;
                // What a pass does every ten seconds.
                changed += u64::from(lake.compact_once().await.is_ok_and(|merged| merged));
                tokio::task::yield_now().await;
            }
            changed
        }));
    }
    let querying: Vec<_> = cluster
        .members
        .iter()
        .map(|member| {
            let (buffer, lake, stop) = (member.buffer.clone(), member.lake.clone(), done.clone());
            tokio::spawn(async move {
                let mut queries = 0;
                while !stop.load(Ordering::SeqCst) {
                    let before: BTreeMap<StreamKey, Sequence> = buffer.tails().into_iter().collect();
                    let (of, at) = (buffer.clone(), lake.clone());
                    let look = move || visible(&of, &at, &"logs".parse().unwrap());
                    let seen = tokio::task::spawn_blocking(look).await.unwrap();
                    queries += 1;
                    assert!(seen.values().all(|count| *count == 1), "a row came twice");
                    for (key, tail) in before {
                        for (batch, row) in all(1..=tail.0) {
                            let id = (key.node.to_string(), batch, row);
                            assert!(
                                seen.contains_key(&id),
                                "{id:?} had landed before the query and is missing"
                            );
                        }
                    }
                }
                queries
            })
        })
        .collect();
    for batch in 1..=BATCHES + BEHIND {
        for node in ["n1", "n2"] {
            for (member, behind) in cluster.members.iter().zip([0, BEHIND]) {
                if (1..=BATCHES).contains(&batch.saturating_sub(behind)) {
                    member.land(&key(node, "logs"), batch - behind, rows(0)).await;
                }
            }
        }
        if batch % TERM == 0 {
            cluster.give_lease(usize::from((batch / TERM).is_multiple_of(2)));
            // Past what rests after a refusal.
            cluster.clock.advance(Duration::from_secs(10));
        }
        if batch % TERM == TERM / 2 {
            cluster.tell_those_who_lost_it();
        }
    }
    cluster.give_lease(0);
    cluster.tell_those_who_lost_it();
    cluster.clock.advance(Duration::from_secs(10));
    let waits = |member: &Member| !member.lake.waiting().frames().beyond(&[]).is_empty();
    while cluster.members.iter().any(waits) {
        assert!(!working.iter().any(tokio::task::JoinHandle::is_finished), "somebody gave up");
        assert!(!querying.iter().any(tokio::task::JoinHandle::is_finished), "a query went wrong");
        tokio::task::yield_now().await;
    }
    done.store(true, Ordering::SeqCst);
    let (mut merged, mut queries) = (0, 0);
    for work in working {
        merged += work.await.unwrap();
    }
    for query in querying {
        queries += query.await.unwrap();
    }
    assert!(queries > 3 && merged > 0, "{queries} queries, {merged} merges: nothing was tried");
    for member in &cluster.members {
        check_once(&member.visible(&"logs".parse().unwrap()), &expected(&["n1", "n2"], 1..=BATCHES));
    }
}
