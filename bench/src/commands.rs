//! The commands that load one broker once: `produce`, `fetch`, `run`. Start, load, tell, keep.

use serde::Serialize;

use crate::begin;
use crate::cli::{FetchArgs, ProduceArgs, RunArgs, TargetArgs};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::folder::Folder;
use crate::live::{self, Consumed};
use crate::progress::Progress;
use crate::report::{Document, Measurement, Summary, fields, say};
use crate::resources::Resources;
use crate::run::{self, Broker, Run};
use crate::target::Target;
use crate::transport::Transport;
use crate::workload::Workload;

/// What a run leaves.
#[derive(Serialize)]
struct RunBody {
    io: &'static str,
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumed: Option<Consumed>,
    /// Of a catch-up.
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<Resources>,
}

/// A target under load, and what is known of the run already.
struct Scene {
    kind: &'static str,
    target: Target,
    environment: Environment,
    workload: Workload,
    summary: Option<Summary>,
    body: RunBody,
    folder: Option<Folder>,
}

impl Scene {
    fn new<T: Transport>(
        kind: &'static str,
        (target, environment): (Target, Environment),
        workload: &Workload,
        folder: Option<Folder>,
    ) -> Self {
        let body = RunBody {
            io: T::NAME,
            target: target.command.clone(),
            consumed: None,
            resources: None,
        };
        Self {
            kind,
            target,
            environment,
            workload: workload.clone(),
            summary: None,
            body,
            folder,
        }
    }

    /// Starts the broker, if one is to be started. One that does not start is a result as well.
    async fn begin<T: Transport>(
        kind: &'static str,
        args: &TargetArgs,
        workload: &Workload,
        folder: Option<Folder>,
    ) -> Result<Self, Failure> {
        let failure = match begin(args).await {
            Ok(begun) => return Ok(Self::new::<T>(kind, begun, workload, folder)),
            Err(failure) => failure,
        };
        if let Some(folder) = &folder {
            let environment = Environment::capture(&args.spawn_args.work_dir());
            let body = RunBody {
                io: T::NAME,
                target: "not started".to_owned(),
                consumed: None,
                resources: None,
            };
            let document = Document::failed(kind, environment, failure.to_string(), body);
            // The failure itself is what must be told.
            if let Err(error) = document.write(folder) {
                say(&format!("no result was kept: {error}"));
            }
        }
        Err(failure)
    }

    /// What the charts are drawn of.
    fn measurements(&self) -> Vec<Measurement> {
        let of = |summary: &Summary| {
            let workload = fields(&self.workload);
            let consumed = self.body.consumed.as_ref();
            Measurement::new(self.kind, &self.body.target, workload, summary.clone())
                .with_end_to_end(consumed.and_then(|consumed| consumed.end_to_end.clone()))
        };
        self.summary.iter().map(of).collect()
    }

    fn broker(&self) -> Broker {
        Broker {
            address: self.target.address,
            pid: self.target.pid,
        }
    }

    /// A run that failed: what there is of it is kept, and marked as such.
    fn fail(mut self, failure: Failure) -> Failure {
        say(&self.target.log_tail());
        let (failure, partial) = failure.into_parts();
        if let Some(summary) = &partial {
            say("PARTIAL, before the run failed:");
            summary.lines().iter().for_each(|line| say(line));
        }
        self.summary = partial;
        let measurements = self.measurements();
        if let Some(folder) = &self.folder {
            let (environment, what) = (self.environment, failure.to_string());
            let document = Document::failed(self.kind, environment, what, self.body);
            // The failure itself is what must be told.
            if let Err(error) = document.with_measurements(measurements).write(folder) {
                say(&format!("no result was kept: {error}"));
            }
        }
        failure
    }

