//! What is known of files that were read: found by key, by inode, and by how they begin.
//!
//! A file is *the same* if the newest position of its inode on its device fits its content: both hashes do. Where none of
//! that device is known (its number changed, or the position is older than that) any position of the inode that fits
//! will do. Other content on a known inode is its next generation.
//!
//! A position is *inherited* by one file at most: its copy, or its compressed form.

use std::collections::{BTreeMap, HashMap, HashSet};

use aap_types::SourcePosition;

use super::identity::{FileId, FileKey, Known, PRINT_BYTES, Stat, short_hash};

/// What is known of one file.
#[derive(Debug, Clone)]
pub(super) struct Remembered {
    /// Its position.
    pub(super) known: Known,
    /// When it came to its end, in nanoseconds since 1970: truncated, or gone with nobody reading it any more.
    pub(super) ended: Option<u64>,
}

/// All that is known.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    all: Vec<Remembered>,
    by_key: HashMap<FileKey, usize>,
    /// Those that another file goes on for.
    inherited: HashSet<FileKey>,
    by_inode: HashMap<u64, Vec<usize>>,
    by_head: BTreeMap<u16, HashMap<u64, Vec<usize>>>,
}

impl History {
    /// Which positions say more than is known here.
    pub(super) fn news(&self, source: &str, positions: Vec<SourcePosition>) -> Vec<SourcePosition> {
        let is_news = |position: &SourcePosition| {
            let key = FileKey::of_position(source, position);
            key.is_some_and(|key| self.get(&key).is_none_or(|of| of.known.offset < position.offset))
        };
        positions.into_iter().filter(is_news).collect()
    }

    /// Takes over what a store knows. What is here already only moves forward.
    pub(super) fn adopt(&mut self, source: &str, positions: &[SourcePosition]) {
        for position in positions {
            let Some(key) = FileKey::of_position(source, position) else { continue };
            let stale = self.by_key.get(&key).is_none_or(|at| self.all[*at].known.offset < position.offset);
            if stale && let Some(known) = Known::parse(source, position) {
                self.remember(known);
            }
        }
    }

    /// Notes how far a file was read.
    pub(super) fn remember(&mut self, known: Known) {
        if let Some(original) = known.detail.copy_of.as_deref().and_then(FileKey::parse) {
            self.inherited.insert(original);
        }
        if let Some(at) = self.by_key.get(&known.key) {
            self.all[*at].known = known;
            return;
        }
        let at = self.all.len();
        let key = known.key.clone();
        self.by_inode.entry(key.inode).or_default().push(at);
        self.by_head.entry(key.head_length).or_default().entry(key.head_hash).or_default().push(at);
        self.by_key.insert(key, at);
        self.all.push(Remembered { known, ended: None });
    }

    /// Notes that a file is no more.
    pub(super) fn end(&mut self, key: &FileKey, at: u64) {
        if let Some(index) = self.by_key.get(key) {
            self.all[*index].ended.get_or_insert(at);
        }
    }

    /// Notes that an inode holds nothing, or something else.
    pub(super) fn end_inode(&mut self, (device, inode): FileId, at: u64) {
        for index in self.by_inode.get(&inode).into_iter().flatten() {
            let of = &mut self.all[*index];
            if of.known.key.device.is_none_or(|known| known == device) {
                of.ended.get_or_insert(at);
            }
        }
    }

    pub(super) fn get(&self, key: &FileKey) -> Option<&Remembered> {
        self.by_key.get(key).map(|index| &self.all[*index])
    }

    /// Whether nothing is known.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether anything is known of an inode of this number.
    pub(super) fn knows_inode(&self, inode: u64) -> bool {
        self.by_inode.contains_key(&inode)
    }

    /// Which known files an inode may be, and the generation of a new one on it.
    pub(super) fn lineage(&self, stat: &Stat) -> (Vec<Known>, u32) {
        let all = self.by_inode.get(&stat.id.1).into_iter().flatten().map(|index| &self.all[*index]);
        let all: Vec<&Remembered> = all.filter(|of| of.known.key.same_inode(stat)).collect();
        let newest = |of: &&&Remembered| (of.known.key.generation, of.known.offset);
        let own = all.iter().filter(|of| of.known.key.device == Some(stat.id.0)).max_by_key(newest);
        if let Some(own) = own {
            let may = if own.ended.is_none() { vec![own.known.clone()] } else { vec![] };
            return (may, own.known.key.generation + 1);
        }
        let mut others: Vec<&&Remembered> = all.iter().filter(|of| of.ended.is_none()).collect();
        others.sort_by_key(|of| std::cmp::Reverse(newest(of)));
        (others.into_iter().map(|of| of.known.clone()).collect(), 0)
    }

