//! `aap-agent enroll`: this machine becomes a node of a platform.
//!
//! It makes its key, shows the token to a coordinator whose certificate leads to the authority that the token names, and gets a certificate
//! for that key. The key never leaves the machine. Every step can be done again: a token whose answer was lost is answered once more for
//! the same key.
//!
//! ```text
//! tls/enrolling.key              the key, until it is answered
//! tls/nodes/NODE.key  NODE.pem   afterwards, with the certificate
//! tls/root.pem                   the authorities to believe
//! tls/enrolment.json             where to come back to with an expired certificate
//! config/agent.yaml              where coordinators are, if there was none
//! ```

use std::fs::DirBuilder;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::time::Duration;

use aap_access::{EnrolmentTicket, Fingerprint};
use aap_proto::problem_of_status;
use aap_proto::v1::{EnrolReply, EnrolRequest};
use aap_runtime::{Home, write_durably};
use aap_transport::{EnrolmentApi, NodeKey, enrolment};
use aap_types::{ExitCode, NodeId, Problem};
use camino::Utf8Path;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cli::{Output, print_line};

/// From the home on.
const REMEMBERED: &str = "tls/enrolment.json";
/// What a token has at most, and one letter more, so that a longer text is noticed.
const TICKET_BYTES_MAX: u64 = 4097;
/// The longest pause between two looks whether an operator has approved the node.
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(10);

/// What the command line says.
#[derive(Debug)]
pub(crate) struct Wish {
    /// The token, or `-` for standard input.
    pub(crate) token: String,
    /// The name that the node shall have. Default: that of the token, else this machine's.
    pub(crate) node: Option<NodeId>,
    /// Whether what is there of an earlier enrolment may go.
    pub(crate) again: bool,
}

/// Enrols, waiting for an operator's approval where that is needed.
pub(crate) async fn run(home: &Home, wish: Wish, output: Output) -> Result<(), Problem> {
    let ticket = ticket(&wish.token)?;
    refuse_taken(home, wish.again)?;
    let folder = home.tls().join("nodes");
    make_private(&home.config())?;
    make_private(&folder)?;
    let key_path = home.tls().join("enrolling.key");
    let key = NodeKey::read_or_make(&key_path).map_err(|error| error.problem())?;
    let node = wish.node.unwrap_or_else(this_machine);
    let request = EnrolRequest {
        token: ticket.secret().reveal().to_owned(),
        node: node.to_string(),
        csr: key.request(&node).map_err(|error| error.problem())?.into(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let reply = ask(&ticket, request).await?;
    let node: NodeId = reply.node.parse().map_err(|_| answered_badly("it names no node"))?;
    if reply.certificate.is_empty() || reply.authorities.is_empty() {
        return Err(answered_badly("it holds no certificate"));
    }
    let own = |kind: &str| folder.join(format!("{node}.{kind}"));
    write(&home.tls().join("root.pem"), &reply.authorities)?;
    let made = std::fs::read(&key_path).map_err(|error| cannot_write(&key_path, &error))?;
    write(&own("key"), &made)?;
    write(&own("pem"), &reply.certificate)?;
    remember(home, &ticket)?;
    let configured = configure(home, &node, &reply.addresses)?;
    std::fs::remove_file(&key_path).map_err(|error| cannot_write(&key_path, &error))?;
    tell(&node, &reply, configured, output);
    Ok(())
}

fn ticket(text: &str) -> Result<EnrolmentTicket, Problem> {
    let bad = |cause: String| {
        Problem::new("enrolment.bad_token", ExitCode::Usage, "this is no enrolment token")
            .cause(cause)
            .hint_command("make one where the coordinator is", "aap token create --site SITE")
    };
    let mut read = String::new();
    let text = match text {
        "-" => {
            let input = std::io::stdin().take(TICKET_BYTES_MAX).read_to_string(&mut read);
            input.map_err(|error| bad(error.to_string()))?;
            &read
        }
        text => text,
    };
    EnrolmentTicket::parse(text).map_err(|error| bad(error.to_string()))
}

/// A home with an authority of its own needs no enrolment, and one that was enrolled needs none again.
fn refuse_taken(home: &Home, again: bool) -> Result<(), Problem> {
    // The key of the root may be away.
    if ["root.key", "intermediate.key"].iter().any(|key| home.tls().join(key).exists()) {
        let message =
            format!("`{}` has a certificate authority of its own: it is a coordinator's home", home.root());
        return Err(Problem::new("enrolment.own_authority", ExitCode::Conflict, message)
            .hint_command("enrol into another home", "AAP_HOME=DIR aap-agent enroll TOKEN"));
    }
    if !again && home.tls().join("root.pem").exists() && !home.tls().join("enrolling.key").exists() {
        let message = format!("the node of `{}` is enrolled already", home.root());
        return Err(Problem::new("enrolment.already", ExitCode::Conflict, message).hint_command(
            "enrol it once more, for another platform or after it was banned",
            "aap-agent enroll --again TOKEN",
        ));
    }
    Ok(())
}

fn this_machine() -> NodeId {
    NodeId::from_host_name(&rustix::system::uname().nodename().to_string_lossy())
}

/// Asks one coordinator after the other, and the one that answers again until there is a certificate.
async fn ask(ticket: &EnrolmentTicket, request: EnrolRequest) -> Result<EnrolReply, Problem> {
    let mut told = false;
    loop {
        let mut api = connect(ticket).await?;
        let answer = api.enrol(request.clone()).await;
        let reply = answer.map_err(|status| problem_of_status(&status))?.into_inner();
        if reply.retry_after_ms == 0 {
            return Ok(reply);
        }
        if !std::mem::replace(&mut told, true) {
            eprint_line(&format!(
                "`{}` waits for an operator: aap node approve {}   (Ctrl-C is safe; the same command goes on)",
                reply.node, reply.node
            ));
        }
        tokio::time::sleep(Duration::from_millis(reply.retry_after_ms).min(LOOK_AGAIN_MAX)).await;
    }
}

async fn connect(ticket: &EnrolmentTicket) -> Result<EnrolmentApi, Problem> {
    let mut failure = None;
    for address in ticket.coordinators() {
        match enrolment(address.as_str(), &[ticket.authority().0]).await {
            Ok(api) => return Ok(api),
            Err(error) => failure = Some(error.problem()),
        }
    }
    Err(failure.unwrap_or_else(|| answered_badly("the token names no coordinator")))
}

/// Where the coordinators are that enrol nodes, and what they are known by: for a certificate that expires while the node is away.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Enrolment {
    pub(crate) authority: Fingerprint,
    pub(crate) coordinators: Vec<String>,
}

impl Enrolment {
    /// What was remembered in a home, if its node enrolled.
    pub(crate) fn read(home: &Utf8Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(home.join(REMEMBERED)).ok()?).ok()
    }
}

