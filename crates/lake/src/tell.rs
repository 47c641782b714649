//! What follows from a catalogue: the manifest is written, the buffer may reclaim, readers and those who wait are told.
//!
//! The catalogue alone decides. Where somebody else may have changed it, every turn begins by looking.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aap_runtime::failpoint;
use aap_store::Catalogue;
use aap_types::{Sequence, StreamKey};

use crate::feed::KnownColumns;
use crate::lake::{CONSUMER, cut_map, lock};
use crate::{Error, Lake, manifest};

/// What was told last.
#[derive(Debug, Default)]
pub(crate) struct Told {
    version: u64,
    files: HashSet<String>,
    pub(crate) cuts: HashMap<StreamKey, Sequence>,
    pub(crate) deleted: HashMap<StreamKey, Sequence>,
    pub(crate) columns: KnownColumns,
}

impl Lake {
    /// Tells the manifest, then the buffer and the readers, what the catalogue says. Whatever keeps it from that, the
    /// next turn does it.
    pub(crate) fn tell(&self) -> Result<(), Error> {
        let inner = &self.inner;
        let told = lock(&inner.told).version;
        match inner.untold.load(Ordering::SeqCst) {
            true => {}
            false if inner.lead.is_alone() => return Ok(()),
            // Whoever leads may have changed it, and anybody may have deleted a stream.
            false if inner.store.catalogue_version()? == told => return Ok(()),
            false => inner.untold.store(true, Ordering::SeqCst),
        }
        let catalogue = inner.store.catalogue()?;
        if catalogue.version != told {
            if inner.lead.goes_on() {
                manifest::write(&inner.storage, &catalogue)?;
            }
            failpoint::hit("lake.after_manifest_before_advance");
            self.tell_of(&catalogue);
        }
        inner.untold.store(false, Ordering::SeqCst);
        Ok(())
    }

    pub(crate) fn tell_of(&self, catalogue: &Catalogue) {
        let inner = &self.inner;
        let mut told = lock(&inner.told);
        for (key, cut) in catalogue.cursors.iter().filter(|(key, cut)| told.cuts.get(key) != Some(cut)) {
            inner.buffer.advance(CONSUMER, key, *cut);
            inner.waiting.passed(key, *cut);
        }
        let files: HashSet<String> = catalogue.files.iter().map(|file| file.path.clone()).collect();
        inner.pins.hide(told.files.difference(&files).cloned());
        *told = Told {
            version: catalogue.version,
            files,
            cuts: cut_map(catalogue),
            deleted: catalogue.deleted.iter().cloned().collect(),
            columns: catalogue
                .streams
                .iter()
                .map(|known| (known.stream.clone(), Arc::new(known.columns.clone())))
                .collect(),
        };
    }

    /// Tells the buffer once more how far the lake is. In a cluster that may be further than the buffer was at the time, which
    /// takes a cursor no further than it has frames.
    pub(crate) fn tell_buffer(&self) {
        if self.inner.lead.is_alone() {
            return;
        }
        let told = lock(&self.inner.told);
        told.cuts.iter().for_each(|(key, cut)| self.inner.buffer.advance(CONSUMER, key, *cut));
    }
}
