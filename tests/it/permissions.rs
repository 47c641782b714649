//! Every operation of the registry says what it needs, in the words that roles are written in.

use aap_access::{Kind, Permission, Verb};
use aap_client::operations;
use aap_client::rules::{KINDS, VERBS};

/// Operations that need no permission: they work on files and processes of this machine, whose modes decide, or on nothing at all.
/// A new operation stands here only for such a reason.
const OF_THIS_MACHINE: [&str; 29] = [
    "aap backup",
    "aap buffer export",
    "aap buffer ls",
    "aap buffer replay",
    "aap buffer salvage",
    "aap buffer show",
    "aap buffer verify",
    "aap cluster migrate",
    "aap completion",
    "aap context add",
    "aap context export",
    "aap context lock",
    "aap context ls",
    "aap context rename",
    "aap context rm",
    "aap context show",
    "aap context unlock",
    "aap context use",
    "aap down",
    "aap help",
    "aap ingest",
    "aap init",
    "aap logs",
    "aap man",
    "aap restore",
    "aap source test",
    "aap source types",
    "aap up",
    "aap version",
];

/// Operations that need no permission, because everybody may do them about themselves. What they do about others, such as ending the
/// sessions of somebody else, the coordinator judges by what is asked.
const OF_ONESELF: [&str; 8] = [
    "aap auth login",
    "aap auth logout",
    "aap auth password",
    "aap auth session end",
    "aap auth session ls",
    "aap auth status",
    "aap auth whoami",
    "aap can-i",
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
    let mut expected = [&OF_THIS_MACHINE[..], &OF_ONESELF[..]].concat();
    expected.sort_unstable();
    assert_eq!(without, expected);
}

#[test]
fn rules_are_typed_in_the_words_of_permissions() {
    let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    let verbs: Vec<&str> = Verb::ALL.iter().map(|verb| verb.as_str()).collect();
    assert_eq!((KINDS, VERBS), (&kinds[..], &verbs[..]));
}
