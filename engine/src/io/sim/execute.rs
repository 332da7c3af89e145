//! Operations of shards: how they start, when they take effect, and what becomes of them when the
//! process or the power ends.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustix::io::Errno;

use super::file::{Capture, Survival};
use super::{Event, State, Waiter, id_of};
use crate::io::buffer::AlignedBuffer;
use crate::io::files::within;
use crate::io::op::{Completion, File, FileOp, Handle, Op, OpenMode, Output};

/// An operation in flight.
pub(super) struct Flight {
    pub(super) op: Op,
    pub(super) serial: u64,
    /// Of a send: buffers that are done, and bytes of the next one.
    pub(super) cursor: (usize, usize),
    /// Of a sync: what it makes durable.
    capture: Option<Capture>,
}

fn nothing(result: Result<(), Errno>) -> Completion {
    result?;
    Ok(Output::Nothing)
}

fn plain(buffers: &[AlignedBuffer]) -> Vec<&[u8]> {
    buffers.iter().map(|buffer| &buffer[..]).collect()
}

fn checksum(buffers: &[Bytes]) -> u64 {
    buffers
        .iter()
        .fold(0, |sum, buffer| crc32c::crc32c_append(sum, buffer))
        .into()
}

/// What the history's hash takes of an operation: its kind, and what tells it from others.
fn outline(op: &Op) -> [u64; 4] {
    let text =
        |path: &std::path::Path| u64::from(crc32c::crc32c(path.as_os_str().as_encoded_bytes()));
    match op {
        Op::Accept(listener) => [1, id_of(&listener.0), 0, 0],
        Op::Receive(socket, buffer, limit) => {
            [2, id_of(&socket.0), buffer.len() as u64, *limit as u64]
        }
        Op::Send(socket, buffers) => [3, id_of(&socket.0), checksum(buffers), 0],
        Op::Writable(socket) => [4, id_of(&socket.0), 0, 0],
        Op::SendFile(socket, file, position, length) => [
            5,
            id_of(&socket.0) << 32 | id_of(&file.0),
            *position,
            *length,
        ],
        Op::WriteAt(file, buffers, position) => [6, id_of(&file.0), checksum(buffers), *position],
        Op::File(op) => match op {
            FileOp::Open(path, mode) => [7, text(path), *mode as u64, 0],
            FileOp::Length(file) => [8, id_of(&file.0), 0, 0],
            FileOp::Modified(file) => [22, id_of(&file.0), 0, 0],
            FileOp::Truncate(file, length) => [9, id_of(&file.0), *length, 0],
            FileOp::Allocate(file, length) => [10, id_of(&file.0), *length, 0],
            FileOp::Reserve(file, position, length) => [24, id_of(&file.0), *position, *length],
            FileOp::Rename(from, to) => [11, text(from), text(to), 0],
            FileOp::RemoveFile(path) => [12, text(path), 0, 0],
            FileOp::CreateDirectory(path) => [13, text(path), 0, 0],
            FileOp::RemoveDirectory(path) => [14, text(path), 0, 0],
            FileOp::ListDirectory(path) => [15, text(path), 0, 0],
            FileOp::Volume(path) => [21, text(path), 0, 0],
            FileOp::SyncDirectory(path) => [16, text(path), 0, 0],
            FileOp::SyncData(file) => [17, id_of(&file.0), 0, 0],
            FileOp::SyncRange(file, position, length) => [18, id_of(&file.0), *position, *length],
            FileOp::WriteDurable(file, buffers, position) => {
                let sum = buffers
                    .iter()
                    .fold(0, |sum, buffer| crc32c::crc32c_append(sum, buffer));
                [19, id_of(&file.0), sum.into(), *position]
            }
            FileOp::ReadAt(file, _, position, length) => {
                [20, id_of(&file.0), *position, *length as u64]
            }
            FileOp::ReadFile(path, limit) => [23, text(path), *limit as u64, 0],
        },
    }
}

