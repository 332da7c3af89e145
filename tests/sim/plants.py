#!/usr/bin/env python3
"""Planted bugs: proof that the simulator finds what it is there to find.

    tests/sim/plants.py [--seconds 30] [--only NAME,...] [--results DIR]

Copies the sources, plants every bug of the table below behind a switch (RINGLOG_PLANT=<name>, read in
the copy only: the product has no hooks), builds the simulator once, and runs seeds from 0 on for each
bug until one fails or the time is over. Without a bug the same seeds must pass (the control).

A plant whose old text does not stand exactly once in its file ends the run and is named: mend the
table with the code. `is_planted!()` in a new text becomes the switch of that plant.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]

# The switch, in the copy: engine/src/plant.rs.
SWITCH = """//! The planted bug that is switched on.

/// Whether it is this one.
pub fn is(name: &str) -> bool {
    static PLANT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    PLANT.get_or_init(|| std::env::var("RINGLOG_PLANT").unwrap_or_default()) == name
}
"""

# (name, what it breaks, [(file, old text, new text), ...])
PLANTS = [
    # ---- journal ---------------------------------------------------------------------------------
    ("journal-not-synced", "the journal is written through the page cache and never synced", [
        ("engine/src/journal/ring.rs",
         "    let file = io.open(&path, OpenMode::CreateDirect).await;\n"
         "    let file = file.map_err(JournalError::io(\"create\", &path))?;\n"
         "    if let",
         "    let mode = if is_planted!() { OpenMode::Create } else { OpenMode::CreateDirect };\n"
         "    let file = io.open(&path, mode).await;\n"
         "    let file = file.map_err(JournalError::io(\"create\", &path))?;\n"
         "    if let"),
        ("engine/src/journal/group_commit.rs",
         "        let written = self.io.write_durable(&file, buffers, start).await;\n",
         "        let written = if is_planted!() {\n"
         "            let copies = buffers.iter().map(|b| Bytes::copy_from_slice(b)).collect();\n"
         "            self.io.write_at(&file, copies, start).await.map(|()| buffers)\n"
         "        } else {\n"
         "            self.io.write_durable(&file, buffers, start).await\n"
         "        };\n"),
    ]),
    ("answer-before-journal", "acks=all is answered before the journal's write", [
        ("engine/src/journal/group_commit.rs",
         "        let with_header = file_header.is_some();\n",
         "        if is_planted!() {\n"
         "            let waiters = {\n"
         "                let mut state = self.state.borrow_mut();\n"
         "                state.durable_lsn = Lsn(group.lsn.0 + padded(group.bytes));\n"
         "                state.wake_durable()\n"
         "            };\n"
         "            waiters.into_iter().for_each(Waker::wake);\n"
         "            self.io.sleep(std::time::Duration::from_micros(50)).await;\n"
         "        }\n"
         "        let with_header = file_header.is_some();\n"),
    ]),
    ("journal-error-ignored", "a failed write of the journal is taken for a good one", [
        ("engine/src/journal/group_commit.rs",
         "        let buffers = written.map_err(JournalError::io(\"write to a file in\", directory))?;\n",
         "        let buffers = match written {\n"
         "            Err(_) if is_planted!() => Vec::new(),\n"
         "            other => other.map_err(JournalError::io(\"write to a file in\", directory))?,\n"
         "        };\n"),
    ]),
    ("journal-name-not-synced", "a journal file's directory entry is not synced", [
        ("engine/src/journal/ring.rs",
         "        sequence: 0,\n        entry_durable: false,\n",
         "        sequence: 0,\n        entry_durable: is_planted!(),\n"),
        ("engine/src/journal/ring.rs",
         "    if let Err(error) = io.sync_directory(&options.directory).await {\n",
         "    if !is_planted!()\n"
         "        && let Err(error) = io.sync_directory(&options.directory).await\n    {\n"),
        ("engine/src/journal/ring.rs",
         "    let synced = shared.io.sync_directory(&options.directory).await;\n",
         "    let synced = if is_planted!() {\n        Ok(())\n    } else {\n"
         "        shared.io.sync_directory(&options.directory).await\n    };\n"),
    ]),
    ("journal-reused-early", "a journal file is written again one file before the checkpoint has passed it", [
        ("engine/src/journal/ring.rs",
         "            if checkpoint_lsn.0 / data_bytes <= file.sequence {\n",
         "            let early = u64::from(is_planted!());\n"
         "            if checkpoint_lsn.0 / data_bytes + early <= file.sequence {\n"),
    ]),
    ("checkpoint-before-sync", "the journal is freed before the segments are synced", [
        ("server/src/life.rs",
         "async fn checkpoint(shard: &Rc<Shard>) -> std::io::Result<()> {\n",
         "async fn checkpoint(shard: &Rc<Shard>) -> std::io::Result<()> {\n"
         "    if is_planted!() {\n        return Ok(());\n    }\n"),
    ]),
    ("replay-drops-last-group", "replay leaves the last good group of a journal out", [
        ("engine/src/journal/replay.rs",
         "    let live = &journal.groups[journal.groups.partition_point(is_below)..];\n",
         "    let mut live = &journal.groups[journal.groups.partition_point(is_below)..];\n"
         "    if is_planted!() {\n"
         "        live = &live[..live.len().saturating_sub(1)];\n"
         "    }\n"),
    ]),
    ("replay-not-synced", "what was replayed is not synced before the journal is removed", [
        ("engine/src/journal/replay/segments.rs",
         "                let synced = self.io.sync_data(file).await;\n",
         "                let synced = if is_planted!() {\n"
         "                    Ok(())\n                } else {\n"
         "                    self.io.sync_data(file).await\n                };\n"),
    ]),
    ("torn-group-accepted", "a torn group of the journal is replayed", [
        ("engine/src/journal/inventory.rs",
         "            if reader.crc_of_payload(position, &group).await? == Some(group.payload_crc) {\n",
         "            let is_whole = is_planted!()\n"
         "                || reader.crc_of_payload(position, &group).await? == Some(group.payload_crc);\n"
         "            if is_whole {\n"),
    ]),
    # ---- segments --------------------------------------------------------------------------------
    ("segment-not-synced", "the recovery point and the checkpoint pass data that no sync has covered", [
        ("engine/src/log/flush.rs",
         "            self.io().sync_data(&file).await.at(\"sync\", &path)?;\n"
         "            if let Some(segment) = self.state.borrow_mut().segment_mut(base_offset) {\n",
         "            if !is_planted!() {\n"
         "                self.sync_segment(&file).await.at(\"sync\", &path)?;\n"
         "            }\n"
         "            if let Some(segment) = self.state.borrow_mut().segment_mut(base_offset) {\n"),
    ]),
    ("sync-retried", "an fdatasync that answered EIO is tried again", [
        ("engine/src/log/flush.rs",
         "    /// Writes the indexes of a rolled segment and moves",
         "    async fn sync_segment(&self, file: &crate::io::File) -> std::io::Result<()> {\n"
         "        match self.io().sync_data(file).await {\n"
         "            Err(_) if is_planted!() => self.io().sync_data(file).await,\n"
         "            other => other,\n"
         "        }\n"
         "    }\n\n"
         "    /// Writes the indexes of a rolled segment and moves"),
    ]),
    ("segment-name-not-synced", "a new segment's directory entry is not synced by a checkpoint", [
        ("engine/src/log/flush.rs",
         "                let synced = self.io().sync_directory(&directory).await;\n"
         "                self.poison_on_error(synced.at(\"sync\", &directory))?;\n",
         "                if !is_planted!() {\n"
         "                    let synced = self.io().sync_directory(&directory).await;\n"
         "                    self.poison_on_error(synced.at(\"sync\", &directory))?;\n"
         "                }\n"),
    ]),
    ("partition-name-not-synced", "a new partition's directory entry is not synced", [
        ("engine/src/log.rs",
         "        let (parent, inside) = join(directory::sync_parent(io, directory), inside).await;\n",
         "        let parent = async {\n"
         "            if is_planted!() {\n"
         "                return Ok(());\n"
         "            }\n"
         "            directory::sync_parent(io, directory).await\n"
         "        };\n"
         "        let (parent, inside) = join(parent, inside).await;\n"),
    ]),
    ("rewrite-skipped", "a start believes pages that a failed fsync has left clean and not on disk", [
        ("server/src/boot/partitions.rs",
         "    if shard.journal().is_some() && !opening.clean {\n",
         "    if shard.journal().is_some() && !opening.clean && !is_planted!() {\n"),
    ]),
    ("clean-stop-not-synced", "a clean stop does not sync the logs", [
        ("engine/src/log/flush.rs",
         "        self.flush_in_turn().await?;\n        let closed",
         "        if is_planted!() {\n"
         "            let mut state = self.state.borrow_mut();\n"
         "            state.recovery_point = state.log_end_offset;\n"
         "        } else {\n"
         "            self.flush_in_turn().await?;\n"
         "        }\n        let closed"),
    ]),
    ("clean-mark-kept", "the mark of a clean stop is left where it is by the next start", [
        ("engine/src/log/directory.rs",
         "    let path = log_directory.join(CLEAN_SHUTDOWN_FILE);\n    match io.rename(&path, &log_directory.join(RAN_LAST_FILE)).await {\n",
         "    let path = log_directory.join(CLEAN_SHUTDOWN_FILE);\n"
         "    if is_planted!() {\n"
         "        return Ok(io.open(&path, crate::io::OpenMode::Read).await.is_ok());\n"
         "    }\n"
         "    match io.rename(&path, &log_directory.join(RAN_LAST_FILE)).await {\n"),
    ]),
    ("small-file-not-synced", "checkpoint files and topic ids are renamed into place without a sync", [
        ("engine/src/io/files.rs",
         "        self.sync_data(&file).await?;\n        self.rename(&beside, path).await?;\n",
         "        if !is_planted!() {\n"
         "            self.sync_data(&file).await?;\n"
         "        }\n"
         "        self.rename(&beside, path).await?;\n"),
    ]),
    # ---- recovery --------------------------------------------------------------------------------
    ("recovery-cuts-one-more", "recovery cuts the batch before the first bad one, too", [
        ("engine/src/log/recovery.rs",
         "        let good = scan.segment.size;\n        self.recovery.scanned_segments += 1;\n",
         "        if is_planted!() && scan.bad.is_some() && scan.batches > 1 {\n"
         "            let mut end = 0u64;\n"
         "            let mut next = 0u64;\n"
         "            while next < u64::from(scan.segment.size) {\n"
         "                let Ok(header) = scanner.header(next).await else { break };\n"
         "                end = next;\n"
         "                next += header.size_in_bytes() as u64;\n"
         "            }\n"
         "            let mut short = Scanner::new(self.io(), file, end, CHUNK_BYTES);\n"
         "            let again = scan_segment(&mut short, &request, visitor).await;\n"
         "            let bad = scan.bad.take();\n"
         "            scan = again.at(\"read\", &path)?;\n"
         "            scan.bad = bad;\n"
         "        }\n"
         "        let good = scan.segment.size;\n        self.recovery.scanned_segments += 1;\n"),
    ]),
    ("recovery-crc-unchecked", "recovery does not check the CRC of batches", [
        ("engine/src/log/recovery.rs",
         "        let mut request = self.request(base_offset, true);\n",
         "        let mut request = self.request(base_offset, !is_planted!());\n"),
    ]),
    ("stale-index-believed", "after a crash the index files that a segment had before are believed", [
        ("engine/src/log/recovery.rs",
         "            let is_sound = self.opening.clean || i < first_scanned;\n",
         "            let is_sound = self.opening.clean || i < first_scanned || is_planted!();\n"),
    ]),
    ("tail-not-cut", "recovery leaves the bad end of a segment in the file", [
        ("engine/src/log/recovery.rs",
         "        if good < size {\n            let truncated",
         "        if good < size && !is_planted!() {\n            let truncated"),
    ]),
    # ---- reads -----------------------------------------------------------------------------------
    ("offset-index-late", "an entry of the offset index points behind its batch", [
        ("engine/src/log/segment.rs",
         "                indexes.append(batch.last_offset, batch.position, largest);\n",
         "                let late = if is_planted!() { batch.size } else { 0 };\n"
         "                indexes.append(batch.last_offset, batch.position + late, largest);\n"),
    ]),
    ("time-index-stale", "a rolled segment's time index lacks its last entry", [
        ("engine/src/log/segment.rs",
         "            indexes.append_time(largest);\n            indexes.shrink();\n",
         "            if !is_planted!() {\n"
         "                indexes.append_time(largest);\n"
         "            }\n"
         "            indexes.shrink();\n"),
    ]),
    ("cold-crc-unchecked", "bytes that this process has not verified are sent as they are", [
        ("engine/src/log/cold.rs",
         "        if position >= self.cold_end {\n            return Some(self.size);\n",
         "        if position >= self.cold_end || is_planted!() {\n            return Some(self.size);\n"),
        ("engine/src/log/read.rs",
         "                is_cold: self.is_cold(segment_base, position),\n",
         "                is_cold: self.is_cold(segment_base, position) && !is_planted!(),\n"),
        ("engine/src/log/read.rs",
         "            let found = if self.is_cold(segment_base, start) {\n",
         "            let found = if self.is_cold(segment_base, start) && !is_planted!() {\n"),
    ]),
    ("high-watermark-early", "the high watermark moves before the journal is durable", [
        ("server/src/shard.rs",
         "        let (partition, end) = (partition.clone(), appended.end);\n",
         "        if is_planted!() {\n"
         "            partition.advance_high_watermark(appended.end);\n"
         "        }\n"
         "        let (partition, end) = (partition.clone(), appended.end);\n"),
    ]),
    ("fetch-above-high-watermark", "a fetch reads up to the log end", [
        ("server/src/handlers/fetch/read.rs",
         "            .read(read.fetch_offset, max_bytes, limit, at_least_one)\n",
         "            .read(\n"
         "                read.fetch_offset,\n"
         "                max_bytes,\n"
         "                if is_planted!() { partition.log.end_position() } else { limit },\n"
         "                at_least_one,\n"
         "            )\n"),
    ]),
    # ---- order and producers ---------------------------------------------------------------------
    ("turnstile-open", "appends to a partition overtake each other", [
        ("server/src/turnstile.rs",
         "        if self.turnstile.serving.get() == self.ticket {\n"
         "            self.passed = true;\n",
         "        if ringlog_engine::plant::is(\"turnstile-open\") && !self.passed {\n"
         "            self.passed = true;\n"
         "            if self.ticket % 2 == 0 {\n"
         "                context.waker().wake_by_ref();\n"
         "                return Poll::Pending;\n"
         "            }\n"
         "        }\n"
         "        if self.turnstile.serving.get() == self.ticket || is_planted!() {\n"
         "            self.passed = true;\n"),
    ]),
    ("stale-producers", "a start takes producers from a snapshot and not from the log behind it", [
        ("server/src/boot/partitions.rs",
         "            from = from.max(offset);\n            break;\n",
         "            from = from.max(offset);\n"
         "            if is_planted!() {\n"
         "                from = log.log_end_offset();\n"
         "            }\n"
         "            break;\n"),
    ]),
    ("producers-of-lost-records", "a snapshot that knows records which a crash has lost is believed", [
        ("server/src/boot/partitions.rs",
         "        .filter(|offset| **offset > log.log_end_offset());\n",
         "        .filter(|offset| **offset > log.log_end_offset() && !is_planted!());\n"),
        ("server/src/boot/partitions.rs",
         "    offsets.retain(|offset| range.contains(offset));\n",
         "    offsets.retain(|offset| range.contains(offset) || is_planted!());\n"),
        ("server/src/boot/partitions.rs",
         "    log.visit_batches(from, &mut |header, _| {\n",
         "    let from = from.min(log.log_end_offset());\n"
         "    log.visit_batches(from, &mut |header, _| {\n"),
    ]),
    ("no-snapshot-before-retention", "retention deletes records without a snapshot of their producers", [
        ("server/src/retention.rs",
         "    if partition.producers().borrow().is_empty() {\n        return Ok(());\n",
         "    if partition.producers().borrow().is_empty() || is_planted!() {\n        return Ok(());\n"),
    ]),
    ("duplicate-answered-early", "a retry is answered before its first try is durable", [
        ("server/src/partition.rs",
         "        if self.high_watermark.get().offset >= self.log.log_end_offset() {\n            return None;\n",
         "        if self.high_watermark.get().offset >= self.log.log_end_offset() || is_planted!() {\n"
         "            return None;\n"),
    ]),
    ("commit-answered-early", "a group's commit is answered before it is durable", [
        ("server/src/group/driver.rs",
         "    match outcome.lsn {\n        None => Ok(()),\n",
         "    match outcome.lsn {\n"
         "        Some(_) if is_planted!() => Ok(()),\n"
         "        None => Ok(()),\n"),
    ]),
    # ---- retention, compaction, deletion ---------------------------------------------------------
    ("log-start-not-durable", "records go before the new log start offset is durable", [
        ("server/src/metadata/checkpoints.rs",
         "        let written = write_log_starts(&shard.io, &store, &touched).await;\n",
         "        if is_planted!() {\n            return Ok(());\n        }\n"
         "        let written = write_log_starts(&shard.io, &store, &touched).await;\n"),
    ]),
    ("log-start-seen-early", "on a full disk a log begins later before its old segments are gone", [
        ("server/src/retention.rs",
         "    if delay == Delay::OfTopic {\n",
         "    if delay == Delay::OfTopic || is_planted!() {\n"),
    ]),
    ("retention-not-forgotten", "retention deletes segments that the journal has not forgotten", [
        ("server/src/retention.rs",
         "    if let Some(journal) = shard.journal() {\n",
         "    if let Some(journal) = shard.journal().filter(|_| !is_planted!()) {\n"),
    ]),
    ("retention-without-a-limit", "retention deletes old records of topics that keep all", [
        ("server/src/retention.rs",
         "        bytes_max: config.retention_bytes.filter(|_| deletes),\n",
         "        bytes_max: config\n"
         "            .retention_bytes\n"
         "            .or_else(|| is_planted!().then_some(50_000))\n"
         "            .filter(|_| deletes),\n"),
    ]),
    ("clock-jump-believed", "a wall clock that jumps ahead makes everything old at once", [
        ("server/src/retention.rs",
         "        if difference.saturating_sub(believed) <= JUMP_MS {\n",
         "        if difference.saturating_sub(believed) <= JUMP_MS || is_planted!() {\n"),
    ]),
    ("compaction-drops-live-key", "compaction drops the last record of a key", [
        ("engine/src/log/cleaner.rs",
         "        let is_last = self.map.get(key).is_none_or(|last| record.offset >= last);\n",
         "        let strict = i64::from(is_planted!() && record.offset % 16 == 0);\n"
         "        let is_last = self\n"
         "            .map\n"
         "            .get(key)\n"
         "            .is_none_or(|last| record.offset >= last + strict);\n"),
    ]),
    ("compaction-not-synced", "the segments that compaction has written are not synced", [
        ("engine/src/log/cleaner.rs",
         "        io.sync_data(&file).await.at(\"sync\", &path)?;\n        let kinds",
         "        if !is_planted!() {\n"
         "            io.sync_data(&file).await.at(\"sync\", &path)?;\n"
         "        }\n        let kinds"),
    ]),
    ("compaction-swap-not-synced", "old segments go before the new ones' names are durable", [
        ("engine/src/log/compaction.rs",
         "        if prepared.is_ok() {\n            prepared = io.sync",
         "        if prepared.is_ok() && !is_planted!() {\n            prepared = io.sync"),
        ("engine/src/log/compaction.rs",
         "        io.sync_directory(&directory).await.at(\"sync\", &directory)?;\n        let to_final",
         "        if !is_planted!() {\n"
         "            io.sync_directory(&directory).await.at(\"sync\", &directory)?;\n"
         "        }\n        let to_final"),
        ("engine/src/log/compaction.rs",
         "        io.sync_directory(&directory).await.at(\"sync\", &directory)?;\n        Ok(deleted)\n",
         "        if !is_planted!() {\n"
         "            io.sync_directory(&directory).await.at(\"sync\", &directory)?;\n"
         "        }\n        Ok(deleted)\n"),
    ]),
    ("compaction-not-forgotten", "compaction replaces segments that the journal has not forgotten", [
        ("server/src/compaction.rs",
         "        if let Some(journal) = shard.journal() {\n",
         "        if let Some(journal) = shard.journal().filter(|_| !is_planted!()) {\n"),
    ]),
    ("stale-file-after-compaction", "after a compaction the old segment's open file and indexes are used", [
        ("engine/src/log/compaction.rs",
         "            self.files.forget((self.number, old.base_offset));\n",
         "            if !is_planted!() {\n"
         "                self.files.forget((self.number, old.base_offset));\n"
         "            }\n"),
    ]),
    ("checkpoints-inherited", "a new topic gets the checkpoints of a deleted one of the same name", [
        ("server/src/boot/openings.rs",
         "            if offsets.keys().all(|key| is_there.contains(key)) {\n",
         "            if is_planted!() || offsets.keys().all(|key| is_there.contains(key)) {\n"),
    ]),
]


def fail(message):
    sys.exit(f"plants: {message}")


def planted_sources(plants):
    """The sources that git tracks, by name, with the bugs planted."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    texts = {}
    for name in filter(None, names):
        kind = name.rsplit(".", 1)[-1]
        if kind not in ("rs", "toml", "lock", "html", "css", "js") or name.startswith("fuzz/"):
            continue
        if (ROOT / name).is_file():
            texts[name] = (ROOT / name).read_text()
    originals = dict(texts)
    for name, _, edits in plants:
        for file, old, new in edits:
            if originals.get(file, "").count(old) != 1 and texts.get(file, "").count(old) != 1:
                fail(f"{name}: this does not stand exactly once in {file}:\n{old}")
            if texts[file].count(old) != 1:
                fail(f"{name}: another plant is in its way in {file}:\n{old}")
            module = "crate" if file.startswith("engine/") else "ringlog_engine"
            new = new.replace("is_planted!()", f'{module}::plant::is("{name}")')
            texts[file] = texts[file].replace(old, new)
    texts["engine/src/plant.rs"] = SWITCH
    texts["engine/src/lib.rs"] += "pub mod plant;\n"
    return texts


