//! Servers that take rows as requests.

mod sink;
mod spec;

pub use sink::HttpSink;
pub use spec::{Format, HttpSpec, Verb};