impl State {
    /// Starts an operation; `Some` if it completed at once.
    pub(super) fn start(&mut self, waiter: Waiter, op: Op) -> Option<Completion> {
        self.chaos.note(&[1, waiter.0 as u64, waiter.1 as u64]);
        self.chaos.note(&outline(&op));
        let mut flight = Flight {
            serial: self.next_serial(),
            op,
            cursor: (0, 0),
            capture: None,
        };
        match &flight.op {
            Op::WriteAt(..) if self.chaos.rng.coin() => Some(self.execute(flight)),
            Op::WriteAt(file, ..) => {
                let path = self.disk.path(id_of(&file.0));
                self.take_off(waiter, flight, &path, false);
                None
            }
            Op::File(op) => {
                let (path, is_sync) = self.file_op_path(op);
                if let FileOp::SyncData(file) = op {
                    flight.capture = self.disk.capture(id_of(&file.0));
                }
                self.take_off(waiter, flight, &path, is_sync);
                None
            }
            Op::Accept(_) | Op::Receive(..) | Op::Send(..) | Op::Writable(_) | Op::SendFile(..) => {
                self.start_on_network(waiter, flight)
            }
        }
    }

    fn take_off(&mut self, waiter: Waiter, flight: Flight, path: &str, is_sync: bool) {
        let time = self.chaos.disk_completion(path, is_sync);
        self.schedule(time, Event::Step(waiter, flight.serial));
        self.flights.insert(waiter, flight);
    }

    fn file_op_path(&self, op: &FileOp) -> (String, bool) {
        match op {
            FileOp::Open(path, _)
            | FileOp::Rename(path, _)
            | FileOp::RemoveFile(path)
            | FileOp::CreateDirectory(path)
            | FileOp::RemoveDirectory(path)
            | FileOp::ListDirectory(path)
            | FileOp::ReadFile(path, _)
            | FileOp::Volume(path) => (path.to_string_lossy().into_owned(), false),
            FileOp::SyncDirectory(path) => (path.to_string_lossy().into_owned(), true),
            FileOp::Length(file)
            | FileOp::Modified(file)
            | FileOp::Truncate(file, _)
            | FileOp::Allocate(file, _)
            | FileOp::Reserve(file, ..)
            | FileOp::ReadAt(file, ..) => (self.disk.path(id_of(&file.0)), false),
            FileOp::SyncData(file)
            | FileOp::SyncRange(file, ..)
            | FileOp::WriteDurable(file, ..) => (self.disk.path(id_of(&file.0)), true),
        }
    }

    /// The time has come for an operation.
    pub(super) fn step(&mut self, waiter: Waiter, serial: u64) {
        let is_same = |flight: &Flight| flight.serial == serial;
        if !self.flights.get(&waiter).is_some_and(is_same) {
            return;
        }
        if let Some(flight) = self.flights.remove(&waiter) {
            let completion = match &flight.op {
                Op::WriteAt(..) | Op::File(_) => Some(self.execute(flight)),
                _ => self.continue_on_network(waiter, flight),
            };
            if let Some(completion) = completion {
                self.complete(waiter, completion);
            }
        }
    }

    /// The future of an operation was dropped. Returns whether the operation is forgotten.
    pub(super) fn cancel(&mut self, waiter: Waiter) -> bool {
        match self.flights.get(&waiter).map(|flight| &flight.op) {
            None | Some(Op::WriteAt(..) | Op::File(_)) => false,
            Some(_) => {
                let flight = self.flights.remove(&waiter);
                self.forget_on_network(waiter, flight.as_ref());
                true
            }
        }
    }

    /// An operation of the disk takes effect.
    fn execute(&mut self, flight: Flight) -> Completion {
        match flight.op {
            Op::WriteAt(file, buffers, position) => {
                nothing(
                    self.disk
                        .write(id_of(&file.0), &buffers, position, &mut self.chaos),
                )
            }
            Op::File(op) => self.file_op(op, flight.capture),
            other => panic!("{other:?} is not an operation of the disk"),
        }
    }

