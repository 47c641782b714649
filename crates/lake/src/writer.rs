//! An object of the lake in the making: straight to the disk, or by way of its copy to an object store.

use std::io::Write;
use std::sync::Arc;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use tokio::runtime::Handle;

use crate::Error;
use crate::cache::{Cache, NewCopy};
use crate::objects::LakeObjects;

/// What is held in memory of an object in the making, twice: one part fills while the other is written.
const PART_BYTES: usize = 2 << 20;
/// Parts under way.
const PARTS: usize = 2;

/// An object in the making. Dropping it leaves nothing under its name.
#[derive(Debug)]
pub(crate) struct ObjectWriter {
    path: String,
    runtime: Handle,
    /// Nothing after a write that failed.
    to: Option<To>,
    written: u64,
    failure: Option<Error>,
}

#[derive(Debug)]
enum To {
    Disk(WriteMultipart),
    Copy { copy: NewCopy, cache: Arc<Cache>, objects: LakeObjects },
}

impl ObjectWriter {
    /// Begins a file.
    pub(crate) fn on_disk(objects: &dyn ObjectStore, path: &str) -> Result<Self, Error> {
        let upload = Handle::current().block_on(objects.put_multipart(&Path::from(path)));
        let upload = upload.map_err(|source| failed(path, source))?;
        Ok(Self::begin(path, To::Disk(WriteMultipart::new_with_chunk_size(upload, PART_BYTES))))
    }

    /// Begins a copy, which will be sent to the store.
    pub(crate) fn copied(objects: &LakeObjects, cache: &Arc<Cache>, path: &str) -> Result<Self, Error> {
        let (copy, cache, objects) = (cache.begin()?, cache.clone(), objects.clone());
        Ok(Self::begin(path, To::Copy { copy, cache, objects }))
    }

    fn begin(path: &str, to: To) -> Self {
        let (path, runtime) = (path.to_owned(), Handle::current());
        Self { path, runtime, to: Some(to), written: 0, failure: None }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Why writing failed, if it did: what writes through [`Write`] hides it among reasons of its own.
    pub(crate) fn failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    /// Puts the object under its name. Durable when it returns: synced, or with the answer of the store. Returns its size.
    pub(crate) fn finish(mut self) -> Result<u64, Error> {
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        match self.to.take() {
            Some(To::Disk(upload)) => {
                let _in_runtime = self.runtime.enter();
                self.runtime.block_on(upload.finish()).map_err(|source| failed(&self.path, source))?;
            }
            Some(To::Copy { mut copy, cache, objects }) => {
                self.send(&mut copy, &objects)?;
                cache.publish(copy, &self.path)?;
            }
            // Whoever got the failure should not have gone on.
            None => return Err(Error::Refused),
        }
        Ok(self.written)
    }

    fn send(&self, copy: &mut NewCopy, objects: &LakeObjects) -> Result<(), Error> {
        let at = copy.path().to_owned();
        let file = copy.file().map_err(Error::file("write", &at))?;
        std::io::Seek::rewind(file).map_err(Error::file("read back", &at))?;
        self.runtime.block_on(objects.put_file(&self.path, file, self.written))
    }

    fn write_on(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        match &mut self.to {
            Some(To::Disk(upload)) => {
                let _in_runtime = self.runtime.enter();
                let room = self.runtime.block_on(upload.wait_for_capacity(PARTS));
                room.map_err(|source| failed(&self.path, source))?;
                // A part at a time, so that the wait above bounds what is under way.
                let taken = bytes.len().min(PART_BYTES);
                upload.write(&bytes[..taken]);
                Ok(taken)
            }
            Some(To::Copy { copy, .. }) => {
                let written = copy.write(bytes);
                written.map_err(|source| Error::file("write", copy.path())(source))
            }
            None => Err(Error::Refused),
        }
    }
}

fn failed(path: &str, source: object_store::Error) -> Error {
    Error::Object { doing: "write", path: path.to_owned(), source }
}

impl Write for ObjectWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let gone = || std::io::Error::other("an earlier write failed");
        if self.to.is_none() {
            return Err(gone());
        }
        match self.write_on(bytes) {
            Ok(taken) => {
                self.written += taken as u64;
                Ok(taken)
            }
            Err(failure) => {
                (self.failure, self.to) = (Some(failure), None);
                Err(gone())
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
