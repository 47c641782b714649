//! The wire: generated protobuf messages and services, and checked conversions to the types the rest uses.
//!
//! The `.proto` files under `proto/proto/` are the definition; `cargo xtask gen` writes `src/generated/`.

mod audit;
mod convert;

pub use audit::{audit_record, audit_verification};
pub use convert::{
    ConvertError, PROBLEM_METADATA, RATE_LIMITED, batch_id, problem_of_status, status_of_problem,
};

/// Messages and services of package `aap.v1`.
#[expect(clippy::allow_attributes_without_reason, reason = "generated code")]
pub mod v1 {
    include!("generated/aap.v1.rs");
}

/// What operators can call.
mod calls {
    include!("generated/calls.rs");
}
pub use calls::Call;

/// Newest version of the session protocol that this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// Largest session or operator message: a frame is at most 16 MiB decoded, and some room for its envelope.
pub const MESSAGE_BYTES_MAX: usize = 20 << 20;
