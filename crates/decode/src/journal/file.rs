//! The format of journal files: header, chained arrays of entries, entries, data.

use std::io;

/// Bytes of a file at an offset: the file itself, or memory.
pub trait ReadAt {
    /// Fills `buffer` from `offset` on, or fails.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for std::fs::File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)?.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Why a journal file cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read.
    #[error("read the journal")]
    Io(#[from] io::Error),
    /// It is not what it should be.
    #[error("the journal is damaged: {0}")]
    Damaged(&'static str),
    /// It is written in a way that is not known here.
    #[error("the journal has features that are not known here (flags {0:#x})")]
    Unknown(u32),
}

const SIGNATURE: &[u8; 8] = b"LPKSHHRH";
const COMPRESSED_XZ: u32 = 1;
const COMPRESSED_LZ4: u32 = 2;
const KEYED_HASH: u32 = 4;
const COMPRESSED_ZSTD: u32 = 8;
const COMPACT: u32 = 16;
/// Of the header, as much as we need.
const HEADER_BYTES: usize = 208;
/// Type, flags, size of every object.
const OBJECT_BYTES: u64 = 16;
/// An entry before its items, an array before its.
const ENTRY_ITEMS: u64 = 64;
const ARRAY_ITEMS: u64 = 24;
/// Data before its payload.
const DATA_PAYLOAD: u64 = 64;
const DATA_PAYLOAD_COMPACT: u64 = 72;
/// Fields of an entry beyond which it is damaged: journald takes 1024.
const FIELDS_MAX: u64 = 4096;
/// Longest field that is read; what is longer is left out of its entry.
const FIELD_BYTES_MAX: u64 = 1 << 20;

/// How far a file was read, while it is open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The array; zero: not begun.
    array: u64,
    /// The next item in it.
    item: u64,
    /// The last entry that was read.
    pub seqnum: u64,
}

/// One entry: its fields are read one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    seqnum: u64,
    pub(super) realtime_us: u64,
    offset: u64,
    items: u64,
}

/// An open journal file.
#[derive(Debug)]
pub struct Journal<F> {
    file: F,
    is_compact: bool,
    id: [u8; 16],
    seqnum_id: [u8; 16],
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

impl<F: ReadAt> Journal<F> {
    /// Opens a file, whether it is being written or archived.
    pub fn open(file: F) -> Result<Self, JournalError> {
        let mut header = [0; HEADER_BYTES];
        file.read_at(&mut header, 0)?;
        if header[..8] != *SIGNATURE {
            return Err(JournalError::Damaged("it does not begin as journals do"));
        }
        let flags = u32_at(&header, 12);
        let known = COMPRESSED_XZ | COMPRESSED_LZ4 | KEYED_HASH | COMPRESSED_ZSTD | COMPACT;
        if flags & !known != 0 {
            return Err(JournalError::Unknown(flags));
        }
        let id = |at: usize| header[at..].first_chunk().copied().unwrap_or_default();
        Ok(Self { is_compact: flags & COMPACT != 0, id: id(24), seqnum_id: id(72), file })
    }

    /// What tells this file from all others; it stays when journald gives it another name.
    pub fn id(&self) -> String {
        self.id.iter().chain(&self.seqnum_id).map(|byte| format!("{byte:02x}")).collect()
    }

    fn item_bytes(&self) -> u64 {
        if self.is_compact { 4 } else { 8 }
    }

    /// The object at an offset: the first bytes of it, and its size.
    fn object<const BYTES: usize>(&self, offset: u64, kind: u8) -> Result<([u8; BYTES], u64), JournalError> {
        if offset < HEADER_BYTES as u64 || !offset.is_multiple_of(8) {
            return Err(JournalError::Damaged("an offset that no object can have"));
        }
        let mut bytes = [0; BYTES];
        self.file.read_at(&mut bytes, offset)?;
        if bytes[0] != kind {
            return Err(JournalError::Damaged("an object of another type than its place says"));
        }
        let size = u64_at(&bytes, 8);
        if size < BYTES as u64 {
            return Err(JournalError::Damaged("an object that is smaller than its type"));
        }
        Ok((bytes, size))
    }

