//! The one registry of what an operator can do.
//!
//! The command line, its help, the completions and the machine-readable help of `aap` derive from [`all`]; so will
//! every later front end. An operation that is not here does not exist; one that is here is reachable, has an
//! example that parses and says what it prints (checked by the tests of `aap`).
//!
//! | file | owns |
//! |---|---|
//! | `ids.rs` | [`Id`]: which there are |
//! | `vocabulary.rs` | the types: [`Operation`], [`Argument`], [`Output`], [`Field`] |
//! | `platform.rs` | up, down, backup, restore, logs, status, doctor, version, completion, help, man |
//! | `data.rs` | query, ingest, stream, node |
//! | `audit.rs` | audit: what was done with privilege |
//! | `access.rs` | token; the standing of nodes |
//! | `authority.rs` | ca: the certificate authority |
//! | `sites.rs` | site: where nodes belong |
//! | `auth.rs` | auth, auth session: one's own login |
//! | `users.rs` | user, role, can-i, who-can |
//! | `secrets.rs` | secret: what is kept for sinks, sources and catalogs |
//! | `contexts.rs` | context: ways to platforms |
//! | `resources.rs` | apply, diff, get, delete: declared objects |
//! | `sinks.rs` | sink, sink dlq |
//! | `sources.rs` | source: types, and files of sources tried out; with no daemon running |
//! | `cluster.rs` | cluster: coordinators and the servers behind them |
//! | `buffer.rs` | buffer: works on a directory, with no daemon running |
//! | `globals.rs` | [`GLOBALS`]: arguments that every command takes |

mod access;
mod audit;
mod auth;
mod authority;
mod buffer;
mod cluster;
mod contexts;
mod data;
mod globals;
mod ids;
mod platform;
mod resources;
mod secrets;
mod sinks;
mod sites;
mod sources;
mod users;
mod vocabulary;

pub use globals::{GLOBALS, exit_meaning};
pub use ids::Id;
pub use platform::DOCTOR_CHECKS;
pub use vocabulary::{
    Argument, Effect, Example, Field, FieldType, Format, Kind, Noun, Operation, Output, Value,
};

/// Every noun, in the order of the help.
pub const NOUNS: &[Noun] = &[
    Noun { name: "query", summary: "Ask with SQL; list and cancel what is running" },
    Noun { name: "stream", summary: "Streams: what they hold, their newest rows, their files" },
    Noun { name: "node", summary: "Nodes: machines that run an agent, and their standing" },
    Noun { name: "site", summary: "Sites: where nodes belong" },
    Noun {
        name: "token",
        summary: "Tokens: with which machines become nodes, and with which programs act for users",
    },
    Noun { name: "ca", summary: "The certificate authority: roots, their ends, and another root" },
    Noun { name: "user", summary: "Users: who may log in, and with which roles" },
    Noun { name: "role", summary: "Roles: what their bearers may do" },
    Noun { name: "secret", summary: "Secrets that the platform keeps for sinks, sources and catalogs" },
    Noun { name: "auth", summary: "Your own login: log in and out, who you are, your password" },
    Noun { name: "auth session", summary: "Sessions: where somebody is logged in" },
    Noun { name: "context", summary: "Contexts: named ways to platforms, and what they are protected from" },
    Noun {
        name: "audit",
        summary: "What was done with privilege, and that nobody has changed the record of it",
    },
    Noun {
        name: "sink",
        summary: "Sinks: where landed rows are delivered to, how far they are, what they refuse",
    },
    Noun { name: "sink dlq", summary: "Dead letters of a sink: rows that its server will not take" },
    Noun { name: "source", summary: "Sources: which types there are, and whether a file of them works" },
    Noun {
        name: "cluster",
        summary: "The coordinators: who is there, who owns what, the servers behind them",
    },
    Noun { name: "buffer", summary: "A buffer directory on this machine, with or without a daemon" },
];

/// Every operation, in the order of the help.
pub fn all() -> impl Iterator<Item = &'static Operation> {
    let parts = [
        platform::OPERATIONS,
        resources::OPERATIONS,
        data::OPERATIONS,
        sites::OPERATIONS,
        access::OPERATIONS,
        authority::OPERATIONS,
        audit::OPERATIONS,
        users::OPERATIONS,
        secrets::OPERATIONS,
        auth::OPERATIONS,
        contexts::OPERATIONS,
        sinks::OPERATIONS,
        sources::OPERATIONS,
        cluster::OPERATIONS,
        buffer::OPERATIONS,
    ];
    parts.into_iter().flatten()
}

/// The operation of an id.
pub fn of(id: Id) -> &'static Operation {
    all().find(|operation| operation.id == id).expect("every id stands in the registry (tested)")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_operation_is_whole_and_named_once() {
        let mut names = HashSet::new();
        let mut ids = HashSet::new();
        for operation in all() {
            let name = operation.command();
            assert!(names.insert(name.clone()), "{name} twice");
            assert!(ids.insert(operation.id), "{name}: id twice");
            assert!(!operation.summary.is_empty() && !operation.summary.ends_with('.'), "{name}: summary");
            assert!(!operation.examples.is_empty(), "{name}: no example");
            assert!(operation.exits.contains(&aap_types::ExitCode::Ok), "{name}: exit 0");
            assert!(
                operation.noun.is_empty() || NOUNS.iter().any(|n| n.name == operation.noun),
                "{name}: noun"
            );
            for example in operation.examples {
                assert!(example.command.starts_with("aap "), "{name}: {}", example.command);
            }
        }
        assert_eq!(ids.len(), Id::ALL.len(), "an id without an operation");
    }

    #[test]
    fn a_noun_of_two_words_is_within_one_that_stands_before_it() {
        for (at, noun) in NOUNS.iter().enumerate() {
            let outer = noun.within();
            assert!(outer.is_empty() || NOUNS[..at].iter().any(|n| n.name == outer), "{}", noun.name);
            assert!(all().any(|operation| operation.noun == noun.name), "{}: no verb", noun.name);
        }
    }

    #[test]
    fn output_fields_and_arguments_are_named_once() {
        for operation in all() {
            let mut seen = HashSet::new();
            for field in operation.output.fields() {
                assert!(seen.insert(field.name), "{}: field {}", operation.command(), field.name);
            }
            let mut seen: HashSet<_> = GLOBALS.iter().map(|a| a.name).collect();
            let mut letters: HashSet<_> = GLOBALS.iter().filter_map(Argument::letter).collect();
            for argument in operation.arguments {
                assert!(seen.insert(argument.name), "{}: {}", operation.command(), argument.name);
                if let Some(letter) = argument.letter() {
                    assert!(letters.insert(letter), "{}: -{letter}", operation.command());
                }
            }
        }
    }
}
