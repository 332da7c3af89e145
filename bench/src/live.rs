//! Producers and consumer groups at the same time, or one after the other (catch-up): what `run` does.
//!
//! Live: every group reads all that is written while it is written; the first record of each batch says
//! when it was meant to leave, so that the end-to-end time counts from there. Catch-up: the topic is
//! filled and checked, then the groups read it, from the page cache (hot) or, after the kernel was told to
//! forget the log (cold), from the device; how much came from there is told.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::fs::{Advice, fadvise};
use serde::Serialize;

use crate::client::Client;
use crate::consume::{self, Clock, Group, Plan};
use crate::failure::Failure;
use crate::group::Age;
use crate::phase::{Limit, histogram};
use crate::produce::Producers;
use crate::progress::Progress;
use crate::report::{Latency, Summary};
use crate::resources::{Meter, Resources};
use crate::run::{self, Broker, Run};
use crate::schedule::Pace;
use crate::table::{Cell, Table};
use crate::transport::Transport;
use crate::workload::Workload;

/// Groups that get nothing for so long after the warm-up, although there is more, have lost it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who reads.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Readers {
    /// Groups, each of which reads everything.
    pub(crate) groups: usize,
    /// Members of each.
    pub(crate) consumers: usize,
    /// Bytes that a consumer asks for at once.
    pub(crate) fetch_bytes_max: i32,
}

/// From where a catch-up reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CatchUp {
    /// The page cache.
    Hot,
    /// The device: the kernel is told to forget the log first.
    Cold,
}

/// What the groups got.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Consumed {
    /// Who read.
    pub(crate) readers: Readers,
    /// Records over all groups.
    pub(crate) records: u64,
    /// Bytes of batches over all groups.
    pub(crate) batch_bytes: u64,
    /// From when the first group began to read (in a live run: from the load's begin) to the last records.
    pub(crate) elapsed_s: f64,
    /// Over all groups.
    pub(crate) records_per_s: f64,
    /// Over all groups, in 10^6 bytes of batches.
    pub(crate) megabytes_per_s: f64,
    /// Whether requests had intended times: if not, end-to-end times count from the send.
    pub(crate) open_loop: bool,
    /// From the intended send to the receipt, by batch; `None` in a catch-up.
    pub(crate) end_to_end: Option<Latency>,
    /// Of a catch-up, the share of the log's bytes that the broker read from the device.
    pub(crate) device_share: Option<f64>,
}

impl Consumed {
    fn of(
        groups: &[Rc<Group>],
        readers: Readers,
        open_loop: bool,
        end_to_end: Option<&Histogram<u64>>,
    ) -> Self {
        let records = groups.iter().map(|group| group.received()).sum::<u64>();
        let batch_bytes = groups.iter().map(|group| group.bytes()).sum::<u64>();
        let began = groups.iter().map(|group| group.began()).min();
        let last = groups.iter().filter_map(|group| group.last()).max();
        let elapsed = began
            .zip(last)
            .map(|(began, last)| last.saturating_duration_since(began));
        let elapsed_s = elapsed.unwrap_or_default().as_secs_f64();
        let per_s = |amount: f64| {
            if elapsed_s > 0.0 {
                amount / elapsed_s
            } else {
                0.0
            }
        };
        Self {
            readers,
            records,
            batch_bytes,
            elapsed_s,
            records_per_s: per_s(records as f64),
            megabytes_per_s: per_s(batch_bytes as f64 / 1e6),
            open_loop,
            end_to_end: end_to_end.map(Latency::of),
            device_share: None,
        }
    }

    /// For the report.
    pub(crate) fn table(&self) -> Table {
        let columns = [
            "groups",
            "consumers in each",
            "records/s",
            "MB/s",
            "end to end p50, us",
            "p99, us",
            "p99.9, us",
            "max, us",
            "read from the device, %",
        ];
        let time = |of: fn(&Latency) -> f64| Cell::of(self.end_to_end.as_ref().map(of));
        let row = vec![
            Cell::Number(self.readers.groups as f64),
            Cell::Number(self.readers.consumers as f64),
            Cell::Number(self.records_per_s),
            Cell::Number(self.megabytes_per_s),
            time(|latency| latency.p50_us),
            time(|latency| latency.p99_us),
            time(|latency| latency.p99_9_us),
            time(|latency| latency.max_us),
            Cell::of(self.device_share.map(|share| share * 100.0)),
        ];
        Table {
            title: "What the groups got".to_owned(),
            columns: columns.map(str::to_owned).to_vec(),
            rows: vec![row],
            notes: vec![format!(
                "end to end: from the {} of a batch to its receipt by a consumer",
                self.origin()
            )],
        }
    }