def write(copy, texts):
    """Writes the copy; files that did not change keep their times."""
    for name, text in texts.items():
        path = copy / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)


def build(copy, target):
    """Builds the simulator of the copy; gives its path."""
    command = ["cargo", "test", "--workspace", "--test", "sim", "--no-run", "--message-format=json"]
    # Not where the product is built: cargo takes crates of the same name for the same ones there.
    environment = dict(os.environ, CARGO_TARGET_DIR=str(target))
    built = subprocess.run(command, cwd=copy, env=environment, stdout=subprocess.PIPE, text=True)
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("message", {}).get("level") == "error":
            print(message["message"]["rendered"], file=sys.stderr)
        if message.get("target", {}).get("name") == "sim" and message.get("executable"):
            return message["executable"]
    fail("the copy does not build")


def run(executable, directory, plant, seconds):
    """Runs seeds with a plant; gives what became of it."""
    environment = dict(os.environ, RINGLOG_PLANT=plant, RINGLOG_SIM_SEEDS="1000000",
                       RINGLOG_SIM_SECONDS=str(seconds), RINGLOG_SIM_FAILURES="1")
    for name in ("RINGLOG_SEED", "RINGLOG_SIM_FIRST"):
        environment.pop(name, None)
    began = time.monotonic()
    with open(directory / f"{plant or 'control'}.log", "w+") as story:
        command = [executable, "what_was_acknowledged_survives", "--exact", "--nocapture"]
        process = subprocess.Popen(command, cwd=directory, env=environment, stdout=story,
                                   stderr=subprocess.STDOUT)
        try:
            process.wait(seconds + 60)
            hung = False
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            hung = True
        took = time.monotonic() - began
        story.seek(0)
        text = story.read()
    failing = [int(seed) for seed in re.findall(r"^==== seed (\d+) ====$", text, re.M)]
    passed = re.search(r"(\d+) passed, (\d+) failed", text)
    said = re.search(r"^---- (.*(?:\n(?!RINGLOG_SEED).*)*)", text, re.M)
    return {
        "plant": plant,
        "caught": hung or process.returncode != 0,
        "seeds": int(passed[1]) + int(passed[2]) if passed else None,
        "failing_seed": min(failing) if failing else None,
        "seconds": round(took, 1),
        "said": "a seed does not end" if hung else said[1].strip() if said else "",
    }