    /// Keys of files that begin as this one does and of which it may be a copy.
    pub(super) fn alike(&self, id: FileId, head: &[u8]) -> Vec<FileKey> {
        let (mut found, mut hasher, mut hashed) = (Vec::new(), blake3::Hasher::new(), 0);
        for (length, hashes) in &self.by_head {
            let length = usize::from(*length);
            if length == 0 || length > head.len().min(PRINT_BYTES) {
                continue;
            }
            hasher.update(&head[hashed..length]);
            hashed = length;
            let Some(alike) = hashes.get(&short_hash(&hasher.finalize())) else { continue };
            let of_others =
                alike.iter().map(|index| &self.all[*index]).filter(|of| self.is_open(&of.known.key));
            found.extend(of_others.map(|of| &of.known.key).filter(|key| key.inode != id.1).cloned());
        }
        found
    }

    /// Whether a file is known and no other goes on where it stood.
    pub(super) fn is_open(&self, key: &FileKey) -> bool {
        self.by_key.contains_key(key) && !self.inherited.contains(key)
    }

    /// Whether its end was seen.
    pub(super) fn has_ended(&self, key: &FileKey) -> bool {
        self.get(key).is_some_and(|of| of.ended.is_some())
    }

    /// Whether a file born then (0: unknown) can be a copy of one that is no more. A plain copy was made of the original
    /// itself, so it was there before that came to its end. An archive may have been made of such a copy at any time later.
    pub(super) fn could_copy(&self, key: &FileKey, birth: u64, is_plain: bool) -> bool {
        let Some(of) = self.get(key) else { return false };
        let was_archive = of.known.detail.complete.is_some();
        !is_plain && !was_archive || of.ended.is_none_or(|end| birth <= end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::file::identity::{Detail, Stamp};

    fn stat(device: u64, inode: u64, birth: u64) -> Stat {
        let stamp = Stamp { size: 100, modified_us: 0 };
        Stat { id: (device, inode), birth, changed: 0, stamp, regular: true, links: 1 }
    }

    fn known(stat: &Stat, head: &str, generation: u32) -> Known {
        let key = FileKey::mint(stat, head.as_bytes(), generation);
        Known { key, offset: 10, detail: Detail::default() }
    }

    #[test]
    fn one_inode_number_on_two_mounts_is_two_files() {
        let (one, other) = (stat(1, 7, 0), stat(2, 7, 0));
        let mut history = History::default();
        history.remember(known(&one, "one", 0));
        history.remember(known(&other, "other", 0));
        history.remember(known(&other, "other again", 1));
        assert_eq!(history.lineage(&one), (vec![known(&one, "one", 0)], 1));
        assert_eq!(history.lineage(&other), (vec![known(&other, "other again", 1)], 2));
        // After a reboot the devices have other numbers: whatever fits will do.
        let (may, generation) = history.lineage(&stat(3, 7, 0));
        assert_eq!((may.len(), generation), (3, 0));
        // Another inode of that number is none of them.
        assert_eq!(History::default().lineage(&stat(1, 7, 0)), (vec![], 0));
        assert_eq!(history.lineage(&stat(1, 8, 0)), (vec![], 0));
    }

    #[test]
    fn a_position_is_inherited_once_and_by_no_copy_that_came_too_late() {
        let original = known(&stat(1, 7, 70), "head", 0);
        let key = original.key.clone();
        let mut history = History::default();
        history.remember(original);
        assert_eq!(history.alike((1, 8), b"head and more"), std::slice::from_ref(&key));
        history.end(&key, 1000);
        assert!(history.could_copy(&key, 999, true) && !history.could_copy(&key, 1001, true));
        // An archive may be made of the copy.
        assert!(history.could_copy(&key, 1001, false));
        let copy = known(&stat(1, 8, 80), "head", 0);
        let detail = Detail { copy_of: Some(key.short()), ..Detail::default() };
        history.remember(Known { detail, ..copy.clone() });
        assert_eq!(history.alike((1, 9), b"head and more"), [copy.key]);
    }
}