    /// What end-to-end times count from.
    fn origin(&self) -> &'static str {
        if self.open_loop {
            "intended send"
        } else {
            "send (closed loop)"
        }
    }

    /// Plain lines for a person.
    pub(crate) fn lines(&self) -> Vec<String> {
        let Readers {
            groups, consumers, ..
        } = self.readers;
        let mut lines = vec![format!(
            "consumed     {} records, {:.1} MB in {:.2} s by {groups} groups of {consumers}: {:.0} records/s, \
             {:.1} MB/s",
            self.records,
            self.batch_bytes as f64 / 1e6,
            self.elapsed_s,
            self.records_per_s,
            self.megabytes_per_s
        )];
        let end_to_end = self.end_to_end.as_ref();
        let line = |latency: &Latency| {
            format!(
                "{} ({} to receipt)",
                latency.line("end to end"),
                self.origin()
            )
        };
        lines.extend(end_to_end.map(line));
        let from_device = |share: f64| {
            format!(
                "device       {:.0} % of the log's bytes were read from it",
                share * 100.0
            )
        };
        lines.extend(self.device_share.map(from_device));
        lines
    }
}

fn groups<T: Transport>(
    producers: &Producers<T>,
    workload: &Workload,
    readers: Readers,
) -> Vec<Rc<Group>> {
    let clock = if workload.stamped {
        Clock::Stamps(producers.epoch())
    } else {
        Clock::None
    };
    let plan = |number| Plan {
        topic: workload.topic.clone(),
        begin_offsets: producers.begin_offsets().to_vec(),
        group: format!("{}-{}-{number}", workload.topic, std::process::id()),
        consumers: readers.consumers,
        age: Age::New,
        fetch_bytes_max: readers.fetch_bytes_max,
        content: None,
        clock: clock.clone(),
        writers: workload.connections,
    };
    (0..readers.groups)
        .map(|number| Group::new(plan(number)))
        .collect()
}

type Reading = tokio::task::JoinHandle<Result<(), Failure>>;

/// Joins all groups, and when the last is ready lets them read.
async fn begin_reading<T: Transport>(
    broker: Broker,
    groups: &[Rc<Group>],
) -> Result<Vec<Reading>, Failure> {
    let mut joined = Vec::new();
    for group in groups {
        joined.push(consume::join::<T>(broker.address, group).await?);
    }
    groups.iter().for_each(|group| group.restart());
    let read = |consumers| tokio::task::spawn_local(consume::read(consumers));
    Ok(joined.into_iter().map(read).collect())
}

async fn end_reading(readings: Vec<Reading>) -> Result<(), Failure> {
    let mut first = None;
    for reading in readings {
        let read = reading
            .await
            .expect("a task of the generator does not panic");
        first = first.or(read.err());
    }
    first.map_or(Ok(()), Err)
}

/// Ends when a group has failed.
async fn failure_of(groups: &[Rc<Group>]) {
    while !groups.iter().any(|group| group.has_failed()) {
        tokio::time::sleep(Duration::from_millis(20)).await; // the poll's pause
    }
}

/// Ends when all groups have read up to `ends` or one has failed; an error if they get nothing for
/// `patience`.
async fn have_read(groups: &[Rc<Group>], ends: &[i64], patience: Duration) -> Result<(), Failure> {
    let received = || groups.iter().map(|group| group.received()).sum::<u64>();
    let (mut before, mut fed) = (received(), Instant::now());
    while !groups
        .iter()
        .all(|group| group.has_read(ends) || group.has_failed())
    {
        tokio::time::sleep(Duration::from_millis(2)).await; // the poll's pause
        if received() != before {
            (before, fed) = (received(), Instant::now());
        } else if fed.elapsed() > patience {
            let what = format!(
                "the groups got nothing for {} s, although more was acknowledged in the warm-up",
                patience.as_secs()
            );
            return Err(Failure::Target(what));
        }
    }
    Ok(())
}

