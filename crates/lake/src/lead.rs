//! Who changes the lake, where several coordinators have it: the one that leads. The others read.
//!
//! ```text
//!                    leads                                             follows
//!  catalogue         commits, under the fence of its lease             looks every second, tells buffer and readers
//!  object store      writes, merges, removes, sweeps                   reads
//!  local copies      removes those of hidden files                     the same
//! ```
//! A coordinator is told by a channel that it leads; its store has the fence of the lease before that. Its word is only the
//! invitation: a commit that comes too late is refused by the store ([`aap_store::Error::Fenced`]), and what was written for it
//! is removed again. **A term** begins when the channel says so and ends with its next change. It begins with three steps: the
//! manifest is written if it is older than the catalogue, which alone decides; files that the catalogue does not name are found; then
//! changes are made.
//!
//! **When a file may go from the store.** Whoever leads does not know who reads elsewhere. So what the catalogue hides stays for
//! [`GRACE`], and so does, from the beginning of a term, everything that it does not name then: what was hidden before, and what
//! was written but never became visible. The catalogue is asked again before they go. A reader fetches its files within seconds of
//! looking into the catalogue; one that is later than [`GRACE`] finds them gone, and looks again. What a former leader uploads
//! after a term has begun stays until the next one.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aap_store::Catalogue;
use camino::Utf8PathBuf;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::lake::lock;
use crate::{Error, Lake, manifest};

/// Long enough for the slowest query: an hour, unless the configuration allows more, and half of that to spare.
pub(crate) const GRACE: Duration = Duration::from_secs(90 * 60);
/// When a file that could not be removed is tried again.
pub(crate) const AGAIN: Duration = Duration::from_secs(60);

/// Whether this coordinator leads.
#[derive(Debug)]
pub(crate) struct Lead {
    /// `None`: it is alone.
    told: Option<Mutex<watch::Receiver<bool>>>,
    /// Whether the first steps of the term were made.
    is_begun: AtomicBool,
    /// Whether no file is removed in this term.
    keeps_all: AtomicBool,
    /// Files of the store that nobody needs, and when they may go.
    condemned: Mutex<BTreeMap<String, Duration>>,
}

impl Lead {
    pub(crate) fn new(told: Option<watch::Receiver<bool>>) -> Self {
        let (is_begun, told) = (AtomicBool::new(told.is_none()), told.map(Mutex::new));
        Self { told, is_begun, keeps_all: AtomicBool::new(false), condemned: Mutex::default() }
    }

    /// Whether no other coordinator has this lake.
    pub(crate) fn is_alone(&self) -> bool {
        self.told.is_none()
    }

    /// Whether the term goes on whose first steps were made. Nobody who tells is nobody who says so.
    pub(crate) fn goes_on(&self) -> bool {
        let is_same = |told: &Mutex<watch::Receiver<bool>>| {
            let told = lock(told);
            *told.borrow() && !told.has_changed().unwrap_or(true)
        };
        self.is_begun.load(Ordering::SeqCst) && self.told.as_ref().is_none_or(is_same)
    }

    /// Looks whether there is a term to work in, perhaps a new one.
    fn look(&self) -> bool {
        let Some(told) = &self.told else { return true };
        let mut told = lock(told);
        let is_new = told.has_changed().unwrap_or(true);
        let leads = *told.borrow_and_update();
        if is_new || !leads {
            self.is_begun.store(false, Ordering::SeqCst);
        }
        leads
    }
}

impl Lake {
    /// Whether this coordinator changes the lake.
    pub fn leads(&self) -> bool {
        self.inner.lead.goes_on()
    }

