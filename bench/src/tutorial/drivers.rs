//! Literal clients of the tutorial's loop: processes of their own, with the programs in `bench/drivers`.
//!
//! Each writes its times (CLOCK_MONOTONIC, which all processes share) into a file; what is made of them
//! happens here. A language that is missing is a failure with one line, never a number.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Deserialize;

use super::{Driver, Measured, PASSES, Pass, Shape, Site, measured};
use crate::cli::TutorialArgs;
use crate::client::Client;
use crate::failure::Failure;
use crate::frames::FETCH_KEY;
use crate::phase::histogram;
use crate::resources::{Meter, Resources};
use crate::run::Broker;
use crate::target::Directory;
use crate::transport::Transport;

/// One process may take so long, and this much for each thousand messages.
const PATIENCE: Duration = Duration::from_secs(120);
const PATIENCE_PER_THOUSAND: Duration = Duration::from_millis(500);

/// What `bench/drivers/prepare` says.
#[derive(Debug, Deserialize)]
struct Prepared {
    client: String,
    command: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Produced {
    began_ns: u64,
    ended_ns: u64,
    /// What the client says of itself: acks, batches, requests in flight.
    settings: String,
    sent_ns: Vec<u64>,
    acked_ns: Vec<u64>,
}

#[derive(Debug, Deserialize)]
struct Consumed {
    began_ns: u64,
    ended_ns: u64,
    received_ns: Vec<u64>,
}

/// A process that ends with its owner.
struct LiteralClient(Child, &'static str, PathBuf);

impl Drop for LiteralClient {
    fn drop(&mut self) {
        // It has ended already, or it is of no use any more.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A client that is ready, and the broker it talks to.
struct Scene {
    prepared: Prepared,
    broker: Broker,
    shape: Shape,
    api_version: &'static str,
    directory: Directory,
}

/// Two loops and a live pass.
pub(super) async fn run<T: Transport>(
    args: &TutorialArgs,
    site: &Site,
    driver: Driver,
    shape: Shape,
) -> Result<Measured, Failure> {
    let broker = site.broker;
    let mut control = Client::connect::<T>(broker.address).await?;
    let is_old = control.version_or_oldest(FETCH_KEY, 2) == 2;
    let (words, api_version) = match driver {
        Driver::Java => (vec!["java"], "-"),
        // Brokers from 4.0 no longer speak to a client of 0.10 (KIP-896).
        _ if is_old => (vec!["kafka-python", "old"], "0,10,0"),
        _ => (vec!["kafka-python", "new"], "auto"),
    };
    let mut scene = Scene {
        prepared: prepare(&args.driver_script, &words)?,
        broker,
        shape,
        api_version,
        directory: Directory::new(&args.spawn_args, "driver")?,
    };
    let topic = |name: &str| format!("{name}-{}", site.name);
    for name in PASSES {
        control.create_topic(&topic(name), shape.partitions).await?;
    }
    let (first, ..) = scene.loop_once(&topic("first")).await?;
    let (second, resources, settings) = scene.loop_once(&topic("second")).await?;
    let live = scene.live(&topic("live")).await?;
    for name in PASSES {
        let ends = control
            .log_end_offsets(&topic(name), shape.partitions)
            .await?;
        let end = ends.iter().sum::<i64>().cast_unsigned();
        if end != shape.messages {
            let what = format!("{end} of {} messages are in the log", shape.messages);
            return Err(Failure::Target(what));
        }
    }
    let client = std::mem::take(&mut scene.prepared.client);
    let client = match driver {
        Driver::Java => format!("{client}, {settings}"),
        _ => format!("{client}, api_version {api_version}, {settings}"),
    };
    Ok(measured(client, shape, (&first, &second, &live), resources))
}

/// Installs the client into the cache, unless it is there.
fn prepare(script: &Path, words: &[&str]) -> Result<Prepared, Failure> {
    let failed = format!("running {} (--driver-script names it)", script.display());
    let mut command = Command::new(script);
    let output = command.args(words).stdin(Stdio::null()).output();
    let output = output.map_err(Failure::system(failed))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.trim().lines().last().unwrap_or("no reason given");
        return Err(Failure::Target(format!(
            "{} cannot run here: {last}",
            words[0]
        )));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::Target(format!("{}: {error}", script.display())))
}

impl Scene {
    /// With what it used, its processes' CPU time included, and the producer's settings.
    async fn loop_once(&self, topic: &str) -> Result<(Pass, Resources, String), Failure> {
        let meter = Meter::start(self.broker.pid)?.with_children()?;
        let produce = self.start("produce", topic, None)?;
        let produced: Produced = self.result(produce).await?;
        let consuming = Instant::now();
        let consume = self.start("consume", topic, Some("-"))?;
        let consumed: Consumed = self.result(consume).await?;
        let consume_s = consuming.elapsed().as_secs_f64();
        let resources = meter.stop()?;
        let within_s = (consumed.ended_ns - consumed.began_ns) as f64 / 1e9;
        let pass = Pass {
            whole_s: resources.machine.elapsed_s,
            produce_s: (produced.ended_ns - produced.began_ns) as f64 / 1e9,
            consume_s: within_s.min(consume_s),
            produce: between(&produced.sent_ns, &produced.acked_ns)?,
            end_to_end: histogram(),
            counted: None,
        };
        Ok((pass, resources, produced.settings))
    }

    async fn live(&self, topic: &str) -> Result<Pass, Failure> {
        let began = Instant::now();
        let ready = self.directory.path().join(format!("ready-{topic}"));
        let ready_name = ready.display().to_string();
        let mut consume = self.start("consume", topic, Some(&ready_name))?;
        while !ready.exists() {
            if !self.is_running(&mut consume)? || began.elapsed() > PATIENCE {
                return Err(self.complaint(&consume, "no partitions came"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await; // the poll's pause
        }
        let produce = self.start("produce", topic, None)?;
        let produced: Produced = self.result(produce).await?;
        let consumed: Consumed = self.result(consume).await?;
        Ok(Pass {
            whole_s: began.elapsed().as_secs_f64(),
            produce_s: (produced.ended_ns - produced.began_ns) as f64 / 1e9,
            consume_s: (consumed.ended_ns - consumed.began_ns) as f64 / 1e9,
            produce: between(&produced.sent_ns, &produced.acked_ns)?,
            end_to_end: between(&produced.sent_ns, &consumed.received_ns)?,
            counted: None,
        })
    }

    fn start(
        &self,
        what: &'static str,
        topic: &str,
        ready: Option<&str>,
    ) -> Result<LiteralClient, Failure> {
        let out = self.directory.path().join(format!("{what}-{topic}.json"));
        let log = out.with_extension("log");
        let failed = |path: &Path| format!("making {}", path.display());
        let log_file = File::create(&log).map_err(Failure::system(failed(&log)))?;
        let errors = log_file
            .try_clone()
            .map_err(Failure::system(failed(&log)))?;
        let mut words = self.prepared.command.iter();
        let program = words.next().map_or("", |word| word);
        let mut command = Command::new(program);
        command
            .args(words)
            .args([what, &self.broker.address.to_string(), topic])
            .args([
                self.shape.messages.to_string(),
                self.shape.partitions.to_string(),
            ])
            .arg(&out)
            .arg(self.api_version);
        if let Some(ready) = ready {
            command.args([&format!("mine-{topic}"), ready]);
        }
        command.stdin(Stdio::null()).stdout(log_file).stderr(errors);
        let child = command.spawn();
        let child = child.map_err(Failure::system(format!("starting {program}")))?;
        Ok(LiteralClient(child, what, out))
    }

    fn is_running(&self, client: &mut LiteralClient) -> Result<bool, Failure> {
        let ended = client
            .0
            .try_wait()
            .map_err(Failure::system("waiting for a client"))?;
        Ok(ended.is_none())
    }

    /// Waits for the client's end and reads its times.
    async fn result<R: for<'a> Deserialize<'a>>(
        &self,
        mut client: LiteralClient,
    ) -> Result<R, Failure> {
        let began = Instant::now();
        let thousands = u32::try_from(self.shape.messages / 1000).unwrap_or(u32::MAX);
        let patience = PATIENCE + PATIENCE_PER_THOUSAND * thousands;
        while self.is_running(&mut client)? {
            if began.elapsed() > patience {
                return Err(self.complaint(&client, "no end"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await; // the poll's pause
        }
        let text = fs::read(&client.2).map_err(|_| self.complaint(&client, "it failed"))?;
        serde_json::from_slice(&text)
            .map_err(|error| self.complaint(&client, &format!("its times: {error}")))
    }

    fn complaint(&self, client: &LiteralClient, what: &str) -> Failure {
        let log = fs::read_to_string(client.2.with_extension("log")).unwrap_or_default();
        let last = log.trim().lines().last().unwrap_or_default();
        let (name, verb) = (&self.prepared.client, client.1);
        Failure::Target(format!("{name} ({verb}): {what}: {last}"))
    }
}

fn between(from: &[u64], to: &[u64]) -> Result<Histogram<u64>, Failure> {
    let mut times = histogram();
    if from.len() != to.len() || to.contains(&0) {
        return Err(Failure::Target(
            "a client lost some of its times".to_owned(),
        ));
    }
    for (from, to) in from.iter().zip(to) {
        times.saturating_record(to.saturating_sub(*from).max(1));
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_from_pairs_and_a_missing_one_is_a_failure() {
        let times = between(&[1000, 2000], &[3000, 6000]).unwrap();
        assert_eq!((times.len(), times.min()), (2, 2000));
        assert!(between(&[1], &[0]).is_err() && between(&[1, 2], &[3]).is_err());
    }

    #[test]
    fn a_language_that_is_missing_is_one_line() {
        let missing = prepare(Path::new("/no/such/prepare"), &["java"]).unwrap_err();
        assert!(missing.to_string().contains("--driver-script"), "{missing}");
        let refused = prepare(Path::new("/bin/false"), &["java"]).unwrap_err();
        assert!(
            refused.to_string().contains("java cannot run here"),
            "{refused}"
        );
    }
}
