//! Many agents in one process, as far as a coordinator can tell: each has a certificate of its own, dials over TLS, says hello and holds its
//! session; one that is cut off dials again, after a pause that differs from the others'.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aap_proto::v1::agent_message::Kind as Up;
use aap_proto::v1::coordinator_message::Kind as Down;
use aap_proto::v1::{AgentMessage, Hello};
use aap_runtime::SystemClock;
use aap_transport::{AgentSession, Authority, Carrier, ClientConfig, Dialer, Prefer};
use camino::Utf8PathBuf;
use tokio::runtime::Runtime;

use crate::site::Site;

/// Shortest pause before a dial is repeated, and how much longer it may be.
const PAUSE: Duration = Duration::from_millis(100);
/// See [`PAUSE`].
const PAUSE_SPREAD_MS: u64 = 400;
/// The welcome follows at once, or the session is not worth waiting for.
const WELCOME_WITHIN: Duration = Duration::from_secs(10);

/// Agents that hold sessions with the coordinator of a site, or dial it again.
#[derive(Debug)]
pub(crate) struct Fleet {
    _runtime: Runtime,
    standing: Arc<Standing>,
}

#[derive(Debug, Default)]
struct Standing {
    sessions: AtomicUsize,
    by_quic: AtomicUsize,
    refused: AtomicUsize,
}

impl Fleet {
    /// Certificates for so many nodes by the authority of the site, and an agent with each, which dials.
    pub(crate) fn of(site: &Site, agents: usize) -> Self {
        aap_runtime::raise_open_file_limit();
        let tls = Utf8PathBuf::from_path_buf(site.home().join("tls")).unwrap();
        let authority = Authority::create_or_open(&tls, Arc::new(SystemClock::default())).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let standing = Arc::new(Standing::default());
        let address = site.coordinator_address().to_string();
        for number in 0..agents {
            let node = format!("fleet-{number:04}");
            let tls = authority.node_files(&node.parse().unwrap()).unwrap();
            let config = ClientConfig { address: address.clone(), tls, prefer: Prefer::Auto };
            let (dialer, standing) = (Dialer::new(config).unwrap(), standing.clone());
            runtime.spawn(async move { live(dialer, node, number, &standing).await });
        }
        Self { _runtime: runtime, standing }
    }

    /// Agents that were welcomed and whose sessions stand.
    pub(crate) fn sessions(&self) -> usize {
        self.standing.sessions.load(Ordering::Relaxed)
    }

    /// Of these, over QUIC.
    pub(crate) fn by_quic(&self) -> usize {
        self.standing.by_quic.load(Ordering::Relaxed)
    }

    /// Dials that came to nothing so far.
    pub(crate) fn refused(&self) -> usize {
        self.standing.refused.load(Ordering::Relaxed)
    }
}

/// One agent, for ever.
async fn live(dialer: Dialer, node: String, number: usize, standing: &Standing) {
    let mut dials = 0_u64;
    loop {
        if let Ok(mut session) = dialer.connect().await
            && is_welcomed(&mut session, &node, number).await
        {
            let by_quic = usize::from(session.carrier == Carrier::Quic);
            standing.sessions.fetch_add(1, Ordering::Relaxed);
            standing.by_quic.fetch_add(by_quic, Ordering::Relaxed);
            while let Ok(Some(_)) = session.rx.recv().await {}
            standing.sessions.fetch_sub(1, Ordering::Relaxed);
            standing.by_quic.fetch_sub(by_quic, Ordering::Relaxed);
        } else {
            standing.refused.fetch_add(1, Ordering::Relaxed);
        }
        dials += 1;
        let spread = (number as u64).wrapping_mul(0x9E37_79B9).wrapping_add(dials.wrapping_mul(131));
        tokio::time::sleep(PAUSE + Duration::from_millis(spread % PAUSE_SPREAD_MS)).await;
    }
}

async fn is_welcomed(session: &mut AgentSession, node: &str, number: usize) -> bool {
    let mut store_id = vec![0; 16];
    store_id[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
    let hello = Hello {
        protocol_version: aap_proto::PROTOCOL_VERSION,
        node: node.to_owned(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        store_id: store_id.into(),
        generation: 1,
        epoch: (1 << 60) + number as u64,
        ..Hello::default()
    };
    let answered = async {
        session.tx.send(AgentMessage { kind: Some(Up::Hello(hello)) }).await.ok()?;
        session.rx.recv().await.ok()?
    };
    let answer = tokio::time::timeout(WELCOME_WITHIN, answered).await;
    matches!(answer, Ok(Some(message)) if matches!(message.kind, Some(Down::Welcome(_))))
}
