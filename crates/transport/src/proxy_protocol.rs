//! What a proxy says of a connection before anything else comes over it: the PROXY protocol, versions 1 and 2.
//!
//! ```text
//! 1   PROXY TCP4 SOURCE DESTINATION SOURCE-PORT DESTINATION-PORT CR LF     text, 107 bytes at most
//!     PROXY UNKNOWN … CR LF
//! 2   signature (12) │ version 2 and command (1) │ family (1) │ length (2) │ addresses and more (length)
//! ```
//! Nothing behind it is read. Whoever asks has made sure that the proxy is one that is believed: it must begin with this, and a connection of
//! its own, without a client, says so by the command LOCAL.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// What version 1 begins with.
const WORD: &[u8] = b"PROXY ";
/// Longest line of version 1.
const LINE_BYTES_MAX: usize = 107;
/// Longest rest of version 2: addresses of IPv6 are 36 bytes, what proxies add to them some hundred.
const REST_BYTES_MAX: usize = 2_048;

/// Reads it; `None` where the connection is the proxy's own, or of a family without addresses.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    match stream.read_u8().await? {
        first if first == WORD[0] => read_line(stream).await,
        first if first == SIGNATURE[0] => read_binary(stream).await,
        _ => Err(wrong("it does not begin with the PROXY protocol")),
    }
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Byte by byte, because what comes behind the line is not ours.
async fn read_line(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut line = vec![WORD[0]];
    while !line.ends_with(b"\r\n") {
        if line.len() == LINE_BYTES_MAX {
            return Err(wrong("its line of the PROXY protocol is too long"));
        }
        line.push(stream.read_u8().await?);
    }
    line_source(&line).ok_or_else(|| wrong("its line of the PROXY protocol cannot be read"))
}

/// `None` for what is no such line.
fn line_source(line: &[u8]) -> Option<Option<SocketAddr>> {
    let text = std::str::from_utf8(line.strip_prefix(WORD)?).ok()?.strip_suffix("\r\n")?;
    let words: Vec<&str> = text.split(' ').collect();
    let [family, source, _destination, port, _port] = words.as_slice() else {
        return (words.first() == Some(&"UNKNOWN")).then_some(None);
    };
    let source: IpAddr = match *family {
        "TCP4" => source.parse::<Ipv4Addr>().ok()?.into(),
        "TCP6" => source.parse::<Ipv6Addr>().ok()?.into(),
        "UNKNOWN" => return Some(None),
        _ => return None,
    };
    Some(Some(SocketAddr::new(source, port.parse().ok()?)))
}

async fn read_binary(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut head = [SIGNATURE[0]; 16];
    stream.read_exact(&mut head[1..]).await?;
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if head[..12] != SIGNATURE || head[12] >> 4 != 2 || length > REST_BYTES_MAX {
        return Err(wrong("its head of the PROXY protocol cannot be read"));
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    binary_source(head[12] & 0xf, head[13], &rest)
        .ok_or_else(|| wrong("its head of the PROXY protocol is cut"))
}

fn binary_source(command: u8, family: u8, rest: &[u8]) -> Option<Option<SocketAddr>> {
    let port = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
    match (command, family) {
        (0, _) => Some(None),
        (1, 0x11) => {
            let address: [u8; 4] = rest.get(..4)?.try_into().ok()?;
            Some(Some(SocketAddr::new(Ipv4Addr::from(address).into(), port(8)?)))
        }
        (1, 0x21) => {
            let address: [u8; 16] = rest.get(..16)?.try_into().ok()?;
            Some(Some(SocketAddr::new(Ipv6Addr::from(address).into(), port(32)?)))
        }
        // Families without addresses of the internet.
        (1, _) => Some(None),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found at the beginning of `bytes`, and what was left unread.
    async fn found(bytes: &[u8]) -> (Result<Option<String>, String>, Vec<u8>) {
        let mut rest = bytes;
        let found = read(&mut rest).await;
        let found = found.map(|address| address.map(|address| address.to_string()));
        (found.map_err(|error| error.to_string()), rest.to_vec())
    }

    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[0x20 | command, family], &length, rest].concat()
    }

    #[tokio::test]
    async fn the_client_is_who_the_proxy_says_and_nothing_behind_it_is_read() {
        let v4 = [&[10, 0, 0, 1, 10, 0, 0, 2][..], &4711_u16.to_be_bytes(), &443_u16.to_be_bytes(), b"more"]
            .concat();
        let mut v6 = Ipv6Addr::LOCALHOST.octets().repeat(2);
        v6.extend([0x12, 0x67, 1, 2]);
        for (head, expected) in [
            (b"PROXY TCP4 10.0.0.1 10.0.0.2 4711 443\r\n".to_vec(), Some("10.0.0.1:4711")),
            (b"PROXY TCP6 ::1 ::2 4711 443\r\n".to_vec(), Some("[::1]:4711")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ::1 ::2 1 2\r\n".to_vec(), None),
            (version_2(1, 0x11, &v4), Some("10.0.0.1:4711")),
            (version_2(1, 0x21, &v6), Some("[::1]:4711")),
            (version_2(0, 0, &[]), None),
            (version_2(1, 0x31, &[0; 216]), None),
        ] {
            let (found, rest) = found(&[&head, &b"\x16\x03rest"[..]].concat()).await;
            assert_eq!(
                (found, rest),
                (Ok(expected.map(str::to_owned)), b"\x16\x03rest".to_vec()),
                "{head:?}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_no_such_head_is_refused_and_a_cut_one_too() {
        let long = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat();
        let too_long = [&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff], &[0; 65_535]].concat();
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"\x16\x03\x01".to_vec(),
            b"PROXY TCP4 a b 1 2\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::2 1 2\r\n".to_vec(),
            b"PROXY TCP4 10.0.0.1 10.0.0.2 70000 443\r\n".to_vec(),
            b"PROXY TCP5 10.0.0.1 10.0.0.2 1 443\r\n".to_vec(),
            b"PROXX TCP4 10.0.0.1 10.0.0.2 1 443\r\n".to_vec(),
            b"PROXY TCP4 10.0.0.1".to_vec(),
            version_2(1, 0x11, &[10, 0, 0, 1]),
            version_2(2, 0x11, &[0; 12]),
            SIGNATURE.to_vec(),
            long,
            too_long,
        ] {
            let (found, _) = found(&bytes).await;
            assert!(found.is_err(), "{bytes:?}: {found:?}");
        }
    }
}
