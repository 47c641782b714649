//! A harness that notices nothing proves nothing: each is run against daemons with a deliberate fault, and must find the
//! rows that it costs. The faults are listed in `aap_buffer::mutant`; `cargo xtask test` builds the programs that have them.

use std::sync::Arc;
use std::time::Duration;

use aap_tests::load::post_until_taken;
use aap_tests::{Differs, Load, Pace, Platform, Produced, eventually};

use crate::lost_acks::Agent;
use crate::{accounting, cluster, crash_points, kills, lost_acks, network, node_store, power, sinks};

/// Few repetitions: a fault that the harness is made for shows at once.
const ONCE: [u64; 1] = [1];

/// Books that will not balance need not be waited for as long as others.
const SHORT: Duration = Duration::from_secs(10);

/// The harness found rows missing.
#[track_caller]
fn must_miss(compared: Result<(), Differs>) {
    let differs = compared.expect_err("the harness did not notice");
    assert!(differs.missing > 0, "{differs}");
}

/// The harness found rows doubled, and all of them.
#[track_caller]
fn must_double(compared: Result<(), Differs>) {
    let differs = compared.expect_err("the harness did not notice");
    assert!(differs.doubled > 0 && differs.missing == 0, "{differs}");
}

#[test]
fn the_same_programs_pass_without_a_fault_and_an_early_answer_costs_nothing_while_nobody_dies() {
    let platform = Platform::with_mutant("none");
    assert_eq!(lost_acks::agent_loses(&platform, 1..=1), Ok(()));
    let platform = crash_points::prepared(Platform::with_mutant("answerfirst"));
    let _daemons = platform.start_both();
    let load = Load::start(&platform, Pace::POSTS);
    eventually("requests that are taken", || (load.posted() > 500).then_some(()));
    assert_eq!(settled(&platform, load.stop()), Ok(()));
}

#[test]
fn kills_find_an_agent_that_answers_before_its_rows_are_durable() {
    let platform = Arc::new(Platform::with_mutant("answerfirst"));
    let produced =
        kills::kill_under_load(&platform, Pace { posts_every: Pace::FULL.posts_every, ..Pace::POSTS }, 4);
    must_miss(settled(&platform, produced));
}

#[test]
fn kills_find_a_coordinator_that_takes_what_is_repeated_once_more() {
    let platform = Arc::new(Platform::with_mutant("nodedupe"));
    must_double(kills::kill_under_load(&platform, Pace::POSTS, 3).compare(&platform));
}

#[test]
fn crash_points_find_an_agent_that_answers_before_its_rows_are_durable() {
    let platform = crash_points::prepared(Platform::with_mutant("answerfirst"));
    let points = [("agent.before_append", ONCE.to_vec())];
    let (produced, _daemons) = crash_points::agent_dies(&platform, Pace::POSTS, &points);
    must_miss(settled(&platform, produced));
}

/// Compares when an agent that answers first has caught up: what is missing then, its deaths have cost.
#[track_caller]
fn settled(platform: &Platform, mut produced: Produced) -> Result<(), Differs> {
    const ROWS: u64 = 10;
    let from = produced.posts;
    post_until_taken(platform, from, ROWS);
    produced.posts += ROWS;
    let last = format!("select count(*) from posts where id >= {from}");
    eventually("the last request", || (platform.count(&last) == ROWS).then_some(()));
    produced.compare(platform)
}

#[test]
fn crash_points_find_a_lake_whose_cut_moves_before_its_files_are_visible() {
    let platform = crash_points::prepared(Platform::with_mutant("cutfirst"));
    must_miss(lake_dies(&platform));
}

#[test]
fn crash_points_find_a_lake_whose_cut_moves_after_its_files_are_visible() {
    let platform = crash_points::prepared(Platform::with_mutant("cutlast"));
    must_double(lake_dies(&platform));
}

fn lake_dies(platform: &Arc<Platform>) -> Result<(), Differs> {
    let points = [("lake.after_commit_before_manifest", ONCE.to_vec())];
    let (produced, _daemons) = crash_points::coordinator_dies(platform, Pace::POSTS, &points);
    produced.compare(platform)
}

