//! Several coordinators with one ledger between them: dead ones, silent ones, and those that send a node to another.
//!
//! What is about time runs on a paused clock, which moves only when nothing can be done: two dials of the same moment had no
//! pause between them.

use tokio::sync::watch;
use tokio::time::Instant;

use super::super::route::Route;
use super::*;

/// What a coordinator does with whoever dials it.
#[derive(Clone, Copy)]
enum Answer {
    /// Takes the node.
    Serves,
    /// Cannot be dialled.
    Dead,
    /// Takes the hello and says nothing.
    Silent,
    /// Sends the node there in the place of a welcome.
    SendsTo(&'static str),
    /// Takes it, and sends it there after a batch.
    GivesTo(&'static str),
}

use Answer::{Dead, GivesTo, SendsTo, Serves, Silent};

/// A cluster in memory. Addresses that it does not have are dead.
struct Cluster {
    list: Vec<String>,
    answers: BTreeMap<String, Answer>,
    ledger: Arc<Mutex<Ledger>>,
    /// Who was dialled, and when.
    dialled: watch::Sender<Vec<(String, Instant)>>,
}

impl Cluster {
    /// The list is what does not begin with `x`, in the order in which the test's node goes round it.
    fn of(coordinators: &[(&str, Answer)]) -> Arc<Self> {
        let listed = coordinators.iter().map(|(address, _)| (*address).to_owned());
        let mut list: Vec<String> = listed.filter(|address| !address.starts_with('x')).collect();
        let begin = Route::new(list.clone(), &"n1".parse().unwrap()).address().unwrap().to_owned();
        let place = list.iter().position(|address| *address == begin).unwrap();
        list.rotate_right(place);
        assert_eq!(Route::new(list.clone(), &"n1".parse().unwrap()).address(), Some(coordinators[0].0));
        let answers = coordinators.iter().map(|(address, answer)| ((*address).to_owned(), *answer)).collect();
        Arc::new(Self { list, answers, ledger: Arc::default(), dialled: watch::Sender::default() })
    }

    /// The first `count` dials: addresses, with `|` where time passed.
    async fn dials(&self, count: usize) -> String {
        let mut dialled = self.dialled.subscribe();
        let dialled = dialled.wait_for(|dialled| dialled.len() >= count).await.unwrap()[..count].to_vec();
        let mut text = String::new();
        for (at, (address, when)) in dialled.iter().enumerate() {
            if at > 0 {
                text += if *when > dialled[at - 1].1 { " | " } else { " " };
            }
            text += address;
        }
        text
    }

    fn addresses_dialled(&self) -> Vec<String> {
        self.dialled.borrow().iter().map(|(address, _)| address.clone()).collect()
    }
}

impl Dial for Cluster {
    fn addresses(&self) -> Vec<String> {
        self.list.clone()
    }

    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<AgentSession, aap_transport::Error>> {
        self.dialled.send_modify(|dialled| dialled.push((address.to_owned(), Instant::now())));
        let session = match self.answers.get(address).unwrap_or(&Dead) {
            Dead => Err(aap_transport::Error::Connect {
                address: address.to_owned(),
                carrier: "memory",
                source: Arc::new(std::io::Error::other("dead, says the test")),
            }),
            Serves => Ok(serve(&self.ledger, None)),
            GivesTo(other) => Ok(serve(&self.ledger, Some(other))),
            Silent => Ok(answering_hello(None)),
            SendsTo(other) => Ok(answering_hello(Some(other))),
        };
        Box::pin(async move { session })
    }
}

/// A session whose hello is answered by a redirect, or by nothing at all.
fn answering_hello(redirect_to: Option<&'static str>) -> AgentSession {
    let (session, tx, mut rx) = pair();
    #[expect(clippy::disallowed_methods, reason = "ends with the session")]
    tokio::spawn(async move {
        while let Ok(Some(_)) = rx.recv().await {
            if let Some(to) = redirect_to {
                drop(tx.send(down(redirect(to))).await);
            }
        }
    });
    session
}

/// What is dialled first by an agent of this cluster.
async fn check_dials(coordinators: &[(&str, Answer)], expected: &str) {
    let (rig, cluster) = (Rig::new(), Cluster::of(coordinators));
    let uplink = connect_by(&rig, cluster.clone());
    let count = expected.split_whitespace().filter(|word| *word != "|").count();
    assert_eq!(cluster.dials(count).await, expected);
    uplink.stop().await;
}

#[tokio::test(start_paused = true)]
async fn dead_coordinators_are_passed_at_once_and_a_round_of_them_is_paused_for() {
    check_dials(&[("a:1", Dead), ("b:1", Serves)], "a:1 b:1").await;
    check_dials(&[("a:1", Dead)], "a:1 | a:1 | a:1").await;
    let all = [("a:1", Dead), ("b:1", Dead), ("c:1", Dead)];
    check_dials(&all, "a:1 b:1 c:1 | a:1 b:1 c:1 | a:1").await;
}

#[tokio::test(start_paused = true)]
async fn a_redirect_is_followed_at_once_also_to_where_the_list_does_not_lead() {
    check_dials(&[("a:1", SendsTo("x:1")), ("b:1", Dead), ("x:1", Serves)], "a:1 x:1").await;
    check_dials(&[("a:1", SendsTo("b:1")), ("b:1", SendsTo("x:1")), ("x:1", Serves)], "a:1 b:1 x:1").await;
}

#[tokio::test(start_paused = true)]
async fn a_redirect_to_what_is_dead_or_no_address_falls_back_to_the_list() {
    check_dials(&[("a:1", SendsTo("x:1")), ("b:1", Serves)], "a:1 x:1 b:1").await;
    for address in ["", "nowhere", "x:70000", "auto"] {
        check_dials(&[("a:1", SendsTo(address)), ("b:1", Serves)], "a:1 b:1").await;
    }
}

#[tokio::test(start_paused = true)]
async fn redirects_in_a_circle_end_in_a_pause_and_the_list() {
    let circle = [("a:1", SendsTo("b:1")), ("b:1", SendsTo("a:1"))];
    check_dials(&circle, "a:1 b:1 a:1 b:1 a:1 | b:1 a:1 b:1 a:1 b:1 | a:1").await;
    check_dials(&[("a:1", SendsTo("a:1"))], "a:1 a:1 a:1 a:1 a:1 | a:1").await;
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_does_not_answer_the_hello_is_left_after_10_seconds() {
    let (rig, cluster) = (Rig::new(), Cluster::of(&[("a:1", Silent), ("b:1", Silent)]));
    let uplink = connect_by(&rig, cluster.clone());
    assert_eq!(cluster.dials(2).await, "a:1 | b:1");
    let dialled = cluster.dialled.borrow().clone();
    assert_eq!(dialled[1].1.duration_since(dialled[0].1).as_secs(), 10);
    uplink.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_session_goes_on_with_another_coordinator_and_every_batch_lands_once() {
    for lost in 0..14 {
        let (rig, cluster) = (Rig::new(), Cluster::of(&[("a:1", Serves), ("b:1", Serves)]));
        store(&rig, "a", 0, 6).await;
        let cut = Cut { after_from_agent: None, after_from_coordinator: Some(lost) };
        cluster.ledger.lock().unwrap().cuts = vec![cut];
        let uplink = connect_by(&rig, cluster.clone());
        rig.until("everything is delivered", delivered).await;
        uplink.stop().await;
        assert_eq!(sequences(&cluster.ledger), [(1..=6).collect::<Vec<_>>()], "lost {lost}");
        let dialled = cluster.addresses_dialled();
        assert!(
            ["a:1", "b:1"].starts_with(&dialled.iter().map(String::as_str).collect::<Vec<_>>()),
            "{dialled:?}"
        );
        let entry = rig.deps.board.uplink_entry();
        assert_eq!(Some(entry.address), dialled.last().cloned());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_loses_the_node_hands_it_over_and_every_batch_lands_once() {
    let (rig, cluster) =
        (Rig::new(), Cluster::of(&[("a:1", GivesTo("x:1")), ("b:1", Dead), ("x:1", Serves)]));
    store(&rig, "a", 0, 6).await;
    store(&rig, "b", 0, 3).await;
    let uplink = connect_by(&rig, cluster.clone());
    rig.until("everything is delivered", delivered).await;
    uplink.stop().await;
    assert_eq!(sequences(&cluster.ledger), [(1..=6).collect::<Vec<_>>(), (1..=3).collect()]);
    assert_eq!(cluster.addresses_dialled(), ["a:1", "x:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinators_that_take_a_node_and_give_it_away_in_a_circle_are_paused_for() {
    let (rig, cluster) = (Rig::new(), Cluster::of(&[("a:1", GivesTo("b:1")), ("b:1", GivesTo("a:1"))]));
    store(&rig, "a", 0, 100).await;
    let uplink = connect_by(&rig, cluster.clone());
    rig.until("everything is delivered", delivered).await;
    uplink.stop().await;
    assert_eq!(sequences(&cluster.ledger), [(1..=100).collect::<Vec<_>>()]);
    // The credit is far less than the data, so there were many sessions.
    let dialled = cluster.dialled.borrow().clone();
    assert!(dialled[5].1.duration_since(dialled[4].1) >= PAUSE_MIN / 2, "{dialled:?}");
}