    /// The next entry behind the cursor, which moves on; `None` if there is none yet.
    pub(super) fn next(&self, cursor: &mut Cursor) -> Result<Option<Entry>, JournalError> {
        if cursor.array == 0 {
            let mut first = [0; 8];
            self.file.read_at(&mut first, 176)?;
            cursor.array = u64::from_le_bytes(first);
            if cursor.array == 0 {
                return Ok(None);
            }
        }
        loop {
            let (array, size) = self.object::<{ ARRAY_ITEMS as usize }>(cursor.array, 6)?;
            let items = (size - ARRAY_ITEMS) / self.item_bytes();
            if cursor.item >= items {
                let next = u64_at(&array, 16);
                if next == 0 {
                    return Ok(None);
                }
                // Arrays are appended: one that lies before is a circle.
                if next <= cursor.array {
                    return Err(JournalError::Damaged("arrays of entries that do not end"));
                }
                (cursor.array, cursor.item) = (next, 0);
                continue;
            }
            let offset = self.item(cursor.array + ARRAY_ITEMS + cursor.item * self.item_bytes())?;
            if offset == 0 {
                return Ok(None);
            }
            // Also past one that is damaged.
            cursor.item += 1;
            let (entry, size) = self.object::<{ ENTRY_ITEMS as usize }>(offset, 3)?;
            let seqnum = u64_at(&entry, 16);
            cursor.seqnum = seqnum;
            let item_bytes = if self.is_compact { 4 } else { 16 };
            let items = (size - ENTRY_ITEMS) / item_bytes;
            if items > FIELDS_MAX {
                return Err(JournalError::Damaged("an entry of too many fields"));
            }
            return Ok(Some(Entry { seqnum, realtime_us: u64_at(&entry, 24), offset, items }));
        }
    }

    fn item(&self, at: u64) -> Result<u64, JournalError> {
        let mut bytes = [0; 8];
        let length = if self.is_compact { 4 } else { 8 };
        self.file.read_at(&mut bytes[..length], at)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Moves the cursor behind the entry `seqnum`, or behind the last one there is.
    pub fn seek(&self, cursor: &mut Cursor, seqnum: u64) -> Result<(), JournalError> {
        loop {
            let mut ahead = *cursor;
            match self.next(&mut ahead) {
                Ok(Some(entry)) if entry.seqnum <= seqnum => *cursor = ahead,
                Ok(_) => return Ok(()),
                Err(_) if ahead != *cursor => *cursor = ahead,
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives each `FIELD=value` of an entry to `take`. What cannot be read is left out: a field compressed in a way that is
    /// not known here, or damaged. Returns how many were left out.
    pub(super) fn fields(&self, entry: &Entry, scratch: &mut Scratch, mut take: impl FnMut(&[u8])) -> u64 {
        let step = if self.is_compact { 4 } else { 16 };
        let mut left_out = 0;
        for item in 0..entry.items {
            let read =
                self.item(entry.offset + ENTRY_ITEMS + item * step).and_then(|data| self.data(data, scratch));
            match read {
                Ok(true) => take(&scratch.field),
                Ok(false) | Err(_) => left_out += 1,
            }
        }
        left_out
    }

    /// The payload of a data object; false where it is not read.
    fn data(&self, offset: u64, scratch: &mut Scratch) -> Result<bool, JournalError> {
        let (head, size) = self.object::<{ OBJECT_BYTES as usize }>(offset, 1)?;
        let payload = if self.is_compact { DATA_PAYLOAD_COMPACT } else { DATA_PAYLOAD };
        let length = size.checked_sub(payload).ok_or(JournalError::Damaged("data without a payload"))?;
        if length > FIELD_BYTES_MAX {
            return Ok(false);
        }
        let read = |buffer: &mut Vec<u8>| {
            buffer.resize(length as usize, 0);
            self.file.read_at(buffer, offset + payload)
        };
        match u32::from(head[1]) {
            0 => read(&mut scratch.field)?,
            4 => {
                read(&mut scratch.packed)?;
                scratch.field.clear();
                scratch.field.reserve(FIELD_BYTES_MAX as usize);
                let unpack = match &mut scratch.unpack {
                    Some(unpack) => unpack,
                    none => none.insert(zstd::bulk::Decompressor::new()?),
                };
                unpack.decompress_to_buffer(&scratch.packed, &mut scratch.field)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// What is used again for the next field.
#[derive(Default)]
pub(super) struct Scratch {
    packed: Vec<u8>,
    field: Vec<u8>,
    unpack: Option<zstd::bulk::Decompressor<'static>>,
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scratch")
    }
}
