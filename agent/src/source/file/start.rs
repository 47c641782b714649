//! `start: end`: where files stood when the source first started is made durable before anything is read.

use std::io;
use std::sync::Arc;

use super::discover::Globs;
use super::identity::{Detail, FileKey, Known, PRINT_BYTES, started};
use super::input::{self, Codec, Peek, read_up_to};
use super::{FileSource, RETRY};
use crate::ingress::positions_only;

impl FileSource {
    /// Once in the life of a source: what is there now counts as read. Tried until it is durable.
    pub(super) async fn keep_starting_points(&mut self) {
        let marker = started(&self.name);
        let buffer = self.deps.ingress.buffer.clone();
        let begun = |marker: &aap_types::SourcePosition| buffer.position(marker.kind, &marker.key).is_some();
        while !begun(&marker) && self.history.is_empty() && !self.shutdown.is_requested() {
            let globs = self.globs.clone();
            let Ok(known) = tokio::task::spawn_blocking(move || standing(&globs)).await else { return };
            let own = known.iter().map(|known| known.position(&self.name));
            let positions = own.chain([marker.clone()]).collect();
            let kept = match positions_only(&self.spec.stream, positions) {
                Ok(parcel) => self.deps.ingress.append(parcel).await.map(drop),
                Err(error) => Err(error),
            };
            match kept {
                Ok(()) => {
                    let history = Arc::make_mut(&mut self.history);
                    known.into_iter().for_each(|known| history.remember(known));
                    return self.problem("start", None);
                }
                Err(error) => {
                    self.problem("start", Some(format!("where files begin cannot be stored: {error}")));
                    tokio::select! {
                        () = self.shutdown.requested() => {}
                        () = tokio::time::sleep(RETRY) => {}
                    }
                }
            }
        }
    }
}

/// All files that are there, as if read to their ends.
fn standing(globs: &Globs) -> Vec<Known> {
    let files = globs.scan().files;
    files.into_iter().filter_map(|found| at_end(&found.path).ok().flatten()).collect()
}

fn at_end(path: &std::path::Path) -> io::Result<Option<Known>> {
    let (file, stat) = input::open(path)?;
    let Some(codec) = input::codec(&file)? else { return Ok(None) };
    let head = Peek { file: &file, codec }.head(PRINT_BYTES)?;
    if head.is_empty() {
        return Ok(None);
    }
    let key = FileKey::mint(&stat, &head, 0);
    let detail = Detail { path: path.display().to_string(), ..Detail::default() };
    if codec != Codec::Plain {
        return Ok(Some(Known { key, offset: 0, detail: Detail { complete: Some(stat.stamp), ..detail } }));
    }
    let from = stat.stamp.size.saturating_sub(PRINT_BYTES as u64);
    let mut tail = vec![0; usize::try_from(stat.stamp.size - from).unwrap_or(0)];
    let read = read_up_to(&file, &mut tail, from)?;
    tail.truncate(read);
    Ok(Some(Known { key, offset: from + read as u64, detail: detail.with_tail(&tail) }))
}
