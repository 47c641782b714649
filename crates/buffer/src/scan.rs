//! Reading a segment without a [`crate::Buffer`]: read-only, never beyond the durable end, over whatever is damaged.
//! The engine scans the segments of a snapshot with it, and `buffer ls|verify|salvage|export` work on it offline.

use std::collections::HashMap;
use std::sync::Arc;

use aap_types::{BatchId, Digest, Sequence, StreamKey};
use bytes::Bytes;
use camino::Utf8PathBuf;

use crate::format::{Kind, RECORD_HEADER, RecordHeader, Seed, aligned};
use crate::frame::parse_skip;
use crate::fs::{FileHandle, FileSystem, Open, RealFileSystem, read_full_at};
use crate::group::parse_channel;
use crate::walk::{Item, Walker};
use crate::{Error, FrameSchema, SegmentRef};

/// A frame found by a scan; its payload is read when asked for.
#[derive(Debug, Clone)]
pub struct ScannedFrame {
    /// Its identity.
    pub id: BatchId,
    /// It stands for sequences without data; its payload is no batch.
    pub is_skip: bool,
    /// Number of rows.
    pub rows: u32,
    /// Smallest `ts`.
    pub ts_min_us: i64,
    /// Largest `ts`.
    pub ts_max_us: i64,
    /// When it was sealed.
    pub sealed_us: i64,
    /// Size of the rows as the source gave them.
    pub raw_bytes: u64,
    /// Names its schema.
    pub schema: u64,
    /// Bytes of payload.
    pub payload_bytes: u32,
    /// BLAKE3 over identity, positions and payload.
    pub digest: Digest,
    /// Where it stands in the segment.
    pub offset: u64,
    header: RecordHeader,
}

/// Iterates over the frames of one segment, in the order they were written.
#[derive(Debug)]
pub struct Scanner {
    path: Utf8PathBuf,
    seed: Seed,
    walker: Walker<Box<dyn FileHandle>>,
    channels: HashMap<u32, StreamKey>,
    schemas: HashMap<u64, Arc<FrameSchema>>,
    damaged_bytes: u64,
}

impl Scanner {
    /// Opens a segment of the real file system.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened.
    pub fn open(segment: &SegmentRef) -> Result<Self, Error> {
        Self::open_in(&RealFileSystem, segment)
    }

    /// Opens a segment of any file system.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened.
    pub fn open_in(fs: &dyn FileSystem, segment: &SegmentRef) -> Result<Self, Error> {
        let path = segment.path.clone();
        let file = fs.open(&path, Open::Read).map_err(|error| Error::io("open", &path, error))?;
        let seed = Seed::new(&segment.store_id, segment.segment);
        // Declarations stand in front of what uses them: the walk begins there even if the frames wanted are further on.
        let start = crate::format::SEGMENT_HEADER as u64;
        let walker = Walker::new(file, seed, start, segment.durable_end);
        Ok(Self { path, seed, walker, channels: HashMap::new(), schemas: HashMap::new(), damaged_bytes: 0 })
    }

    /// A schema declared so far, so that of any frame that was returned.
    pub fn schema(&self, fingerprint: u64) -> Option<Arc<FrameSchema>> {
        self.schemas.get(&fingerprint).cloned()
    }

    /// The rows of a frame, checksummed.
    ///
    /// # Errors
    /// [`Error::Damaged`] if they do not match their checksum, [`Error::Io`].
    pub fn payload(&self, frame: &ScannedFrame) -> Result<Bytes, Error> {
        let (_, payload) = self.body(frame)?;
        Ok(payload)
    }

    /// Positions and payload.
    pub(crate) fn body(&self, frame: &ScannedFrame) -> Result<(Bytes, Bytes), Error> {
        let header = &frame.header;
        let mut body = vec![0; header.body_bytes()];
        let damaged = || Error::Damaged { path: self.path.clone(), offset: frame.offset };
        let read = read_full_at(self.walker.file(), &mut body, frame.offset + RECORD_HEADER as u64)
            .map_err(|error| Error::io("read", &self.path, error))?;
        if read != body.len() || self.seed.checksum(frame.offset, &body) != header.body_crc {
            return Err(damaged());
        }
        let body = Bytes::from(body);
        let start = aligned(header.positions_bytes as usize);
        let positions = body.slice(..header.positions_bytes as usize);
        Ok((positions, body.slice(start..start + header.payload_bytes as usize)))
    }

    /// Bytes passed over so far because they were damaged.
    pub fn damaged_bytes(&self) -> u64 {
        self.damaged_bytes
    }

    /// The sequences a skip stands for end here.
    pub fn last_sequence(&self, frame: &ScannedFrame) -> Sequence {
        if !frame.is_skip {
            return frame.id.sequence;
        }
        let payload = self.payload(frame).ok();
        payload.and_then(|payload| parse_skip(&payload)).map_or(frame.id.sequence, |(to, ..)| to)
    }

    fn step(&mut self) -> Result<Option<Option<ScannedFrame>>, Error> {
        let failed = |error| Error::io("read", &self.path, error);
        let Some(found) = self.walker.next().map_err(failed)? else { return Ok(None) };
        let header = match found.item {
            Item::Record(header) => header,
            Item::Damage => {
                self.damaged_bytes += found.end - found.start;
                return Ok(Some(None));
            }
            Item::Group(_) | Item::Trailer => return Ok(Some(None)),
        };
        match header.kind {
            Kind::Data | Kind::Skip => return Ok(Some(self.frame(header, found.start))),
            Kind::Schema | Kind::Channel => {
                let body = self.walker.body(&header, found.start).map_err(failed)?;
                match body.map(|body| Bytes::copy_from_slice(&body[..header.payload_bytes as usize])) {
                    Some(body) => self.declare(&header, body),
                    None => self.damaged_bytes += found.end - found.start,
                }
            }
            Kind::Cursors | Kind::Positions | Kind::State | Kind::Hole => {}
        }
        Ok(Some(None))
    }

    fn declare(&mut self, header: &RecordHeader, body: Bytes) {
        if header.kind == Kind::Channel {
            self.channels.extend(parse_channel(header, &body).map(|key| (header.channel, key)));
        } else if let Ok(schema) = FrameSchema::from_ipc(body) {
            self.schemas.insert(schema.fingerprint(), schema);
        }
    }

    /// `None` if the channel's declaration was damaged.
    fn frame(&mut self, header: RecordHeader, offset: u64) -> Option<ScannedFrame> {
        let Some(key) = self.channels.get(&header.channel) else {
            self.damaged_bytes += header.total_bytes() as u64;
            return None;
        };
        Some(ScannedFrame {
            id: BatchId { key: key.clone(), sequence: header.sequence },
            is_skip: header.kind == Kind::Skip,
            rows: header.rows,
            ts_min_us: header.ts_min_us,
            ts_max_us: header.ts_max_us,
            sealed_us: header.sealed_us,
            raw_bytes: header.raw_bytes,
            schema: header.schema,
            payload_bytes: header.payload_bytes,
            digest: header.digest,
            offset,
            header,
        })
    }
}

impl Iterator for Scanner {
    type Item = Result<ScannedFrame, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.step() {
                Ok(Some(Some(frame))) => return Some(Ok(frame)),
                Ok(Some(None)) => {}
                Ok(None) => return None,
                Err(error) => {
                    self.walker.seek(u64::MAX);
                    return Some(Err(error));
                }
            }
        }
    }
}
