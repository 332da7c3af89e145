//! The file of a new store, until it is complete. A file of the store's name without its content would
//! look like a loss after a crash, so it gets its name last; till then nothing of it needs to be synced.

use std::fs::{self, File, TryLockError};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use super::{StoreError, refused};

/// Where a new store is made before it gets its name.
pub(super) const NEW_STORE_FILE: &str = "ringlog-zookeeper.redb.new";

/// A store's file without a name of its own.
pub(super) struct Unnamed {
    file: File,
    directory: PathBuf,
    has_name: Arc<AtomicBool>,
}

impl Unnamed {
    /// Makes the file, or takes over what a crash has left of one.
    pub(super) fn create(directory: &Path) -> Result<(Self, Backend), StoreError> {
        let path = directory.join(NEW_STORE_FILE);
        let unusable = |error| StoreError::Unusable {
            path: path.clone(),
            error,
        };
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(unusable)?;
        // Held as long as the store is open: what another process makes at this moment stays its own.
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::InUse(path.clone()),
            TryLockError::Error(error) => unusable(error),
        })?;
        // Another process may have given this very file the store's name and ended in between.
        let of_file = file.metadata().map_err(unusable)?.ino();
        if std::fs::metadata(&path).map(|found| found.ino()).ok() != Some(of_file) {
            return Err(StoreError::InUse(path.clone()));
        }
        file.set_len(0).map_err(unusable)?;
        let has_name = Arc::new(AtomicBool::new(false));
        let second = file.try_clone().map_err(unusable)?;
        let backend = Backend {
            file: FileBackend::new(second).map_err(|error| refused(&path, error))?,
            has_name: has_name.clone(),
        };
        let directory = directory.to_owned();
        let unnamed = Self {
            file,
            directory,
            has_name,
        };
        Ok((unnamed, backend))
    }

    /// Gives the file its name; at return it and all that was written to it are durable.
    pub(super) fn name(self, path: &Path) -> Result<(), StoreError> {
        let unusable = |error| StoreError::Unusable {
            path: path.to_owned(),
            error,
        };
        self.has_name.store(true, Ordering::SeqCst);
        self.file.sync_all().map_err(unusable)?;
        let new = self.directory.join(NEW_STORE_FILE);
        fs::hard_link(&new, path).map_err(|error| match error.kind() {
            // Another process was faster.
            io::ErrorKind::AlreadyExists => StoreError::InUse(path.to_owned()),
            _ => unusable(error),
        })?;
        fs::remove_file(&new).map_err(unusable)?;
        sync(&self.directory).map_err(unusable)?;
        // The directory may be new, too.
        let above = self.directory.parent().map_or(Ok(()), sync);
        match above {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(unusable(error)),
            _ => Ok(()),
        }
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    let is_here = directory.as_os_str().is_empty();
    File::open(if is_here { Path::new(".") } else { directory })?.sync_all()
}

/// The file as redb sees it.
#[derive(Debug)]
pub(super) struct Backend {
    file: FileBackend,
    has_name: Arc<AtomicBool>,
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.has_name.load(Ordering::SeqCst) {
            self.file.sync_data()
        } else {
            Ok(())
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