/// Produces while all groups read.
pub(crate) async fn live<T: Transport>(
    broker: Broker,
    workload: &Workload,
    readers: Readers,
    warm_up: Duration,
    limit: Limit,
) -> Result<(Run, Consumed), Failure> {
    let mut client = Client::connect::<T>(broker.address).await?;
    let mut producers = Producers::<T>::connect(&mut client, broker.address, workload).await?;
    let groups = groups(&producers, workload, readers);
    let readings = begin_reading::<T>(broker, &groups).await?;
    let mut warmed_up = None;
    if !warm_up.is_zero() {
        let limit = Limit {
            duration: Some(warm_up),
            requests: limit.requests,
        };
        let phase = producers.phase(limit).await;
        warmed_up = Some(phase.inspect_err(|_| groups.iter().for_each(|group| group.stop()))?);
        let ends = producers.settled_ends(&mut client).await?;
        // What is left of the warm-up is not to be measured.
        if let Err(failure) = have_read(&groups, &ends, PATIENCE).await {
            groups.iter().for_each(|group| group.stop());
            return Err(failure);
        }
    }
    groups.iter().for_each(|group| group.restart());
    let bytes_before = producers.bytes();
    let meter = Meter::start(broker.pid)?;
    let progress = Progress::begin("run");
    let phase = tokio::select! {
        biased;
        phase = producers.phase(limit) => Some(phase),
        () = failure_of(&groups) => None,
    };
    let counted = match phase {
        Some(Ok(counted)) => counted,
        failed => {
            groups.iter().for_each(|group| group.stop());
            let ended = || Failure::Target("a group ended before the load".to_owned());
            let failure = match failed {
                Some(Err(failure)) => failure,
                _ => end_reading(readings).await.err().unwrap_or_else(ended),
            };
            let measured = (meter, bytes_before);
            return Err(run::partial(&mut producers, workload, measured, failure));
        }
    };
    let ends = producers.settled_ends(&mut client).await?;
    groups
        .iter()
        .for_each(|group| group.finish_at(ends.clone()));
    end_reading(readings).await?;
    let resources = meter.stop()?;
    drop(progress);
    let amounts = (
        counted.requests * workload.records_per_batch as u64,
        producers.bytes() - bytes_before,
    );
    let open_loop = workload.pace != Pace::Closed;
    let mut summary = Summary::new(&counted, amounts, open_loop, resources);
    if let Some(warmed_up) = &warmed_up {
        summary = summary.with_warm_up(warmed_up);
    }
    let mut end_to_end = histogram();
    for group in &groups {
        let of_group = group.take_end_to_end();
        end_to_end
            .add(&of_group)
            .expect("both have the same bounds");
    }
    let end_to_end = workload.stamped.then_some(&end_to_end);
    let consumed = Consumed::of(&groups, readers, open_loop, end_to_end);
    if workload.verify {
        let verified = producers.verify_logs(&mut client).await?;
        summary.verified_records = Some(verified.records);
        for group in &groups {
            group.agrees(&verified)?;
        }
    }
    let mut reasons = summary.reasons(&counted);
    if end_to_end.is_some_and(hdrhistogram::Histogram::is_empty) {
        reasons.push("no batch came with the time at which it was to leave".to_owned());
    }
    Ok((Run { summary, reasons }, consumed))
}

/// What a catch-up measured.
#[derive(Debug)]
pub(crate) struct CaughtUp {
    /// What was read.
    pub(crate) consumed: Consumed,
    /// While it was read.
    pub(crate) resources: Resources,
    /// Records compared before, each of which every group then read.
    pub(crate) verified_records: u64,
    /// Why it means nothing, if it does not.
    pub(crate) reasons: Vec<String>,
}

/// Fills the topic with `fill_bytes`, then lets all groups read it. `data` is where the broker keeps it.
pub(crate) async fn catch_up<T: Transport>(
    (broker, data): (Broker, Option<&Path>),
    workload: &Workload,
    readers: Readers,
    from: CatchUp,
    fill_bytes: u64,
) -> Result<CaughtUp, Failure> {
    let mut client = Client::connect::<T>(broker.address).await?;
    let mut producers = Producers::<T>::connect(&mut client, broker.address, workload).await?;
    let requests = fill_bytes.div_ceil(producers.batch_bytes().max(1) as u64);
    let progress = Progress::begin("fill");
    producers
        .phase(Limit {
            duration: None,
            requests: Some(requests),
        })
        .await?;
    drop(progress);
    // This reading also brings the broker's fetch path up.
    let verified = producers.verify_logs(&mut client).await?;
    let groups = groups(&producers, workload, readers);
    groups
        .iter()
        .for_each(|group| group.finish_at(verified.ends.clone()));
    if from == CatchUp::Cold {
        forget(&log_directories(broker, data, &workload.topic)?)?;
    }
    let device_before = device_read_bytes(broker.pid);
    let meter = Meter::start(broker.pid)?;
    let progress = Progress::begin("catch-up");
    let readings = begin_reading::<T>(broker, &groups).await?;
    end_reading(readings).await?;
    drop(progress);
    let resources = meter.stop()?;
    let mut consumed = Consumed::of(&groups, readers, false, None);
    for group in &groups {
        group.agrees(&verified)?;
    }
    let read = device_read_bytes(broker.pid).zip(device_before);
    let log_bytes = consumed.batch_bytes as f64 / readers.groups as f64;
    consumed.device_share = read.map(|(after, before)| (after - before) as f64 / log_bytes);
    let share = consumed.device_share.unwrap_or_default();
    let mut reasons = Vec::new();
    if from == CatchUp::Cold && share < 0.9 {
        reasons.push(format!(
            "not cold: only {:.0} % of the log's bytes came from the device (a tmpfs, or a file system \
             that keeps its pages?)",
            share * 100.0
        ));
    }
    if from == CatchUp::Hot && share > 0.1 {
        reasons.push(format!(
            "not hot: {:.0} % of the log's bytes came from the device",
            share * 100.0
        ));
    }
    Ok(CaughtUp {
        consumed,
        resources,
        verified_records: verified.records,
        reasons,
    })
}

