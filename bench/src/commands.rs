//! The commands that load one broker once: `produce`, `fetch`, `run`. Start, load, tell, keep.

use std::path::Path;

use serde::Serialize;

use crate::begin;
use crate::cli::{FetchArgs, ProduceArgs, RunArgs};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::live::{self, Consumed};
use crate::progress::Progress;
use crate::report::{Document, Summary, say};
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
    workload: Workload,
    summary: Option<Summary>,
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
    body: RunBody,
}

impl Scene {
    fn new<T: Transport>(
        kind: &'static str,
        (target, environment): (Target, Environment),
        workload: &Workload,
    ) -> Self {
        let body = RunBody {
            io: T::NAME,
            target: target.command.clone(),
            workload: workload.clone(),
            summary: None,
            consumed: None,
            resources: None,
        };
        Self {
            kind,
            target,
            environment,
            body,
        }
    }

    fn broker(&self) -> Broker {
        Broker {
            address: self.target.address,
            pid: self.target.pid,
        }
    }

    /// A run that failed: what there is of it is kept, and marked as such.
    fn fail(mut self, failure: Failure, output: Option<&Path>) -> Failure {
        say(&self.target.log_tail());
        let (failure, partial) = failure.into_parts();
        if let Some(summary) = &partial {
            say("PARTIAL, before the run failed:");
            summary.lines().iter().for_each(|line| say(line));
        }
        self.body.summary = partial;
        if let Some(directory) = output {
            let document =
                Document::failed(self.kind, self.environment, failure.to_string(), self.body);
            // The failure itself is what must be told.
            if let Err(error) = document.write(directory) {
                say(&format!("no result was kept: {error}"));
            }
        }
        failure
    }

    /// Tells and keeps a run that went through, be it valid or not.
    fn finish(self, reasons: Vec<String>, output: Option<&Path>) -> Result<(), Failure> {
        self.target.stop()?;
        let summary = self.body.summary.iter().flat_map(Summary::lines);
        let consumed = self.body.consumed.iter().flat_map(Consumed::lines);
        for line in summary.chain(consumed) {
            say(&line);
        }
        if let Some(directory) = output {
            let document =
                Document::new(self.kind, self.environment, reasons.clone(), self.body);
            document.write(directory)?;
        }
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
    let scene = Scene::new::<T>("produce", begin(&args.target).await?, &workload);
    let progress = Progress::begin("produce");
    let run = run::produce::<T>(scene.broker(), &workload, args.pace.warm_up, limit).await;
    drop(progress);
    conclude(scene, run, args.target.output.as_deref())
}

/// `fetch`.
pub(crate) async fn fetch<T: Transport>(args: &FetchArgs) -> Result<(), Failure> {
    let workload = args.workload()?;
    workload.check()?;
    let scene = Scene::new::<T>("fetch", begin(&args.target).await?, &workload);
    let progress = Progress::begin("fetch");
    let run = run::fetch::<T>(scene.broker(), &workload, args.fill, args.passes).await;
    drop(progress);
    conclude(scene, run, args.target.output.as_deref())
}

fn conclude(
    mut scene: Scene,
    run: Result<Run, Failure>,
    output: Option<&Path>,
) -> Result<(), Failure> {
    match run {
        Err(failure) => Err(scene.fail(failure, output)),
        Ok(run) => {
            scene.body.summary = Some(run.summary);
            scene.finish(run.reasons, output)
        }
    }
}

/// `run`.
pub(crate) async fn run<T: Transport>(args: &RunArgs) -> Result<(), Failure> {
    let (workload, limit, readers) = args.plan()?;
    let output = args.load.target.output.as_deref();
    let mut scene = Scene::new::<T>("run", begin(&args.load.target).await?, &workload);
    let Some(from) = args.catch_up else {
        let warm_up = args.load.pace.warm_up;
        let live = live::live::<T>(scene.broker(), &workload, readers, warm_up, limit).await;
        return match live {
            Err(failure) => Err(scene.fail(failure, output)),
            Ok((run, consumed)) => {
                scene.body.summary = Some(run.summary);
                scene.body.consumed = Some(consumed);
                scene.finish(run.reasons, output)
            }
        };
    };
    let place = (scene.broker(), scene.target.directory());
    let caught_up = live::catch_up::<T>(place, &workload, readers, from, args.fill).await;
    match caught_up {
        Err(failure) => Err(scene.fail(failure, output)),
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
            scene.finish(caught_up.reasons, output)
        }
    }
}
