//! Packets of MQTT 3.1.1 and 5, as far as a client that only subscribes needs them.
//!
//! ```text
//! type and flags (1) │ length (1–4, seven bits a byte) │ texts behind 16-bit lengths, numbers, in 5 properties │ payload
//! ```

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::config::MqttVersion;

/// Room of a packet beside its payload: a topic has at most 64 KiB, properties are few.
const HEAD_BYTES_MAX: usize = 128 << 10;
/// One read.
const READ_BYTES: usize = 64 << 10;

/// What a broker sends.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Packet {
    /// The answer to the login: zero, or why not.
    Connected {
        session_present: bool,
        code: u8,
    },
    /// The answer to a subscription: a quality of service or 128 and above for each.
    Subscribed(Vec<u8>),
    Publish(Publish),
    /// The broker knows that we have the message of this id.
    Release(u16),
    Pong,
    /// The broker ends the session, and why.
    Disconnect(u8),
    /// What a client that only subscribes has no use for.
    Other,
}

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Publish {
    pub(super) topic: String,
    pub(super) qos: u8,
    pub(super) is_retained: bool,
    /// Zero where the quality of service is.
    pub(super) id: u16,
    pub(super) payload: Bytes,
    /// It is larger than the limit: the payload is its beginning.
    pub(super) is_too_large: bool,
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads packets from a connection. What has come but is not whole stays: dropping [`Self::next`] loses nothing.
#[derive(Debug)]
pub(super) struct Reader<S> {
    stream: S,
    bytes: BytesMut,
    /// Bytes of a packet that was too large, still to be passed over.
    skip: usize,
    version: MqttVersion,
    message_bytes_max: usize,
}

impl<S: AsyncRead + Unpin> Reader<S> {
    pub(super) fn new(stream: S, version: MqttVersion, message_bytes_max: usize) -> Self {
        Self { stream, bytes: BytesMut::new(), skip: 0, version, message_bytes_max }
    }

    /// The next packet.
    pub(super) async fn next(&mut self) -> io::Result<Packet> {
        loop {
            if let Some(packet) = self.parse()? {
                return Ok(packet);
            }
            self.bytes.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// A packet that has come already.
    fn parse(&mut self) -> io::Result<Option<Packet>> {
        let skipped = self.skip.min(self.bytes.len());
        self.bytes.advance(skipped);
        self.skip -= skipped;
        if self.skip > 0 {
            return Ok(None);
        }
        let Some((head, length)) = head(&self.bytes)? else { return Ok(None) };
        let first = self.bytes[0];
        let limit = self.message_bytes_max + HEAD_BYTES_MAX;
        let taken = length.min(limit);
        if self.bytes.len() < head + taken {
            return Ok(None);
        }
        self.skip = length - taken;
        self.bytes.advance(head);
        let mut body = self.bytes.split_to(taken).freeze();
        let packet = packet(first, &mut body, self.version, self.message_bytes_max, length > taken)?;
        Ok(Some(packet))
    }
}

/// The length of the head, and of what follows it.
fn head(bytes: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let mut length = 0;
    for (at, byte) in bytes.iter().skip(1).enumerate() {
        if at == 4 {
            return Err(broken("a length of more than four bytes"));
        }
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((at + 2, length)));
        }
    }
    Ok(None)
}

fn packet(
    first: u8,
    body: &mut Bytes,
    version: MqttVersion,
    message_bytes_max: usize,
    is_cut: bool,
) -> io::Result<Packet> {
    Ok(match first >> 4 {
        2 => {
            let session_present = byte(body)? & 1 == 1;
            Packet::Connected { session_present, code: byte(body)? }
        }
        3 => {
            let qos = first >> 1 & 3;
            let topic = text(body)?;
            let id = if qos > 0 { number(body)? } else { 0 };
            skip_properties(body, version)?;
            let is_too_large = is_cut || body.len() > message_bytes_max;
            let payload = body.split_to(body.len().min(message_bytes_max));
            Packet::Publish(Publish { topic, qos, is_retained: first & 1 == 1, id, payload, is_too_large })
        }
        6 => Packet::Release(number(body)?),
        9 => {
            number(body)?;
            skip_properties(body, version)?;
            Packet::Subscribed(body.to_vec())
        }
        13 => Packet::Pong,
        14 => Packet::Disconnect(body.first().copied().unwrap_or(0)),
        _ => Packet::Other,
    })
}

fn byte(body: &mut Bytes) -> io::Result<u8> {
    body.try_get_u8().map_err(|_| broken("a packet that is cut"))
}

fn number(body: &mut Bytes) -> io::Result<u16> {
    body.try_get_u16().map_err(|_| broken("a packet that is cut"))
}

fn text(body: &mut Bytes) -> io::Result<String> {
    let length = usize::from(number(body)?);
    if body.len() < length {
        return Err(broken("a text that is cut"));
    }
    String::from_utf8(body.split_to(length).into()).map_err(|_| broken("a topic that is not UTF-8"))
}

fn skip_properties(body: &mut Bytes, version: MqttVersion) -> io::Result<()> {
    if version == MqttVersion::V3 {
        return Ok(());
    }
    let mut length = 0;
    for at in 0..4 {
        let next = byte(body)?;
        length |= usize::from(next & 0x7f) << (7 * at);
        if next & 0x80 == 0 {
            if body.len() < length {
                return Err(broken("properties that are cut"));
            }
            body.advance(length);
            return Ok(());
        }
    }
    Err(broken("a length of more than four bytes"))
}

/// Who logs in, and how.
#[derive(Debug, Clone)]
pub(super) struct Login<'a> {
    pub(super) version: MqttVersion,
    pub(super) client_id: &'a str,
    pub(super) user: Option<&'a str>,
    pub(super) password: Option<&'a str>,
    /// Begin anew, and forget the session afterwards.
    pub(super) is_clean: bool,
    pub(super) keep_alive_s: u16,
    pub(super) keep_session_s: u32,
    /// Messages that may be under way before we acknowledge.
    pub(super) receive_max: u16,
    pub(super) packet_bytes_max: u32,
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&text.as_bytes()[..usize::from(length)]);
}

