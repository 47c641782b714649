//! Keeping the lake in shape: small files of one day become one, old files go.

use std::collections::BTreeMap;

use aap_store::{Catalogue, LakeCommit, LakeFile, Retention, RowCounts, StreamRecord};
use aap_types::StreamName;
use tokio::task::spawn_blocking;
use tracing::info;

use crate::load::Prepared;
use crate::{Error, Lake, parquet_file};

const HOUR_US: i64 = 3_600_000_000;

impl Lake {
    /// Merges one group of small files. Returns whether there was one.
    pub async fn compact_once(&self) -> Result<bool, Error> {
        let _turn = self.inner.turn.lock().await;
        let lake = self.clone();
        let catalogue = spawn_blocking(move || lake.catalogue()).await??;
        let Some(group) = self.small_files(&catalogue) else { return Ok(false) };
        let mut contents = vec![];
        for file in &group {
            contents.push(self.inner.storage.read(&file.path).await?);
        }
        let stream = group[0].stream.clone();
        let (lake, name) = (self.clone(), stream.clone());
        let (files, columns) = spawn_blocking(move || {
            let mut batches = vec![];
            for bytes in contents {
                batches.extend(parquet_file::decode(bytes)?);
            }
            lake.files_of(&name, &batches)
        })
        .await??;
        let commit = LakeCommit {
            add: files.iter().map(|(file, _)| file.clone()).collect(),
            remove: group.into_iter().map(|file| file.path).collect(),
            ..change_of(stream, columns)
        };
        info!(stream = %commit.stream, from = commit.remove.len(), to = commit.add.len(), "merging small lake files");
        self.publish(Prepared { files, commit, more: false }).await?;
        Ok(true)
    }

    /// The oldest small files of a day that has enough of them.
    fn small_files(&self, catalogue: &Catalogue) -> Option<Vec<LakeFile>> {
        let (limit, wanted) = (self.inner.config.compact_bytes.0, self.inner.config.compact_files.max(2));
        let mut days: BTreeMap<&str, Vec<&LakeFile>> = BTreeMap::new();
        // A file over half the limit would be rewritten with the first small one that comes.
        for file in catalogue.files.iter().filter(|file| file.memory_bytes < limit / 2) {
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
            let group: Vec<LakeFile> = files.iter().take_while(fits).map(|file| (*file).clone()).collect();
            let is_full = group.len() >= 2 && group.len() < files.len();
            (group.len() >= wanted || is_full).then_some(group)
        })
    }

    /// Hides and unlinks what retention no longer keeps. Returns the number of files.
    pub async fn expire(&self) -> Result<usize, Error> {
        let _turn = self.inner.turn.lock().await;
        let lake = self.clone();
        let catalogue = spawn_blocking(move || lake.catalogue()).await??;
        let mut expired = 0;
        for stream in &catalogue.streams {
            let remove = self.expired_files(stream, &catalogue);
            if remove.is_empty() {
                continue;
            }
            info!(stream = %stream.stream, files = remove.len(), "retention removes lake files");
            expired += remove.len();
            let commit = LakeCommit { remove, ..change_of(stream.stream.clone(), vec![]) };
            self.publish(Prepared { files: vec![], commit, more: false }).await?;
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