fn remember(home: &Home, ticket: &EnrolmentTicket) -> Result<(), Problem> {
    let path = home.root().join(REMEMBERED);
    let coordinators = ticket.coordinators().iter().map(ToString::to_string).collect();
    let enrolment = Enrolment { authority: ticket.authority(), coordinators };
    let json = serde_json::to_vec(&enrolment).map_err(|error| cannot_write(&path, &error))?;
    write(&path, &json)
}

/// Writes `config/agent.yaml` where there is none. Whether it did.
fn configure(home: &Home, node: &NodeId, addresses: &[String]) -> Result<bool, Problem> {
    let path = home.config().join("agent.yaml");
    if path.exists() {
        return Ok(false);
    }
    let document = json!({
        "apiVersion": "aap/v1",
        "kind": "Agent",
        "metadata": { "name": node },
        "spec": { "coordinator": { "addresses": addresses } },
    });
    let text = serde_norway::to_string(&document).map_err(|error| cannot_write(&path, &error))?;
    write(&path, text.as_bytes())?;
    Ok(true)
}

fn tell(node: &NodeId, reply: &EnrolReply, configured: bool, output: Output) {
    if output == Output::Json {
        let item = json!({
            "node": node, "site": reply.site, "coordinators": reply.addresses, "configured": configured,
        });
        return print_line(&item.to_string());
    }
    print_line(&format!("`{node}` is a node of site `{}` now", reply.site));
    if !configured {
        let addresses = reply.addresses.join(", ");
        print_line(&format!(
            "config/agent.yaml was there and stays: its `metadata.name` must be {node}, its `coordinator.addresses` [{addresses}]"
        ));
    }
    print_line("next: start `aap-agent`; `aap node ls` where the coordinator is shows it");
}

fn eprint_line(text: &str) {
    use std::io::Write;
    let mut err = std::io::stderr().lock();
    if writeln!(err, "{text}").is_err() {
        tracing::debug!("nobody reads what is told");
    }
}

fn make_private(folder: &Utf8Path) -> Result<(), Problem> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| cannot_write(folder, &error))
}

fn write(path: &Utf8Path, bytes: &[u8]) -> Result<(), Problem> {
    write_durably(path, bytes, 0o600).map_err(|error| cannot_write(path, &error))
}

fn cannot_write(path: &Utf8Path, error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::new("enrolment.files", ExitCode::Failed, format!("cannot write `{path}`"))
        .caused_by(error)
        .hint("the same command goes on where it stopped, with the same token")
}

/// Root could not go on as the user whom the home belongs to.
pub(crate) fn not_the_owner(home: &Home, error: &std::io::Error) -> Problem {
    let message = format!("cannot go on as the user whom `{}` belongs to", home.root());
    Problem::new("enrolment.files", ExitCode::Failed, message).caused_by(error)
}

fn answered_badly(what: &str) -> Problem {
    Problem::new("enrolment.answer", ExitCode::Failed, "the coordinator's answer cannot be used").cause(what)
}
