//! The end of the newest segment: finding it, making it durable, giving back what is not needed.

use super::Recovery;
use super::files::SegmentFile;
use crate::format::{
    GROUP_HEADER, GroupHeader, RECORD_HEADER, RecordHeader, SEGMENT_HEADER, Seed, TRAILER, Trailer,
    footer_bytes,
};
use crate::fs::{FileHandle, Open, read_full_at, write_all_at};
use crate::index::Segment;
use crate::walk::{Item, Walker};
use crate::{Error, mutant};

impl Recovery {
    /// Where a segment ends that nothing speaks for: behind its last whole group, or before what is damaged at or above
    /// the largest synced mark.
    pub(super) fn find_end(&mut self, file: &SegmentFile, seed: Seed) -> Result<u64, Error> {
        let start = SEGMENT_HEADER as u64;
        let handle = file.open(self.fs.as_ref())?;
        let mut tail = Tail { walker: Walker::new(handle.as_ref(), seed, start, file.length), seed };
        let failed = |error| Error::io("read", &file.path, error);
        let mut groups: Vec<(u64, u64)> = Vec::new();
        let mut synced = 0;
        while let Some((header, end)) = tail.next_group().map_err(failed)? {
            synced = synced.max(header.synced_below);
            groups.push((header.offset, end));
        }
        let mut end = start;
        for (group_start, group_end) in groups {
            let torn = group_start > end && end >= synced;
            if torn {
                break;
            }
            end = group_end;
        }
        if mutant::is("notail") {
            end = file.length.max(start);
        }
        self.harden(file, synced.max(start), end);
        let rest = tail.describe_rest(end).map_err(failed)?;
        self.report.bytes_read += tail.walker.bytes_read;
        self.report.torn_bytes += rest.torn_bytes;
        if rest.looks_committed {
            let text = format!("the last group of segment {:016x} is damaged and was cut", file.id);
            self.doubt = Some(text.clone());
            self.quarantine(file, end, (end + rest.torn_bytes).min(file.length));
            self.problem(text);
        }
        Ok(end)
    }

    /// Nothing is appended to the newest segment any more: most of a segment that was only begun is given back.
    pub(super) fn trim(&mut self, segment: &mut Segment, file: &SegmentFile) {
        let end = segment.index.end;
        if self.read_only || end > file.length / 2 {
            return;
        }
        let (body, pointer) = footer_bytes(segment.seed, &segment.index);
        let trimmed = self.fs.open(&file.path, Open::Write).and_then(|target| {
            target.set_length(end)?;
            segment.file_bytes = end;
            write_all_at(target.as_ref(), &body, end)?;
            write_all_at(target.as_ref(), &pointer, end + body.len() as u64)
        });
        match trimmed {
            Ok(()) => segment.file_bytes = end + (body.len() + pointer.len()) as u64,
            Err(error) => tracing::debug!(%error, segment = file.id, "not trimmed"),
        }
    }

    /// The last groups may stand in the page cache only: their process died before the sync, or the sync failed and the
    /// kernel calls the pages clean. They are about to be shown to readers, so they are written and synced again.
    fn harden(&mut self, file: &SegmentFile, start: u64, end: u64) {
        if self.read_only || end <= start || mutant::is("noharden") {
            return;
        }
        let again = || {
            let mut bytes = vec![0; usize::try_from(end - start).map_err(std::io::Error::other)?];
            let source = self.fs.open(&file.path, Open::Read)?;
            let read = read_full_at(source.as_ref(), &mut bytes, start)?;
            let target = self.fs.open(&file.path, Open::Write)?;
            write_all_at(target.as_ref(), &bytes[..read], start)?;
            target.sync_data()
        };
        if let Err(error) = again() {
            let text = format!("the end of segment {:016x} cannot be synced: {error}", file.id);
            self.doubt = Some(text.clone());
            self.problem(text);
        }
    }
}

/// Finds whole groups in a segment whose end nobody knows.
struct Tail<'a> {
    walker: Walker<&'a (dyn FileHandle + 'static)>,
    seed: Seed,
}

struct Rest {
    torn_bytes: u64,
    looks_committed: bool,
}

impl Tail<'_> {
    /// The next whole group, and where it ends.
    fn next_group(&mut self) -> std::io::Result<Option<(GroupHeader, u64)>> {
        while let Some(found) = self.walker.next()? {
            if let Item::Group(header) = found.item {
                let end = header.offset + u64::from(header.length);
                if self.is_whole(&header)? {
                    self.walker.seek(end);
                    return Ok(Some((header, end)));
                }
                // What follows the header of a group that is not whole may hold the next one.
            }
        }
        Ok(None)
    }

    /// By its trailer and checksum, or, if only the trailer is damaged, by its records.
    fn is_whole(&mut self, header: &GroupHeader) -> std::io::Result<bool> {
        if mutant::is("nocrc") {
            return Ok(true);
        }
        let seed = self.seed;
        let bytes = self.walker.bytes(header.offset, header.length as usize)?;
        if bytes.len() != header.length as usize {
            return Ok(false);
        }
        let (records, trailer) = bytes.split_at(bytes.len() - TRAILER);
        let trailer_at = header.offset + records.len() as u64;
        if let Some(trailer) = Trailer::parse(seed, trailer_at, trailer) {
            return Ok(trailer.length == header.length
                && trailer.number == header.number
                && seed.checksum(header.offset, records) == trailer.group_crc);
        }
        let mut at = GROUP_HEADER;
        for _ in 0..header.records {
            let offset = header.offset + at as u64;
            let Some(record) = RecordHeader::parse(seed, offset, &records[at..]) else { return Ok(false) };
            let Some(body) = records.get(at + RECORD_HEADER..at + record.total_bytes()) else {
                return Ok(false);
            };
            if seed.checksum(offset, body) != record.body_crc {
                return Ok(false);
            }
            at += record.total_bytes();
        }
        Ok(at == records.len() && header.records > 0)
    }

    /// What stands behind the end: how much of an unfinished group, and whether it may have been a finished one.
    fn describe_rest(&mut self, end: u64) -> std::io::Result<Rest> {
        self.walker.seek(end);
        let mut rest = Rest { torn_bytes: 0, looks_committed: false };
        while let Some(found) = self.walker.next()? {
            if !matches!(found.item, Item::Damage) {
                rest.torn_bytes = found.end - end;
                rest.looks_committed |= matches!(found.item, Item::Trailer);
            }
        }
        Ok(rest)
    }
}
