//! `aap cluster`.

use aap_client::operations::Id;

use crate::fake::{Home, check_fields};

#[test]
fn coordinators_are_shown_with_what_they_own_and_what_is_wrong() {
    let home = Home::running();
    let ran = home.aap(&["cluster", "status", "-o", "table"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let lines: Vec<&str> = ran.out.lines().collect();
    let at = lines.iter().position(|line| line.is_empty()).unwrap();
    assert!(lines[..at].contains(&"lake            s3://lake/aap"), "{}", ran.out);
    assert_eq!(
        lines[at + 1..].join("\n"),
        "COORDINATOR  AGENTS           VERSION  LEADS  SHARDS  LEASE\n\
         c1           c1.example:7400  0.1.0    yes         3  13 s\n\
         c2           c2.example:7400  0.1.0    no          0  over\n\
         problem: leases: the metadata store does not answer"
    );
    let item = home.aap(&["cluster", "status", "-o", "json"]).json()["item"].take();
    check_fields(Id::ClusterStatus, &item);
    assert_eq!(item["coordinators"][0]["shards"], serde_json::json!([0, 7, 63]));
    let ran = home.aap(&["cluster", "config"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "name: prod\ncoordinator: c1\n"));
}
