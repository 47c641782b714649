//! A coordinator that dies or has no space at its very first load into the lake.

use aap_tests::load::{exactly_once, post_until_taken};
use aap_tests::{Platform, Settings};

#[test]
fn a_coordinator_that_dies_before_its_first_commit_of_the_lake_starts_again() {
    for point in [
        "lake.after_files_before_commit",
        "lake.after_commit_before_manifest",
        "lake.after_manifest_before_advance",
    ] {
        let platform = Platform::new();
        let coordinator = "lake: { age_seconds: 0 }".to_owned();
        platform.prepare("n1", &Settings { coordinator, ..Settings::default() });
        let _agent = platform.start("agent");
        let mut dying = platform.start_failing("coordinator", &format!("{point}=abort"));
        post_until_taken(&platform, 0, 50);
        dying.await_end(point);
        let _coordinator = platform.start("coordinator");
        platform.await_coordinator();
        platform.await_connected();
        exactly_once(&platform, "posts", "id", 50);
    }
}