    /// Tells and keeps a run that went through, be it valid or not.
    fn finish(self, reasons: Vec<String>) -> Result<(), Failure> {
        let measurements = self.measurements();
        // What was measured is kept, but a broker that did not end well makes it a failed run.
        let stopped = self.target.stop();
        let summary = self.summary.iter().flat_map(Summary::lines);
        let consumed = self.body.consumed.iter().flat_map(Consumed::lines);
        for line in summary.chain(consumed) {
            say(&line);
        }
        let tables = self.body.consumed.iter().map(Consumed::table).collect();
        if let Some(folder) = &self.folder {
            let (kind, environment) = (self.kind, self.environment);
            let document = match &stopped {
                Ok(()) => Document::new(kind, environment, reasons.clone(), self.body),
                Err(failure) => {
                    let what = failure.to_string();
                    Document::failed(kind, environment, what, self.body)
                }
            };
            let document = document.with_measurements(measurements);
            document.with_tables(tables).write(folder)?;
        }
        stopped?;
        if reasons.is_empty() {
            Ok(())
        } else {
            Err(Failure::Target(format!("INVALID: {}", reasons.join("; "))))
        }
    }
}

/// `produce`.
pub(crate) async fn produce<T: Transport>(args: &ProduceArgs) -> Result<(), Failure> {
    let (workload, limit) = args.plan()?;
    let folder = args.target.output.claim()?;
    let scene = Scene::begin::<T>("produce", &args.target, &workload, folder).await?;
    let progress = Progress::begin("produce");
    let run = run::produce::<T>(scene.broker(), &workload, args.pace.warm_up, limit).await;
    drop(progress);
    conclude(scene, run)
}

/// `fetch`.
pub(crate) async fn fetch<T: Transport>(args: &FetchArgs) -> Result<(), Failure> {
    let workload = args.workload()?;
    workload.check()?;
    let folder = args.target.output.claim()?;
    let scene = Scene::begin::<T>("fetch", &args.target, &workload, folder).await?;
    let progress = Progress::begin("fetch");
    let run = run::fetch::<T>(scene.broker(), &workload, args.fill, args.passes).await;
    drop(progress);
    conclude(scene, run)
}

fn conclude(mut scene: Scene, run: Result<Run, Failure>) -> Result<(), Failure> {
    match run {
        Err(failure) => Err(scene.fail(failure)),
        Ok(run) => {
            scene.summary = Some(run.summary);
            scene.finish(run.reasons)
        }
    }
}

/// `run`.
pub(crate) async fn run<T: Transport>(args: &RunArgs) -> Result<(), Failure> {
    let (workload, limit, readers) = args.plan()?;
    let folder = args.load.target.output.claim()?;
    let mut scene = Scene::begin::<T>("run", &args.load.target, &workload, folder).await?;
    let Some(from) = args.catch_up else {
        let warm_up = args.load.pace.warm_up;
        let live = live::live::<T>(scene.broker(), &workload, readers, warm_up, limit).await;
        return match live {
            Err(failure) => Err(scene.fail(failure)),
            Ok((run, consumed)) => {
                scene.summary = Some(run.summary);
                scene.body.consumed = Some(consumed);
                scene.finish(run.reasons)
            }
        };
    };
    let place = (scene.broker(), scene.target.directory());
    let caught_up = live::catch_up::<T>(place, &workload, readers, from, args.fill).await;
    match caught_up {
        Err(failure) => Err(scene.fail(failure)),
        Ok(caught_up) => {
            say(&format!(
                "caught up    {} records of the log, read by each group and compared",
                caught_up.verified_records
            ));
            if let Some(broker) = caught_up.resources.broker {
                let gigabytes = caught_up.consumed.batch_bytes as f64 / 1e9;
                say(&format!(
                    "broker       {:.3} s CPU/GB",
                    broker.cpu_s() / gigabytes.max(f64::MIN_POSITIVE)
                ));
            }
            scene.body.consumed = Some(caught_up.consumed);
            scene.body.resources = Some(caught_up.resources);
            scene.finish(caught_up.reasons)
        }
    }
}
