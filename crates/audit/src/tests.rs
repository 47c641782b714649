//! What the log promises, by writers driven directly, by threads, and by processes that are killed.

mod basics;
mod faults;
mod kills;
mod mutations;
mod reading;
mod recovery;
mod world;