    fn file_op(&mut self, op: FileOp, capture: Option<Capture>) -> Completion {
        let chaos = &mut self.chaos;
        let disk = &mut self.disk;
        match op {
            FileOp::Open(path, mode) => {
                let object = self.object();
                self.disk.open(&path, mode, object.id, &mut self.chaos)?;
                Ok(Output::File(File(Arc::new(Handle::Simulated(object)))))
            }
            FileOp::Length(file) => Ok(Output::Length(disk.length(id_of(&file.0))?)),
            FileOp::Truncate(file, length) => nothing(disk.truncate(id_of(&file.0), length)),
            FileOp::Allocate(file, length) => {
                nothing(disk.allocate(id_of(&file.0), (0, length), true, chaos))
            }
            FileOp::Reserve(file, position, length) => {
                nothing(disk.allocate(id_of(&file.0), (position, length), false, chaos))
            }
            FileOp::Rename(from, to) => nothing(disk.rename(&from, &to, chaos)),
            FileOp::RemoveFile(path) => nothing(disk.remove_file(&path, chaos)),
            FileOp::CreateDirectory(path) => nothing(disk.create_directory(&path, chaos)),
            FileOp::RemoveDirectory(path) => nothing(disk.remove_directory(&path, chaos)),
            FileOp::ListDirectory(path) => Ok(Output::Entries(disk.list(&path)?)),
            FileOp::Volume(_) => Ok(Output::Volume(disk.volume(chaos))),
            // The simulated disk has no times.
            FileOp::Modified(_) => Err(std::io::ErrorKind::Unsupported.into()),
            FileOp::SyncDirectory(path) => nothing(disk.sync_directory(&path, chaos)),
            FileOp::SyncData(file) => nothing(disk.sync(id_of(&file.0), capture, chaos)),
            FileOp::SyncRange(file, position, length) => {
                nothing(disk.write_back(id_of(&file.0), (position, length), chaos))
            }
            FileOp::WriteDurable(file, buffers, position) => {
                let handle = id_of(&file.0);
                disk.write_direct(handle, &plain(&buffers), position, chaos)?;
                Ok(Output::Aligned(buffers))
            }
            FileOp::ReadAt(file, mut buffer, position, length) => {
                let range = (position, length as u64);
                let count = disk.read(id_of(&file.0), range, &mut buffer, chaos)?;
                let count = usize::try_from(count).expect("at most `length`");
                Ok(Output::Buffer(buffer, count))
            }
            FileOp::ReadFile(path, limit) => {
                let handle = self.next_serial();
                let (disk, chaos) = (&mut self.disk, &mut self.chaos);
                disk.open(&path, OpenMode::Read, handle, chaos)?;
                let mut buffer = BytesMut::new();
                let read = disk.length(handle).map_err(io::Error::from);
                let read = read.and_then(|length| {
                    within(&path, length, limit)?;
                    Ok(disk.read(handle, (0, length), &mut buffer, chaos)?)
                });
                disk.close(handle);
                let count = usize::try_from(read?).expect("at most `limit`");
                Ok(Output::Buffer(buffer, count))
            }
        }
    }

    /// The process ends: each operation in flight is done or not.
    pub(super) fn die(&mut self) {
        for flight in std::mem::take(&mut self.flights).into_values() {
            let is_of_disk = matches!(flight.op, Op::WriteAt(..) | Op::File(_));
            if is_of_disk && self.chaos.rng.coin() {
                // Nobody is left to learn the result.
                let _ = self.execute(flight);
            }
        }
        self.disk.close_all();
    }

    /// The power fails: operations in flight are done, not done, or done in part; then the disk
    /// loses what was not durable.
    pub(super) fn lose_power(&mut self) {
        let percents = [0, 10, 50, 90, 100];
        let percent = percents[self.chaos.rng.index(percents.len())];
        let survival = Survival { percent };
        for flight in std::mem::take(&mut self.flights).into_values() {
            match flight.op {
                Op::File(FileOp::WriteDurable(file, buffers, position)) => {
                    let buffers = plain(&buffers);
                    let handle = id_of(&file.0);
                    self.disk
                        .tear_direct(handle, &buffers, position, survival, &mut self.chaos);
                }
                Op::WriteAt(..) | Op::File(_) if self.chaos.rng.coin() => {
                    // Nobody is left to learn the result.
                    let _ = self.execute(flight);
                }
                _ => {}
            }
        }
        self.disk.crash(survival, &mut self.chaos);
    }
}
