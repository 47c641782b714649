//! Who may do what: roles and the decision by them, the secrets that the platform issues, passwords, and the records of users,
//! sessions, tokens and nodes with everything that may become of each. Pure: no network, no storage, no time of its own.
//!
//! ```text
//!  password | session | API token | client certificate      what is shown
//!            │ User::…, Session::admits, NodeIdentity::admit  against its record
//!            ▼
//!        Principal ── Policy::decide(verb, object) ──► Decision, with the rule that decided
//!                  ├─ Policy::reach(kind, verb) ─────► Reach: the objects of a kind, for listings
//!                  └─ Policy::rows(stream) ──────────► Rows: whose rows of a stream, for queries
//! ```
//! What is not allowed by a rule is denied, and a rule that denies wins. Records change by methods here, which decide everything;
//! `aap-store` keeps them, and puts a change only in the place of what was read.
//!
//! | file | owns |
//! |---|---|
//! | `permission.rs` | [`Kind`], [`Verb`], [`Permission`]: the words of roles and of the operation registry |
//! | `pattern.rs` | [`Pattern`]: a name, or a glob of names |
//! | `role.rs`, `built_in.rs` | [`Role`], [`Rule`]: the section `spec` of kind Role; the roles that are always there |
//! | `principal.rs` | [`Principal`]: who asks |
//! | `policy.rs` | [`Policy`], [`Decision`]: all roles, and what they say |
//! | `reach.rs` | [`Reach`]: which objects of a kind somebody may act on |
//! | `rows.rs` | [`Rows`]: whose rows of a stream somebody may see |
//! | `issued.rs` | [`IssuedSecret`]: the one format of session tokens, API tokens and enrolment tokens; [`SecretHash`] |
//! | `kept.rs` | [`KeptSecret`], [`SealingKeys`]: secrets that are kept for sinks and sources, sealed |
//! | `sealing.rs` | [`SealingKey`], [`Salt`]: texts that are kept sealed |
//! | `ticket.rs` | [`EnrolmentTicket`]: everything that a new node needs, as one text |
//! | `password.rs` | [`Passwords`]: Argon2id, and which passwords are taken |
//! | `lockout.rs` | [`Lockout`], [`Addresses`]: delays after wrong passwords |
//! | `user.rs` | [`User`], [`Session`], [`ApiToken`] |
//! | `enrolment.rs` | [`EnrolmentToken`]: who may become a node |
//! | `node.rs` | [`NodeIdentity`]: what a node is known by, its states, its certificates |
//! | `problem.rs` | what operators are told |

mod built_in;
mod enrolment;
mod issued;
mod kept;
mod lockout;
mod node;
mod password;
mod pattern;
mod permission;
mod policy;
mod principal;
mod problem;
mod reach;
mod role;
mod rows;
mod sealing;
#[cfg(test)]
mod tests;
mod ticket;
mod user;

pub use built_in::BUILT_IN;
pub use enrolment::{
    ENROLMENT_BULK_LIFETIME_MAX, ENROLMENT_LIFETIME, ENROLMENT_USES_MAX, EnrolmentToken, EnrolmentUse, Taken,
};
pub use issued::{
    Fingerprint, HashKey, IssuedId, IssuedKind, IssuedSecret, NotIssued, RandomError, SecretHash,
};
pub use kept::{KeptSecret, NotKeys, NotOpened, SECRET_BYTES_MAX, SealingKeys};
pub use lockout::{Addresses, Lockout};
pub use node::{Admission, Certificate, NO_KEY, NodeIdentity, NodeState, RECOVERIES_MAX, Renewal};
pub use password::{PasswordFault, PasswordHash, Passwords, Verified};
pub use pattern::Pattern;
pub use permission::{Kind, Permission, UnknownWord, Verb};
pub use policy::{Because, Decision, Policy};
pub use principal::{Principal, PrincipalKind};
pub use problem::locked_out;
pub use reach::{Reach, Rules};
pub use role::{Labels, NodeFacts, Object, OneOrAll, Role, Rule};
pub use rows::Rows;
pub use sealing::{Salt, SealingKey};
pub use ticket::{Address, EnrolmentTicket, TicketError};
pub use user::{
    API_TOKEN_LIFETIME_MAX, ApiToken, Credential, Origin, Refusal, SESSION_IDLE, SESSION_LIFETIME, Session,
    User, UserName, UserNameError,
};

/// A length of time as records have it.
fn micros(time: std::time::Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