#[test]
fn batches_lost_with_the_coordinator_find_one_that_acknowledges_before_they_are_durable() {
    let platform = Platform::with_mutant("ackfirst");
    must_miss(lost_acks::coordinator_dies(&platform, "landing.before_commit", 1..=2, Agent::Restarts));
}

#[test]
fn batches_lost_with_the_coordinator_find_an_agent_that_does_not_wait_for_its_word() {
    let platform = Platform::with_mutant("cursorfirst");
    must_miss(lost_acks::coordinator_dies(&platform, "landing.before_commit", 1..=2, Agent::Restarts));
}

#[test]
fn the_death_of_one_of_several_coordinators_finds_acknowledgements_before_the_commit() {
    let early = || Platform::with_mutant("ackfirst");
    if let Some(compared) = cluster::one_dies_at("landing.before_commit", "it_mutant_ackfirst", early) {
        must_miss(compared);
    }
}

#[test]
fn the_death_of_one_of_several_coordinators_finds_another_that_takes_what_is_repeated_once_more() {
    let again = || Platform::with_mutant("nodedupe");
    if let Some(compared) =
        cluster::one_dies_at("landing.after_commit_before_ack", "it_mutant_nodedupe", again)
    {
        must_double(compared);
    }
}

#[test]
fn acknowledgements_lost_at_each_hop_find_a_coordinator_that_takes_what_is_repeated_once_more() {
    let platform = || Platform::with_mutant("nodedupe");
    must_double(lost_acks::agent_loses(&platform(), 1..=2));
    must_double(lost_acks::connection_cut(&platform(), 1..=2));
    must_double(lost_acks::coordinator_dies(
        &platform(),
        "landing.after_commit_before_ack",
        1..=1,
        Agent::Runs,
    ));
    must_double(lost_acks::network_loses(&platform(), 1..=1));
}

#[test]
fn clients_without_an_answer_find_an_agent_that_does_not_look_at_their_keys() {
    must_double(lost_acks::client_repeats(&Platform::with_mutant("nokeys"), 3));
}

#[test]
fn killed_runs_find_an_agent_that_forgets_how_far_they_came() {
    must_double(lost_acks::ingest_killed(&Platform::with_mutant("noresume"), 2));
}

#[test]
fn cut_networks_find_a_coordinator_that_takes_what_is_repeated_once_more() {
    let site = || network::prepared(Platform::with_mutant("nodedupe"));
    must_double(network::cut_again_and_again(&site(), Pace::POSTS, 2));
    let (_, compared) = network::lose_udp(&site(), Pace::POSTS);
    must_double(compared);
}

#[test]
fn rolled_back_stores_find_an_agent_that_goes_by_numbers_alone() {
    let (held, compared) = node_store::rolled_back_unnoticed(&Platform::with_mutant("nodigest"));
    assert_eq!(held, 0, "nobody is asked");
    must_miss(compared);
}

#[test]
fn books_find_an_agent_that_does_not_count_what_it_dropped() {
    let platform = || Platform::with_mutant("nobooks");
    let flooded = accounting::flood_syslog(&platform(), SHORT);
    let (fed, _) = accounting::feed_standard_input(&platform(), SHORT);
    eprintln!("noticed: {flooded:?}, {fed:?}");
    assert!(!flooded.balance() && !fed.balance(), "the harness did not notice");
}

#[test]
fn power_cuts_find_a_buffer_that_does_not_sync() {
    let platform = Platform::with_mutant("nofsync");
    let Some((platform, disk)) = power::on_own_disk(platform, "fsync") else { return };
    must_miss(power::cut_after_acknowledgements(&platform, &disk));
}

#[test]
fn counts_in_postgresql_find_a_lake_that_feeds_rows_again() {
    sinks::postgres::finds_doubled_rows(Platform::with_mutant("feedagain"));
}

#[test]
fn kills_find_an_object_store_whose_objects_say_how_far_the_one_before_went() {
    sinks::s3::finds_doubled_rows(&Platform::with_mutant("positionlate"));
}
