//! Frames on a QUIC stream: `length u32 little-endian | prost message`.

use aap_proto::MESSAGE_BYTES_MAX;
use aap_proto::v1::AgentMessage;
use aap_proto::v1::agent_message::Kind;
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use quinn::{ReadExactError, RecvStream};

use crate::Error;

/// Field number of `AgentMessage.batch`.
const BATCH_FIELD: u32 = 3;
/// Field number of `Batch.payload`, the last one of its message.
const PAYLOAD_FIELD: u32 = 12;

/// A message as the pieces of its frame.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut buffer = BytesMut::with_capacity(4 + length);
    buffer.put_u32_le(length_u32(length));
    message.encode(&mut buffer).expect("the buffer has room for the message");
    buffer.freeze()
}

/// An agent's message as the pieces of its frame. The payload of a batch is not copied: it is the second piece.
pub(crate) fn agent_frame(message: AgentMessage) -> [Bytes; 2] {
    let Some(Kind::Batch(mut batch)) = message.kind else { return [frame(&message), Bytes::new()] };
    let payload = std::mem::take(&mut batch.payload);
    if payload.is_empty() {
        return [frame(&AgentMessage { kind: Some(Kind::Batch(batch)) }), payload];
    }
    let head = batch.encoded_len();
    let tail = key_len(PAYLOAD_FIELD) + encoded_len_varint(payload.len() as u64) + payload.len();
    let body = head + tail;
    let length = key_len(BATCH_FIELD) + encoded_len_varint(body as u64) + body;
    let mut buffer = BytesMut::with_capacity(4 + length - payload.len());
    buffer.put_u32_le(length_u32(length));
    encode_key(BATCH_FIELD, WireType::LengthDelimited, &mut buffer);
    encode_varint(body as u64, &mut buffer);
    batch.encode_raw(&mut buffer);
    encode_key(PAYLOAD_FIELD, WireType::LengthDelimited, &mut buffer);
    encode_varint(payload.len() as u64, &mut buffer);
    [buffer.freeze(), payload]
}

/// Senders refuse what is larger than a message may be, which is far less than 4 GiB.
fn length_u32(length: usize) -> u32 {
    u32::try_from(length).expect("messages are at most MESSAGE_BYTES_MAX long")
}

/// The length of the next frame; `None` at the end of the stream.
pub(crate) async fn read_length(stream: &mut RecvStream) -> Result<Option<usize>, Error> {
    let mut header = [0; 4];
    match stream.read_exact(&mut header).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(ReadExactError::FinishedEarly(_)) => return Err(cut_off()),
        Err(ReadExactError::ReadError(error)) => return Err(Error::broken(error)),
    }
    let length = u32::from_le_bytes(header) as usize;
    if length > MESSAGE_BYTES_MAX {
        let reason = format!("frame of {length} bytes is larger than the limit of {MESSAGE_BYTES_MAX}");
        return Err(Error::Protocol { reason });
    }
    Ok(Some(length))
}

/// The frame that follows its length.
pub(crate) async fn read_message<M: Message + Default>(
    stream: &mut RecvStream,
    length: usize,
) -> Result<M, Error> {
    let mut buffer = BytesMut::with_capacity(length);
    while buffer.len() < length {
        let chunk = stream.read_chunk(length - buffer.len(), true).await.map_err(Error::broken)?;
        buffer.extend_from_slice(&chunk.ok_or_else(cut_off)?.bytes);
    }
    M::decode(buffer.freeze()).map_err(|error| Error::Protocol { reason: error.to_string() })
}

fn cut_off() -> Error {
    Error::Protocol { reason: "stream ends within a frame".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aap_proto::v1::{Batch, Hello};

    fn check(message: AgentMessage) {
        let pieces = agent_frame(message.clone());
        let whole = pieces.concat();
        let (length, body) = whole.split_at(4);
        assert_eq!(u32::from_le_bytes(length.try_into().unwrap()) as usize, body.len());
        assert_eq!(body.len(), message.encoded_len(), "the limit is checked on the encoded length");
        assert_eq!(AgentMessage::decode(body).unwrap(), message);
    }

    #[test]
    fn frames_decode_to_what_was_sent() {
        check(AgentMessage { kind: None });
        check(AgentMessage { kind: Some(Kind::Hello(Hello { epoch: 3, ..Default::default() })) });
        for bytes in [0, 1, 127, 128, 16_384, 3_000_000] {
            for stream in ["", "logs"] {
                let payload = Bytes::from(vec![7; bytes]);
                let batch = Batch { epoch: 9, stream: stream.to_owned(), payload, ..Default::default() };
                check(AgentMessage { kind: Some(Kind::Batch(batch)) });
            }
        }
    }
}
