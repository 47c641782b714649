//! Where coordinators are that a context does not name, but says where to look for.

use aap_services::Locator;
use aap_types::{ExitCode, Problem};

/// The addresses to try, in order: at least one. An endpoint that is an address is the only one.
///
/// # Errors
/// `context.bad_endpoint` (2); `discovery.unreachable` (7), `discovery.refused` (5), `discovery.nothing` (3).
pub(crate) async fn addresses(endpoint: String) -> Result<Vec<String>, Problem> {
    if !Locator::is_meant(&endpoint) {
        return Ok(vec![endpoint]);
    }
    // Any coordinator does as well as another for whoever types: the number of the process spreads commands.
    locator(&endpoint)?.find(&std::process::id().to_string()).await
}

/// Reads a place to look.
///
/// # Errors
/// `context.bad_endpoint` (2).
pub(crate) fn locator(place: &str) -> Result<Locator, Problem> {
    place.parse().map_err(|why: String| {
        Problem::new("context.bad_endpoint", ExitCode::Usage, why).hint(
            "such as srv+_aap-operators._tcp.example.org, or consul+http://127.0.0.1:8500/aap-operators",
        )
    })
}
