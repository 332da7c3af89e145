//! Files of a shard: open, read, write, sync, and the names that lead to them.
//!
//! Nothing is durable before a sync: data by [`Io::sync_data`], names by [`Io::sync_directory`]. The
//! one exception is [`Io::write_durable`], which the journal writes with. A sync that failed is never
//! tried again here, and must not be by the caller.

use std::io;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};

use super::op::{FileOp, Op, Output};
use super::{AlignedBuffer, DirectoryEntry, File, Io, OpenMode, Volume};

impl Io {
    async fn file_op(&self, op: FileOp) -> io::Result<Output> {
        self.start(Op::File(op)).await
    }

    /// Opens a file (open(2)).
    ///
    /// # Errors
    /// What open answered.
    pub async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<File> {
        match self.file_op(FileOp::Open(path.to_owned(), mode)).await? {
            Output::File(file) => Ok(file),
            other => panic!("open gave {other:?}"),
        }
    }

    /// The length of a file in bytes (fstat(2)).
    ///
    /// # Errors
    /// What fstat answered.
    pub async fn length(&self, file: &File) -> io::Result<u64> {
        match self.file_op(FileOp::Length(file.clone())).await? {
            Output::Length(length) => Ok(length),
            other => panic!("length gave {other:?}"),
        }
    }

    /// When the file was written last, in milliseconds since 1970 (fstat(2)).
    ///
    /// # Errors
    /// What fstat answered; `Unsupported` in the simulator.
    pub async fn modified_ms(&self, file: &File) -> io::Result<i64> {
        match self.file_op(FileOp::Modified(file.clone())).await? {
            Output::Time(time) => Ok(time),
            other => panic!("modified_ms gave {other:?}"),
        }
    }

    /// Writes all buffers at `position` through the page cache (pwritev(2)), visible to readers
    /// at once, durable only after [`Self::sync_data`].
    ///
    /// # Errors
    /// What pwritev answered; a part may have been written.
    pub async fn write_at(
        &self,
        file: &File,
        buffers: Vec<Bytes>,
        position: u64,
    ) -> io::Result<()> {
        self.start(Op::WriteAt(file.clone(), buffers, position))
            .await
            .map(|_| ())
    }

    /// Writes all buffers at `position` (a multiple of 4096) of a file opened with
    /// [`OpenMode::CreateDirect`]; durable at completion (RWF_DSYNC). Gives the buffers back.
    ///
    /// # Errors
    /// What pwritev2(2) answered; any part may be on disk.
    pub async fn write_durable(
        &self,
        file: &File,
        buffers: Vec<AlignedBuffer>,
        position: u64,
    ) -> io::Result<Vec<AlignedBuffer>> {
        match self
            .file_op(FileOp::WriteDurable(file.clone(), buffers, position))
            .await?
        {
            Output::Aligned(buffers) => Ok(buffers),
            other => panic!("write_durable gave {other:?}"),
        }
    }

    /// Appends up to `length` bytes from `position` to `buffer` (room is reserved here); fewer only
    /// at the end of the file.
    ///
    /// # Errors
    /// What pread(2) answered.
    pub async fn read_at(
        &self,
        file: &File,
        mut buffer: BytesMut,
        position: u64,
        length: usize,
    ) -> io::Result<BytesMut> {
        buffer.reserve(length);
        match self
            .file_op(FileOp::ReadAt(file.clone(), buffer, position, length))
            .await?
        {
            Output::Buffer(buffer, _) => Ok(buffer),
            other => panic!("read_at gave {other:?}"),
        }
    }

    /// Reads a whole file of at most `limit` bytes.
    ///
    /// # Errors
    /// What open or pread answered; `InvalidData` if the file is larger.
    pub async fn read_file(&self, path: &Path, limit: usize) -> io::Result<BytesMut> {
        match self
            .file_op(FileOp::ReadFile(path.to_owned(), limit))
            .await?
        {
            Output::Buffer(buffer, _) => Ok(buffer),
            other => panic!("read_file gave {other:?}"),
        }
    }

