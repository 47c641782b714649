//! Every operation of the registry says what it needs, in the words that roles are written in.

use aap_access::Permission;
use aap_client::operations;

/// Operations that need no permission: they work on files and processes of this machine, whose modes decide, or on nothing at all.
/// A new operation stands here only for such a reason.
const OF_THIS_MACHINE: [&str; 18] = [
    "aap backup",
    "aap buffer export",
    "aap buffer ls",
    "aap buffer replay",
    "aap buffer salvage",
    "aap buffer show",
    "aap buffer verify",
    "aap cluster migrate",
    "aap completion",
    "aap down",
    "aap help",
    "aap ingest",
    "aap logs",
    "aap restore",
    "aap source test",
    "aap source types",
    "aap up",
    "aap version",
];

#[test]
fn the_permission_of_every_operation_is_one_that_a_role_can_give() {
    let mut without = vec![];
    for operation in operations::all() {
        match operation.permission {
            "" => without.push(operation.command()),
            text => {
                let permission: Permission =
                    text.parse().unwrap_or_else(|error| panic!("{}: {error}", operation.command()));
                assert_eq!(permission.to_string(), text);
            }
        }
    }
    without.sort();
    assert_eq!(without, OF_THIS_MACHINE);
}
