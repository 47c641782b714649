//! What the crate promises, topic by topic.

mod kept;
mod lockout;
mod nodes;
mod passwords;
mod policy;
mod roles;
mod sealing;
mod secrets;
mod tickets;
mod users;
