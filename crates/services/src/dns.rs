//! Records SRV of DNS (RFC 2782), over UDP, and over TCP where the answer is too long for that.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use simple_dns::rdata::{A, AAAA, RData, SRV};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, RCODE, TYPE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::order::Instance;

/// Longest wait for one answer. A resolver that has to ask others takes a second at most.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Questions over UDP are lost now and then.
const TRIES: usize = 2;
/// More than any server sends over UDP without being asked for more.
const UDP_BYTES_MAX: usize = 4096;
/// Where a machine says which servers it asks.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// As many of them as the C library asks.
const SERVERS_MAX: usize = 3;
/// DNS's own.
const PORT: u16 = 53;

/// Why there are no records.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DnsError {
    #[error("this machine names no DNS server in `{RESOLV_CONF}`")]
    NoServer(#[source] io::Error),
    #[error("`{0}` is no name of DNS")]
    Name(String),
    #[error("the DNS server {0} does not answer")]
    Silent(SocketAddr, #[source] io::Error),
    #[error("the DNS server {0} answers what cannot be read")]
    Unreadable(SocketAddr),
    #[error("the DNS server {0} says {1:?}")]
    Refused(SocketAddr, RCODE),
    #[error("there is no record SRV of `{0}`")]
    Nothing(String),
}

/// The instances that the records of a name tell of, asked of `server` or of those of the machine.
pub(crate) async fn service(name: &str, server: Option<SocketAddr>) -> Result<Vec<Instance>, DnsError> {
    let servers = match server {
        Some(server) => vec![server],
        None => machine_servers().await?,
    };
    let mut failure = DnsError::Nothing(name.to_owned());
    for asked in servers {
        match service_at(name, asked, server.is_some()).await {
            Ok(instances) => return Ok(instances),
            // It is known not to be there.
            Err(DnsError::Nothing(name)) => return Err(DnsError::Nothing(name)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// `is_own`: the server knows names that the machine does not, so it is asked for addresses, too.
async fn service_at(name: &str, server: SocketAddr, is_own: bool) -> Result<Vec<Instance>, DnsError> {
    let answer = ask(name, TYPE::SRV, server).await?;
    let mut instances = vec![];
    for SrvRecord { priority, weight, port, target } in &answer.services {
        let ips = match (answer.addresses_of(target), is_own) {
            (ips, true) if !ips.is_empty() => ips,
            (_, true) => addresses(target, server).await,
            (_, false) => vec![],
        };
        let hosts = if ips.is_empty() {
            vec![target.clone()]
        } else {
            ips.iter().map(|ip| in_address(*ip)).collect()
        };
        let instance = |host: String| Instance {
            address: format!("{host}:{port}"),
            priority: *priority,
            weight: *weight,
        };
        instances.extend(hosts.into_iter().map(instance));
    }
    if instances.is_empty() { Err(DnsError::Nothing(name.to_owned())) } else { Ok(instances) }
}

/// An IPv6 address stands in brackets.
fn in_address(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// Many servers know only addresses of one kind, and refuse to look for the other. One that knows none leaves the name to the machine.
async fn addresses(name: &str, server: SocketAddr) -> Vec<IpAddr> {
    let answers = [ask(name, TYPE::A, server).await, ask(name, TYPE::AAAA, server).await];
    answers.into_iter().flatten().flat_map(|answer| answer.addresses_of(name)).collect()
}

#[derive(Debug, PartialEq, Eq)]
struct SrvRecord {
    priority: u16,
    weight: u16,
    port: u16,
    /// Without the dot at its end.
    target: String,
}

/// What an answer tells.
#[derive(Debug, Default)]
struct Answer {
    services: Vec<SrvRecord>,
    addresses: Vec<(String, IpAddr)>,
}

impl Answer {
    fn addresses_of(&self, name: &str) -> Vec<IpAddr> {
        let named = self.addresses.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, ip)| *ip).collect()
    }
}

async fn ask(name: &str, kind: TYPE, server: SocketAddr) -> Result<Answer, DnsError> {
    let id = random_id().map_err(|error| DnsError::Silent(server, error))?;
    let question = question(id, name, kind)?;
    let silent = |error| DnsError::Silent(server, error);
    let mut bytes = over_udp(&question, server).await.map_err(silent)?;
    if simple_dns::header_buffer::has_flags(&bytes, PacketFlag::TRUNCATION).unwrap_or(false) {
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        let asked = tokio::time::timeout(ANSWER_MAX, over_tcp(&question, server)).await;
        bytes = asked.unwrap_or_else(|_| Err(late())).map_err(silent)?;
    }
    read(&bytes, id, name, server)
}

fn question(id: u16, name: &str, kind: TYPE) -> Result<Vec<u8>, DnsError> {
    let bad = |_| DnsError::Name(name.to_owned());
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let asked = Name::new(name).map_err(bad)?;
    packet.questions.push(Question::new(asked, QTYPE::TYPE(kind), CLASS::IN.into(), false));
    packet.build_bytes_vec().map_err(bad)
}

/// Only what answers this question is read: anybody can send to a port.
fn read(bytes: &[u8], id: u16, name: &str, server: SocketAddr) -> Result<Answer, DnsError> {
    let packet = Packet::parse(bytes).map_err(|_| DnsError::Unreadable(server))?;
    let is_ours = packet.id() == id
        && packet.has_flags(PacketFlag::RESPONSE)
        && packet.questions.iter().all(|asked| asked.qname.to_string().eq_ignore_ascii_case(name));
    if !is_ours {
        return Err(DnsError::Unreadable(server));
    }
    match packet.rcode() {
        RCODE::NoError => {}
        RCODE::NameError => return Err(DnsError::Nothing(name.to_owned())),
        code => return Err(DnsError::Refused(server, code)),
    }
    let mut answer = Answer::default();
    for record in packet.answers.iter().chain(&packet.additional_records) {
        let owner = record.name.to_string();
        match &record.rdata {
            // A lone dot says that there is no such service.
            RData::SRV(SRV { target, .. }) if target.get_labels().is_empty() => {}
            RData::SRV(SRV { priority, weight, port, target }) if *port != 0 => {
                let (priority, weight, port, target) = (*priority, *weight, *port, target.to_string());
                answer.services.push(SrvRecord { priority, weight, port, target });
            }
            RData::A(A { address }) => answer.addresses.push((owner, Ipv4Addr::from(*address).into())),
            RData::AAAA(AAAA { address }) => answer.addresses.push((owner, Ipv6Addr::from(*address).into())),
            _ => {}
        }
    }
    Ok(answer)
}

async fn over_udp(question: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let own: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((own, 0)).await?;
    socket.connect(server).await?;
    let mut bytes = vec![0; UDP_BYTES_MAX];
    for _ in 0..TRIES {
        socket.send(question).await?;
        if let Ok(received) = tokio::time::timeout(ANSWER_MAX, socket.recv(&mut bytes)).await {
            bytes.truncate(received?);
            return Ok(bytes);
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

async fn over_tcp(question: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let mut bytes = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn machine_servers() -> Result<Vec<SocketAddr>, DnsError> {
    let text = tokio::fs::read_to_string(RESOLV_CONF).await.map_err(DnsError::NoServer)?;
    let servers = servers_in(&text);
    if servers.is_empty() { Err(DnsError::NoServer(io::ErrorKind::NotFound.into())) } else { Ok(servers) }
}

fn servers_in(text: &str) -> Vec<SocketAddr> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok()).flatten()
    });
    named.take(SERVERS_MAX).map(|ip| SocketAddr::new(ip, PORT)).collect()
}

fn random_id() -> io::Result<u16> {
    let mut bytes = [0; 2];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u16::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use simple_dns::ResourceRecord;
    use tokio::net::TcpListener;

    use super::*;

    const NAME: &str = "_aap._tcp.example";

    /// An answer to `question`, with these records behind it.
    fn answer(question: &[u8], code: RCODE, records: Vec<RData<'static>>) -> Vec<u8> {
        let asked = Packet::parse(question).unwrap();
        let mut packet = Packet::new_reply(asked.id());
        *packet.rcode_mut() = code;
        packet.questions = asked.questions.clone();
        for record in records {
            let name = if matches!(record, RData::SRV(_)) { NAME } else { "c1.example" };
            let is_service = matches!(record, RData::SRV(_));
            let record = ResourceRecord::new(Name::new(name).unwrap(), CLASS::IN, 0, record);
            if is_service { packet.answers.push(record) } else { packet.additional_records.push(record) }
        }
        packet.build_bytes_vec_compressed().unwrap()
    }

    fn srv(target: &'static str, priority: u16, port: u16) -> RData<'static> {
        RData::SRV(SRV { priority, weight: 1, port, target: Name::new(target).unwrap() })
    }

    fn address() -> RData<'static> {
        RData::A(A { address: Ipv4Addr::new(10, 0, 0, 1).into() })
    }

    /// What is found at a server that answers once with what `make` says.
    async fn found(make: impl Fn(&[u8]) -> Vec<u8>) -> Result<Vec<String>, DnsError> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = socket.local_addr().unwrap();
        let serve = async {
            let mut bytes = [0; 512];
            let (length, from) = socket.recv_from(&mut bytes).await.unwrap();
            socket.send_to(&make(&bytes[..length]), from).await.unwrap();
        };
        let (found, ()) = tokio::join!(service(NAME, Some(server)), serve);
        Ok(found?.into_iter().map(|instance| format!("{} {}", instance.priority, instance.address)).collect())
    }

    #[tokio::test]
    async fn targets_are_told_with_the_addresses_that_came_along() {
        let told =
            found(|question| answer(question, RCODE::NoError, vec![srv("c1.example", 3, 7400), address()]))
                .await;
        assert_eq!(told.unwrap(), ["3 10.0.0.1:7400"]);
    }

    #[tokio::test]
    async fn what_is_no_answer_is_told_apart() {
        let none = found(|question| answer(question, RCODE::NameError, vec![])).await;
        assert!(matches!(none, Err(DnsError::Nothing(_))), "{none:?}");
        let empty = found(|question| answer(question, RCODE::NoError, vec![])).await;
        assert!(matches!(empty, Err(DnsError::Nothing(_))), "{empty:?}");
        let refused = found(|question| answer(question, RCODE::ServerFailure, vec![])).await;
        assert!(matches!(refused, Err(DnsError::Refused(..))), "{refused:?}");
        let garbage = found(|_| b"garbage".to_vec()).await;
        assert!(matches!(garbage, Err(DnsError::Unreadable(_))), "{garbage:?}");
        let other = found(|question| {
            let mut forged = answer(question, RCODE::NoError, vec![srv("evil.example", 1, 1), address()]);
            forged[0] ^= 1;
            forged
        });
        assert!(matches!(other.await, Err(DnsError::Unreadable(_))), "an answer to another question");
        let bad = question(1, &"a".repeat(64), TYPE::SRV);
        assert!(matches!(bad, Err(DnsError::Name(_))), "{bad:?}");
    }

    #[tokio::test]
    async fn a_long_answer_comes_over_tcp() {
        // A port that is free for UDP may be taken for TCP.
        let (socket, listener) = loop {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()).await {
                break (socket, listener);
            }
        };
        let server = socket.local_addr().unwrap();
        let serve = async {
            let mut bytes = [0; 512];
            let (length, from) = socket.recv_from(&mut bytes).await.unwrap();
            let mut short = answer(&bytes[..length], RCODE::NoError, vec![]);
            // TC, in the third byte.
            short[2] |= 2;
            socket.send_to(&short, from).await.unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut question = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut question).await.unwrap();
            let whole = answer(&question, RCODE::NoError, vec![srv("c1.example", 1, 7400), address()]);
            stream.write_all(&u16::try_from(whole.len()).unwrap().to_be_bytes()).await.unwrap();
            stream.write_all(&whole).await.unwrap();
        };
        let (found, ()) = tokio::join!(service(NAME, Some(server)), serve);
        assert_eq!(found.unwrap()[0].address, "10.0.0.1:7400");
    }

    #[test]
    fn servers_of_the_machine_are_read_as_the_c_library_does() {
        let text = "# x\nsearch example\nnameserver 10.0.0.1\nnameserver ::1 # two\nnameserver what\nnameserver 1.1.1.1\nnameserver 9.9.9.9\n";
        let servers: Vec<String> = servers_in(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[::1]:53", "1.1.1.1:53"]);
    }
}