def short(text, length=170):
    text = re.sub(r"offsets \[[^\]]*\]", "offsets [..]", text)
    text = " ".join(text.replace("|", "/").split())
    return text if len(text) <= length else text[:length] + " .."


def table(rows, breaks):
    lines = ["| plant | what it breaks | caught by seed | seeds run | seconds | what the ledger said |",
             "|---|---|---|---|---|---|"]
    for row in rows:
        if not row["plant"]:
            continue
        caught = row["failing_seed"] if row["caught"] else "**not caught**"
        said = short(row["said"]) if row["caught"] else ""
        lines.append(f"| `{row['plant']}` | {breaks[row['plant']]} | {caught} | {row['seeds']} | "
                     f"{row['seconds']} | {said} |")
    return "\n".join(lines) + "\n"


def machine():
    processor = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    load = os.getloadavg()[0]
    return (f"{os.cpu_count()} x {processor[1] if processor else platform.machine()}, "
            f"{platform.system()} {platform.release()}, load {load:.1f} at the end")


def readme(rows, breaks, seconds):
    control, planted = rows[0], rows[1:]
    caught = [row for row in planted if row["caught"]]
    commit = subprocess.run(["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=ROOT,
                            check=True, capture_output=True, text=True).stdout.strip()
    took = sum(row["seconds"] for row in planted)
    seeds = sorted(row["seeds"] for row in caught if row["seeds"])
    median = seeds[len(seeds) // 2] if seeds else 0
    return f"""# Planted bugs: does the simulator see them?

**{len(caught)} of {len(planted)} planted bugs are caught, in {took:.0f} s together**; half of those that are
caught within {median} seeds. Without a bug {control["seeds"]} seeds pass in {control["seconds"]:.0f} s (the
control).

Command: `tests/sim/plants.py --seconds {seconds}`, commit {commit}, {machine()}. Each bug is switched on
alone in a copy of the sources, and seeds from 0 on run on all cores until one fails, at most {seconds} s. A
bug counts as caught by the first seed that fails; "seeds run" is how many it took, those that ran beside it
included. Raw data: `plants.json`.

{table(rows, breaks)}"""


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--seconds", type=int, default=30, help="at most so long for each plant")
    arguments.add_argument("--only", default="", help="names of plants, with commas")
    arguments.add_argument("--results", type=pathlib.Path, help="where README.md and plants.json go")
    arguments.add_argument("--check", action="store_true", help="only look whether all texts match")
    arguments.add_argument("--build", action="store_true", help="only build")
    arguments.add_argument("--as-is", action="store_true", help="use the copy that is there")
    given = arguments.parse_args()
    home = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "plants"
    copy = home / "source"
    if given.check:
        planted_sources(PLANTS)
        return
    if not given.as_is:
        write(copy, planted_sources(PLANTS))
    executable = build(copy, home / "target")
    if given.build:
        return
    directory = copy / "tests"
    only = [name for name in given.only.split(",") if name]
    breaks = {name: what for name, what, _ in PLANTS}
    for name in only:
        if name not in breaks:
            fail(f"there is no plant {name}")
    known, rows = {}, []
    if given.results:
        given.results.mkdir(parents=True, exist_ok=True)
        raw = given.results / "plants.json"
        if only and raw.is_file():
            known = {row["plant"]: row for row in json.loads(raw.read_text())}
    for name in [""] + (only or list(breaks)):
        row = run(executable, directory, name, given.seconds)
        rows.append(row)
        what = "caught" if row["caught"] else "not caught"
        print(f"{name or 'control':32} {what:12} seed {row['failing_seed']}, {row['seeds']} seeds, "
              f"{row['seconds']} s: {short(row['said'])}", flush=True)
        if given.results:
            known[name] = row
            found = [known[plant] for plant in ["", *breaks] if plant in known]
            raw.write_text(json.dumps(found, indent=1) + "\n")
            text = readme(found, breaks, given.seconds)
            (given.results / "README.md").write_text(text)
    control, planted = rows[0], rows[1:]
    caught = sum(row["caught"] for row in planted)
    total = sum(row["seconds"] for row in planted)
    print(f"{caught} of {len(planted)} caught in {total:.0f} s")
    if control["caught"]:
        fail("a seed fails without any plant")


if __name__ == "__main__":
    main()
