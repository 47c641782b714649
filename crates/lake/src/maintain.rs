//! Keeping the lake in shape: small files of one day become one, old files go.

use std::collections::BTreeMap;

use aap_runtime::memory::release_freed;
use aap_store::{Catalogue, LakeCommit, LakeFile, Retention, RowCounts, StreamRecord};
use aap_types::StreamName;
use tracing::info;

use crate::lake::{chain, lock};
use crate::merge::Failure;
use crate::{Error, Lake};

const HOUR_US: i64 = 3_600_000_000;

/// Files merged at once: each is open, and takes a page of each column.
const MERGED_MAX: usize = 32;

impl Lake {
    /// Merges one group of small files. Returns whether there was one. Files that cannot be merged are left as they
    /// are from then on.
    pub async fn compact_once(&self) -> Result<bool, Error> {
        self.as_leader(|lake| {
            let merged = lake.compact_now();
            if matches!(merged, Ok(true)) {
                release_freed();
            }
            merged
        })
        .await
    }

    fn compact_now(&self) -> Result<bool, Error> {
        let catalogue = self.catalogue()?;
        let is_visible = |path: &String| catalogue.files.iter().any(|file| file.path == *path);
        lock(&self.inner.unmergeable).retain(|path, _| is_visible(path));
        let Some(group) = self.small_files(&catalogue) else { return Ok(false) };
        let stream = group[0].stream.clone();
        let known = catalogue.streams.iter().find(|known| known.stream == stream);
        let merged = {
            let _pin = self.pin();
            self.merge(&group, known.map_or(&[], |known| &known.columns))
        };
        let (file, columns) = match merged {
            Ok(merged) => merged,
            Err(failure) => {
                let Failure { suspects, error } = *failure;
                self.remove_orphans();
                let mut unmergeable = lock(&self.inner.unmergeable);
                unmergeable.extend(suspects.into_iter().map(|path| (path, chain(&error))));
                return Err(error);
            }
        };
        info!(%stream, from = group.len(), bytes = file.bytes, "small lake files merged");
        let remove = group.into_iter().map(|file| file.path).collect();
        self.commit(&LakeCommit { add: vec![file], remove, ..change_of(stream, columns) })?;
        Ok(true)
    }

    /// The oldest small files of a day that has enough of them.
    fn small_files(&self, catalogue: &Catalogue) -> Option<Vec<LakeFile>> {
        let config = &self.inner.config;
        let (limit, wanted) = (config.compact_bytes.0, config.compact_files.clamp(2, MERGED_MAX));
        let unmergeable = lock(&self.inner.unmergeable);
        let mut days: BTreeMap<&str, Vec<&LakeFile>> = BTreeMap::new();
        // A file over half the limit would be rewritten with the first small one that comes.
        let is_small =
            |file: &&LakeFile| file.memory_bytes < limit / 2 && !unmergeable.contains_key(&file.path);
        for file in catalogue.files.iter().filter(is_small) {
            let day = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
            days.entry(day).or_default().push(file);
        }
        days.into_values().find_map(|files| {
            let mut room = limit;
            let fits = |file: &&&LakeFile| {
                let fits = file.memory_bytes <= room;
                room = room.saturating_sub(file.memory_bytes);
                fits
            };
            let group = files.iter().take_while(fits).take(MERGED_MAX);
            let group: Vec<LakeFile> = group.map(|file| (*file).clone()).collect();
            let is_full = group.len() >= 2 && group.len() < files.len();
            (group.len() >= wanted || is_full).then_some(group)
        })
    }

    /// Hides and unlinks what retention no longer keeps. Returns the number of files.
    pub async fn expire(&self) -> Result<usize, Error> {
        self.as_leader(Self::expire_now).await
    }

    fn expire_now(&self) -> Result<usize, Error> {
        let catalogue = self.catalogue()?;
        let mut expired = 0;
        for stream in &catalogue.streams {
            let remove = self.expired_files(stream, &catalogue);
            if remove.is_empty() {
                continue;
            }
            info!(stream = %stream.stream, files = remove.len(), "retention removes lake files");
            expired += remove.len();
            self.commit(&LakeCommit { remove, ..change_of(stream.stream.clone(), vec![]) })?;
        }
        Ok(expired)
    }

    fn expired_files(&self, stream: &StreamRecord, catalogue: &Catalogue) -> Vec<String> {
        let config = &self.inner.config;
        let keep: Retention = stream
            .retention
            .or_else(|| config.streams.get(&stream.stream).copied())
            .unwrap_or(config.retention);
        let mut files: Vec<(i64, &LakeFile)> = catalogue
            .files
            .iter()
            .filter(|file| file.stream == stream.stream)
            .map(|file| (newest_row(file), file))
            .collect();
        files.sort_by_key(|(newest, _)| *newest);
        let hours = i64::try_from(keep.hours).unwrap_or(i64::MAX);
        let oldest_kept = self.inner.clock.unix_us().saturating_sub(hours.saturating_mul(HOUR_US));
        let mut bytes: u64 = files.iter().map(|(_, file)| file.bytes).sum();
        let mut expired = vec![];
        for (newest, file) in files {
            let too_old = keep.hours > 0 && newest < oldest_kept;
            let too_much = keep.bytes.0 > 0 && bytes > keep.bytes.0;
            if too_old || too_much {
                bytes -= file.bytes;
                expired.push(file.path.clone());
            }
        }
        expired
    }
}

/// The time that retention goes by. Rows without a time count from when the file was made.
fn newest_row(file: &LakeFile) -> i64 {
    if file.ts_max_us == 0 { file.created_us } else { file.ts_max_us }
}

fn change_of(stream: StreamName, columns: Vec<(String, String)>) -> LakeCommit {
    LakeCommit { stream, add: vec![], remove: vec![], cursors: vec![], counts: RowCounts::default(), columns }
}
