//! A context learns of another root: so it goes on when the authority of its platform is replaced.

use std::time::Duration;

use camino::Utf8Path;
use tonic::transport::Channel;

use crate::authority::Authority;
use crate::bearer::Bearer;
use crate::platform::call;
use crate::v1::ListRootsRequest;
use crate::v1::access_client::AccessClient;

/// How often a context asks by which roots its platform is known: a rotation takes a day, and a command a few milliseconds.
const LEARN_EVERY: Duration = Duration::from_secs(600);
/// How long it waits for that.
const LEARN_WITHIN: Duration = Duration::from_secs(2);

/// Now and then a context asks by which roots its platform is known, over a connection that one of those it has has proven. Nothing is said of
/// a failure: the command is about something else, and the next one asks again.
pub(crate) async fn learn(path: &Utf8Path, channel: &Channel, bearer: &Bearer) {
    if !is_stale(path) {
        return;
    }
    let mut api = AccessClient::with_interceptor(channel.clone(), bearer.clone());
    let Ok(reply) = call(LEARN_WITHIN, api.list_roots(ListRootsRequest {})).await else { return };
    let told = String::from_utf8_lossy(&reply.roots);
    if let Ok(learned) = Authority::of(&told, "what the coordinator says") {
        // Written also if it is the same: that is how is known when it was asked.
        aap_runtime::write_durably(path, learned.pem().as_bytes(), 0o644).ok();
    }
}

/// Whether the roots in a file were asked for some time ago.
fn is_stale(path: &Utf8Path) -> bool {
    let written = path.metadata().and_then(|metadata| metadata.modified());
    written.is_ok_and(|written| written.elapsed().is_ok_and(|age| age >= LEARN_EVERY))
}