fn put_length(out: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

fn with_head(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 5);
    out.push(first);
    put_length(&mut out, body.len());
    out.extend_from_slice(body);
    out
}

/// The packet that logs in.
pub(super) fn connect(login: &Login<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    put_text(&mut body, "MQTT");
    body.push(if login.version == MqttVersion::V5 { 5 } else { 4 });
    let flag = |is_set: bool, bit: u8| u8::from(is_set) << bit;
    body.push(flag(login.is_clean, 1) | flag(login.password.is_some(), 6) | flag(login.user.is_some(), 7));
    body.extend_from_slice(&login.keep_alive_s.to_be_bytes());
    if login.version == MqttVersion::V5 {
        let mut properties = vec![0x11];
        properties.extend_from_slice(&if login.is_clean { 0 } else { login.keep_session_s }.to_be_bytes());
        properties.push(0x21);
        properties.extend_from_slice(&login.receive_max.to_be_bytes());
        properties.push(0x27);
        properties.extend_from_slice(&login.packet_bytes_max.to_be_bytes());
        put_length(&mut body, properties.len());
        body.extend_from_slice(&properties);
    }
    put_text(&mut body, login.client_id);
    [login.user, login.password].into_iter().flatten().for_each(|text| put_text(&mut body, text));
    with_head(0x10, &body)
}

/// The packet that subscribes to filters, each with its quality of service.
pub(super) fn subscribe<'a>(version: MqttVersion, filters: impl Iterator<Item = (&'a str, u8)>) -> Vec<u8> {
    let mut body = 1u16.to_be_bytes().to_vec();
    if version == MqttVersion::V5 {
        body.push(0);
    }
    for (filter, qos) in filters {
        put_text(&mut body, filter);
        body.push(qos);
    }
    with_head(0x82, &body)
}