    /// Runs a change when it is its turn, if this coordinator leads. If not, nothing is done, which is the default of the answer.
    pub(crate) async fn as_leader<T: Default + Send + 'static>(
        &self,
        change: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.in_turn(move |lake| if lake.take_lead()? { change(lake) } else { Ok(T::default()) }).await
    }

    /// Whether this coordinator leads now. Makes the first steps of a term.
    fn take_lead(&self) -> Result<bool, Error> {
        let lead = &self.inner.lead;
        if !lead.look() {
            lock(&lead.condemned).clear();
            return Ok(false);
        }
        if !lead.is_begun.load(Ordering::SeqCst) {
            self.begin_term()?;
            lead.is_begun.store(true, Ordering::SeqCst);
        }
        Ok(true)
    }

    fn begin_term(&self) -> Result<(), Error> {
        let inner = &self.inner;
        // In this order: whatever a former leader still writes down, the catalogue says at least as much by then.
        let mut listed = manifest::Listed::of(&inner.storage)?;
        let catalogue = inner.store.catalogue()?;
        let is_new = catalogue.version == 0 && listed.versions.is_empty() && listed.lost.is_empty();
        if is_new && inner.storage.has_published_files()? {
            return Err(Error::ForeignFiles { root: Utf8PathBuf::from(inner.storage.name()) });
        }
        for version in listed.versions.iter().filter(|version| **version > catalogue.version) {
            manifest::put_aside(&inner.storage, *version)?;
            warn!(
                catalogue = catalogue.version,
                manifest = version,
                "the database went back behind the lake"
            );
            listed.lost.push(*version);
        }
        if !listed.versions.contains(&catalogue.version) {
            manifest::write(&inner.storage, &catalogue)?;
        }
        lock(&inner.lead.condemned).clear();
        inner.lead.keeps_all.store(!listed.lost.is_empty(), Ordering::SeqCst);
        match listed.lost.last() {
            Some(lost) => self.note(format!(
                "lake: the database went back behind the lake, so no file is removed: look at `{}`, remove it, and start again",
                manifest::lost(*lost)
            )),
            None => self.condemn_unnamed(&catalogue)?,
        }
        info!(version = catalogue.version, "leads the lake");
        Ok(())
    }

    /// Files of loads that never became visible, and those that were hidden before this term.
    fn condemn_unnamed(&self, catalogue: &Catalogue) -> Result<(), Error> {
        let named: HashSet<&str> = catalogue.files.iter().map(|file| file.path.as_str()).collect();
        let mut unnamed = self.inner.storage.parquet_files()?;
        unnamed.retain(|path| !named.contains(path.as_str()));
        if !unnamed.is_empty() {
            info!(files = unnamed.len(), "found lake files that the catalogue does not name");
        }
        self.condemn(unnamed, GRACE);
        Ok(())
    }

    /// Removes hidden files that no reader can know: at once where this coordinator is alone. In a cluster their copies go at once,
    /// and the files in their time.
    pub(crate) fn unlink_unread(&self) {
        let inner = &self.inner;
        let unread = inner.pins.unread();
        if inner.lead.is_alone() {
            inner.storage.remove(unread);
            return;
        }
        inner.storage.forget(&unread);
        if inner.lead.goes_on() && !inner.lead.keeps_all.load(Ordering::SeqCst) {
            self.condemn(unread, GRACE);
        }
    }

    /// Removes files of the store whose time has come.
    pub(crate) fn unlink_condemned(&self) -> Result<(), Error> {
        let inner = &self.inner;
        let now = inner.clock.monotonic();
        if lock(&inner.lead.condemned).values().all(|due| *due > now) {
            return Ok(());
        }
        let catalogue = inner.store.catalogue()?;
        let named: HashSet<&str> = catalogue.files.iter().map(|file| file.path.as_str()).collect();
        let mut gone = vec![];
        lock(&inner.lead.condemned).retain(|path, due| {
            if *due <= now && !named.contains(path.as_str()) {
                gone.push(path.clone());
            }
            *due > now
        });
        let failed = inner.storage.remove(gone);
        self.condemn(failed, AGAIN);
        Ok(())
    }

    /// Lets files go after a while.
    pub(crate) fn condemn(&self, paths: Vec<String>, after: Duration) {
        let due = self.inner.clock.monotonic() + after;
        lock(&self.inner.lead.condemned).extend(paths.into_iter().map(|path| (path, due)));
    }
}