    /// Replaces `path` by a file with `contents`, atomically and durably: write beside it, sync,
    /// rename over it, sync the directory.
    ///
    /// # Errors
    /// What any of the calls answered; the old file is there then.
    pub async fn replace_file(&self, path: &Path, contents: Bytes) -> io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".tmp");
        let beside = PathBuf::from(beside);
        let file = self.open(&beside, OpenMode::Create).await?;
        self.truncate(&file, 0).await?;
        self.write_at(&file, vec![contents], 0).await?;
        self.sync_data(&file).await?;
        self.rename(&beside, path).await?;
        match path.parent() {
            Some(directory) if directory.as_os_str().is_empty() => {
                self.sync_directory(Path::new(".")).await
            }
            Some(directory) => self.sync_directory(directory).await,
            None => Ok(()),
        }
    }

    /// Makes the file's data and length durable (fdatasync(2)). Never retry it after an error: the
    /// kernel has dropped what it could not write.
    ///
    /// # Errors
    /// What fdatasync answered.
    pub async fn sync_data(&self, file: &File) -> io::Result<()> {
        self.file_op(FileOp::SyncData(file.clone()))
            .await
            .map(|_| ())
    }

    /// Writes a range of dirty pages to the device and waits for it, without making it durable
    /// (sync_file_range(2), all three flags): keeps little in flight before a `sync_data`.
    ///
    /// # Errors
    /// What sync_file_range answered.
    pub async fn sync_range(&self, file: &File, position: u64, length: u64) -> io::Result<()> {
        self.file_op(FileOp::SyncRange(file.clone(), position, length))
            .await
            .map(|_| ())
    }

    /// Sets the length of a file (ftruncate(2)).
    ///
    /// # Errors
    /// What ftruncate answered.
    pub async fn truncate(&self, file: &File, length: u64) -> io::Result<()> {
        self.file_op(FileOp::Truncate(file.clone(), length))
            .await
            .map(|_| ())
    }

    /// Reserves blocks so that the file has at least `length` bytes (fallocate(2)).
    ///
    /// # Errors
    /// What fallocate answered.
    pub async fn allocate(&self, file: &File, length: u64) -> io::Result<()> {
        self.file_op(FileOp::Allocate(file.clone(), length))
            .await
            .map(|_| ())
    }

    /// Reserves blocks for `length` bytes from `position` on; the file's length stays as it is
    /// (fallocate(2), FALLOC_FL_KEEP_SIZE). [`Io::truncate`] to the length gives back what lies behind it.
    ///
    /// # Errors
    /// What fallocate answered.
    pub async fn reserve(&self, file: &File, position: u64, length: u64) -> io::Result<()> {
        self.file_op(FileOp::Reserve(file.clone(), position, length))
            .await
            .map(|_| ())
    }

    /// Renames a file or directory (rename(2)); durable after the directory's sync.
    ///
    /// # Errors
    /// What rename answered.
    pub async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.file_op(FileOp::Rename(from.to_owned(), to.to_owned()))
            .await
            .map(|_| ())
    }

    /// Removes a file (unlink(2)).
    ///
    /// # Errors
    /// What unlink answered.
    pub async fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.file_op(FileOp::RemoveFile(path.to_owned()))
            .await
            .map(|_| ())
    }

    /// Creates a directory (mkdir(2)); `AlreadyExists` is an error.
    ///
    /// # Errors
    /// What mkdir answered.
    pub async fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.file_op(FileOp::CreateDirectory(path.to_owned()))
            .await
            .map(|_| ())
    }

    /// Removes an empty directory (rmdir(2)).
    ///
    /// # Errors
    /// What rmdir answered.
    pub async fn remove_directory(&self, path: &Path) -> io::Result<()> {
        self.file_op(FileOp::RemoveDirectory(path.to_owned()))
            .await
            .map(|_| ())
    }

    /// The entries of a directory, sorted by name.
    ///
    /// # Errors
    /// What opendir(3) answered.
    pub async fn list_directory(&self, path: &Path) -> io::Result<Vec<DirectoryEntry>> {
        match self.file_op(FileOp::ListDirectory(path.to_owned())).await? {
            Output::Entries(entries) => Ok(entries),
            other => panic!("list_directory gave {other:?}"),
        }
    }

    /// The size of the file system that has the path.
    ///
    /// # Errors
    /// What statvfs(3) answered.
    pub async fn volume(&self, path: &Path) -> io::Result<Volume> {
        match self.file_op(FileOp::Volume(path.to_owned())).await? {
            Output::Volume(volume) => Ok(volume),
            other => panic!("volume gave {other:?}"),
        }
    }

    /// Makes the entries of a directory durable (fsync(2) of the directory).
    ///
    /// # Errors
    /// What fsync answered.
    pub async fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.file_op(FileOp::SyncDirectory(path.to_owned()))
            .await
            .map(|_| ())
    }
}

/// The length of a file that may be read whole.
pub(super) fn within(path: &Path, length: u64, limit: usize) -> io::Result<usize> {
    let too_large = || {
        let what = format!("{}: {length} bytes, limit {limit}", path.display());
        io::Error::new(io::ErrorKind::InvalidData, what)
    };
    let length = usize::try_from(length).ok();
    length
        .filter(|length| *length <= limit)
        .ok_or_else(too_large)
}
