//! Proofs of the log: against a reference model, at every crash point, at every failing call, for every damaged byte.
//!
//! `AAP_SEED` replays one seed of the model, `AAP_MODEL_SEEDS` sets how many are tried.

mod crash_points;
mod damage;
mod disk;
mod model;
mod reading;
mod room;
mod world;