/// Says that a message of quality 1 is ours.
pub(super) fn put_acknowledge(out: &mut Vec<u8>, id: u16) {
    put_id(out, 0x40, id);
}

/// Says that a message of quality 2 is ours; the broker then releases it.
pub(super) fn put_received(out: &mut Vec<u8>, id: u16) {
    put_id(out, 0x50, id);
}

/// The answer to a release.
pub(super) fn put_complete(out: &mut Vec<u8>, id: u16) {
    put_id(out, 0x70, id);
}

fn put_id(out: &mut Vec<u8>, first: u8, id: u16) {
    out.extend_from_slice(&[first, 2]);
    out.extend_from_slice(&id.to_be_bytes());
}

/// Asks whether the broker is there.
pub(super) const PING: [u8; 2] = [0xc0, 0];
/// Ends the connection, not the session.
pub(super) const DISCONNECT: [u8; 2] = [0xe0, 0];

/// What a code of a refusal means.
pub(super) fn refusal(version: MqttVersion, code: u8) -> String {
    let words = match (version, code) {
        (MqttVersion::V3, 1) | (MqttVersion::V5, 0x84) => "it does not speak this version",
        (MqttVersion::V3, 2) | (MqttVersion::V5, 0x85) => "it does not take the client id",
        (MqttVersion::V3, 3) | (MqttVersion::V5, 0x88) => "it is not available",
        (MqttVersion::V3, 4) | (MqttVersion::V5, 0x86) => "wrong user or password",
        (MqttVersion::V3, 5) | (MqttVersion::V5, 0x87) => "not permitted",
        (_, 0x8e) => "another client took over this client id",
        (_, 0x95) => "a packet was too large",
        (_, 0x97) => "a quota is used up",
        _ => "see the codes of the protocol",
    };
    format!("code {code}: {words}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn packets_are_read_whatever_pieces_they_come_in() {
        let publish = |payload: &[u8], properties: &[u8]| {
            let mut body = b"\x00\x03a/b\x00\x07".to_vec();
            body.extend_from_slice(properties);
            body.extend_from_slice(payload);
            with_head(0x33, &body)
        };
        let mut bytes = vec![0x20, 2, 1, 0];
        bytes.extend(publish(b"one", b""));
        bytes.extend(publish(&vec![b'x'; 300 << 10], b""));
        bytes.extend([0x62, 2, 0, 7, 0xd0, 0]);
        for piece in [1000, 1, 7] {
            let (mut writer, reader) = tokio::io::duplex(1 << 20);
            let mut reader = Reader::new(reader, MqttVersion::V3, 1024);
            let writing = async {
                for chunk in bytes.chunks(piece) {
                    tokio::io::AsyncWriteExt::write_all(&mut writer, chunk).await.unwrap();
                }
            };
            let reading = async {
                assert_eq!(
                    reader.next().await.unwrap(),
                    Packet::Connected { session_present: true, code: 0 }
                );
                let Packet::Publish(first) = reader.next().await.unwrap() else { panic!() };
                assert_eq!((first.topic.as_str(), first.qos, first.id), ("a/b", 1, 7));
                assert_eq!(
                    (&first.payload[..], first.is_retained, first.is_too_large),
                    (&b"one"[..], true, false)
                );
                let Packet::Publish(large) = reader.next().await.unwrap() else { panic!() };
                assert_eq!((large.payload.len(), large.is_too_large), (1024, true));
                assert_eq!(reader.next().await.unwrap(), Packet::Release(7));
                assert_eq!(reader.next().await.unwrap(), Packet::Pong);
            };
            tokio::join!(writing, reading);
        }
        let mut reader = Reader::new(&b"\x33\x05\x00\xffab\x00"[..], MqttVersion::V5, 1024);
        assert!(reader.next().await.is_err(), "a text beyond its packet");
        let mut reader = Reader::new(&b"\x30\xff\xff\xff\xff\x01"[..], MqttVersion::V5, 1024);
        assert!(reader.next().await.is_err(), "a length without end");
    }
}