/// The directories `<topic>-<partition>` of a broker of this machine.
pub(crate) fn log_directories(
    broker: Broker,
    data: Option<&Path>,
    topic: &str,
) -> Result<Vec<PathBuf>, Failure> {
    let is_log = |path: &Path| {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let number = name
            .as_deref()
            .and_then(|name| name.strip_prefix(topic)?.strip_prefix('-'));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let mut found = Vec::new();
    if let Some(data) = data {
        let mut left = vec![data.to_owned()];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() && is_log(&path) {
                    found.push(path);
                } else if path.is_dir() {
                    left.push(path);
                }
            }
        }
    } else if let Some(pid) = broker.pid {
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let file = fs::read_link(entry.path()).unwrap_or_default();
            found.extend(
                file.parent()
                    .filter(|parent| is_log(parent))
                    .map(Path::to_owned),
            );
        }
        found.sort();
        found.dedup();
    }
    if found.is_empty() {
        return Err(Failure::Usage(
            "--catch-up cold needs a broker whose log files are found here: one that is started, or --pid"
                .to_owned(),
        ));
    }
    Ok(found)
}

/// Writes the files of these directories back and drops their pages.
pub(crate) fn forget(directories: &[PathBuf]) -> Result<(), Failure> {
    for directory in directories {
        let failed = |path: &Path| format!("dropping the pages of {}", path.display());
        let entries = fs::read_dir(directory).map_err(Failure::system(failed(directory)))?;
        for path in entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_file())
        {
            let drop_pages = || {
                let file = File::open(&path)?;
                file.sync_all()?; // only clean pages can be dropped
                Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
            };
            drop_pages().map_err(Failure::system(failed(&path)))?;
        }
    }
    Ok(())
}

/// `read_bytes` of /proc/PID/io: what the process made the device read.
pub(crate) fn device_read_bytes(pid: Option<u32>) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{}/io", pid?)).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("read_bytes:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_get_nothing_after_the_warm_up_end_the_run() {
        let group = Group::new(Plan {
            topic: "t".to_owned(),
            begin_offsets: vec![0],
            group: "g".to_owned(),
            consumers: 1,
            age: Age::New,
            fetch_bytes_max: 1,
            content: None,
            clock: Clock::None,
            writers: 1,
        });
        let wait = have_read(
            std::slice::from_ref(&group),
            &[5],
            Duration::from_millis(20),
        );
        let failure = crate::transport::run_epoll(wait).unwrap().unwrap_err();
        assert!(failure.to_string().contains("got nothing"), "{failure}");
        let wait = have_read(std::slice::from_ref(&group), &[0], Duration::ZERO);
        assert!(crate::transport::run_epoll(wait).unwrap().is_ok());
    }

    #[test]
    fn end_to_end_times_of_a_closed_loop_are_not_said_to_count_from_an_intended_send() {
        let mut times = histogram();
        times.record(1_000).unwrap();
        let readers = Readers {
            groups: 1,
            consumers: 1,
            fetch_bytes_max: 1,
        };
        let said = |open_loop| {
            let consumed = Consumed::of(&[], readers, open_loop, Some(&times));
            (consumed.lines().concat(), consumed.table().notes.concat())
        };
        let (lines, notes) = said(true);
        assert!(lines.contains("intended") && notes.contains("intended"));
        let (lines, notes) = said(false);
        assert!(!lines.contains("intended") && !notes.contains("intended"));
    }
}
