//! Rates: a grid of them (`sweep`), and the search for the highest within an objective (`max`).
//!
//! Every point is a run of its own on a fresh topic of one broker, verified like any other. A point whose
//! generator was late says nothing about the broker: it is repeated, and if it stays so the search ends
//! there and is no result. The objective also wants the rate itself: a backlog that grows is no pass.

use serde::Serialize;

use crate::begin;
use crate::cli::{MaxArgs, RatedArgs, SweepArgs};
use crate::client::Client;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::folder::Folder;
use crate::phase::Limit;
use crate::progress::Progress;
use crate::report::{Document, Measurement, Summary, fields, say};
use crate::run::{self, Broker};
use crate::schedule::{Arrival, Pace};
use crate::table;
use crate::target::Target;
use crate::transport::Transport;
use crate::workload::Workload;

/// A point below this share of its rate did not keep it.
const KEPT_SHARE: f64 = 0.99;
/// How often a point is repeated whose generator was late.
const ATTEMPTS: usize = 3;
/// A point lasts so many times the objective's time at least.
const LENGTH_LEAST: f64 = 10.0;
/// Rates beyond are nobody's.
const RATE_MAX: f64 = 1e8;

/// A percentile that must stay below a time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Objective {
    /// 0 to 1.
    pub(crate) quantile: f64,
    /// Microseconds.
    pub(crate) below_us: f64,
}

/// One rate.
#[derive(Debug, Clone, Serialize)]
struct Point {
    /// Requests a second.
    rate: f64,
    /// What the search asked it for.
    role: &'static str,
    /// Of the objective; none in a sweep.
    within: Option<bool>,
    /// Why it says nothing, if it does not.
    reasons: Vec<String>,
    #[serde(skip)]
    summary: Summary,
}

#[derive(Debug, Serialize)]
struct Body {
    io: &'static str,
    target: String,
    workload: Workload,
    objective: Option<Objective>,
    /// Requests a second that kept the objective, and every confirmation did.
    highest_rate: Option<f64>,
    points: Vec<Point>,
}

/// A broker and the points so far.
struct Scene<'a> {
    args: &'a RatedArgs,
    target: Target,
    environment: Environment,
    folder: Option<Folder>,
    body: Body,
}

impl<'a> Scene<'a> {
    async fn new<T: Transport>(
        args: &'a RatedArgs,
        objective: Option<Objective>,
    ) -> Result<Self, Failure> {
        let workload = args.workload(1.0)?;
        workload.check()?;
        let folder = args.target.output.claim()?;
        let (target, environment) = begin(&args.target).await?;
        Ok(Self {
            args,
            body: Body {
                io: T::NAME,
                target: target.command.clone(),
                workload,
                objective,
                highest_rate: None,
                points: Vec::new(),
            },
            target,
            environment,
            folder,
        })
    }

    /// Runs one rate, again if the generator was late.
    async fn point<T: Transport>(
        &mut self,
        rate: f64,
        role: &'static str,
    ) -> Result<Point, Failure> {
        let mut attempts = 1;
        loop {
            let point = self.attempt::<T>(rate, role).await?;
            say(&point.line());
            self.body.points.push(point.clone());
            if point.reasons.is_empty() || attempts == ATTEMPTS {
                return Ok(point);
            }
            attempts += 1;
        }
    }

    /// A point that failed in the middle is kept, and marked as such.
    fn keep_partial(&mut self, rate: f64, role: &'static str, failure: Failure) -> Failure {
        let (failure, partial) = failure.into_parts();
        if let Some(summary) = partial {
            let point = Point {
                rate,
                role,
                within: None,
                reasons: vec![format!("PARTIAL: {failure}")],
                summary,
            };
            say(&format!(
                "PARTIAL, before the run failed:\n{}",
                point.line()
            ));
            self.body.points.push(point);
        }
        failure
    }

    fn limit(&self, rate: f64) -> Result<Limit, Failure> {
        Ok(self.args.pace.limit(&self.args.workload(rate)?))
    }

    async fn attempt<T: Transport>(
        &mut self,
        rate: f64,
        role: &'static str,
    ) -> Result<Point, Failure> {
        let mut workload = self.args.workload(rate)?;
        let (process, number) = (std::process::id(), self.body.points.len());
        workload.topic = format!("{}-{process}-{number}", workload.topic);
        let broker = Broker {
            address: self.target.address,
            pid: self.target.pid,
        };
        let limit = self.args.pace.limit(&workload);
        let mut client = Client::connect::<T>(broker.address).await?;
        let topic = &workload.topic;
        // It is deleted below: nobody else's may be.
        if !client.create_topic(topic, workload.partitions).await? {
            let what = format!("the topic {topic} is there already: take another --topic");
            return Err(Failure::Usage(what));
        }
        let progress = Progress::begin("point");
        let run = run::produce::<T>(broker, &workload, self.args.pace.warm_up, limit).await;
        drop(progress);
        let run = run.map_err(|failure| self.keep_partial(rate, role, failure))?;
        // Its log is not needed any more; a long search would fill the disk.
        client.delete_topic(topic).await?;
        let objective = self.body.objective;
        Ok(Point {
            rate,
            role,
            within: objective.map(|objective| objective.is_met(rate, &run.summary, &workload)),
            reasons: run.reasons,
            summary: run.summary,
        })
    }

    fn finish(
        self,
        kind: &'static str,
        result: Result<Vec<String>, Failure>,
    ) -> Result<(), Failure> {
        let (measurements, curve) = (self.measurements(), self.curve());
        let with = |document: Document| {
            let document = document.with_measurements(measurements);
            document.with_sweeps(vec![curve])
        };
        let reasons = match result {
            Ok(reasons) => reasons,
            Err(failure) => {
                say(&self.target.log_tail());
                let (failure, _) = failure.into_parts();
                if let Some(folder) = &self.folder {
                    let (environment, what) = (self.environment, failure.to_string());
                    with(Document::failed(kind, environment, what, self.body)).write(folder)?;
                }
                return Err(failure);
            }
        };
        self.target.stop()?;
        if let Some(folder) = &self.folder {
            let document = Document::new(kind, self.environment, reasons.clone(), self.body);
            with(document).write(folder)?;
        }
        if reasons.is_empty() {
            return Ok(());
        }
        Err(Failure::Target(format!("INVALID: {}", reasons.join("; "))))
    }

    fn measurements(&self) -> Vec<Measurement> {
        let of = |point: &Point| {
            let mut workload = self.body.workload.clone();
            workload.pace = self.args.pace.at(point.rate);
            // What a late generator measured is not added to what a punctual one did.
            let late = if point.reasons.is_empty() {
                ""
            } else {
                ", invalid"
            };
            let label = format!("{} {:.0} requests/s{late}", point.role, point.rate);
            let target = &self.body.target;
            Measurement::new(
                label.trim(),
                target,
                fields(&workload),
                point.summary.clone(),
            )
            .in_group(&format!("{:.0} requests/s{late}", point.rate))
        };
        self.body.points.iter().map(of).collect()
    }

    fn curve(&self) -> table::Sweep {
        let line = self.args.target.name();
        let point =
            |point: &Point| table::Point::of(&line, point.rate, &point.summary, &point.reasons);
        table::Sweep {
            title: "Rate and latency".to_owned(),
            variable: "requests/s asked for".to_owned(),
            points: self.body.points.iter().map(point).collect(),
            objective: self.body.objective.map(|objective| table::Objective {
                percentile: format!("p{}", objective.quantile * 100.0),
                limit_us: objective.below_us,
            }),
        }
    }
}

impl Objective {
    /// Why a point at `rate` would tell nothing: a backlog cannot be seen in so short a time.
    fn too_short(&self, rate: f64, limit: Limit) -> Option<String> {
        let by_time = limit.duration.map(|duration| duration.as_secs_f64());
        let by_count = limit.requests.map(|requests| requests as f64 / rate);
        let length_s = by_time.into_iter().chain(by_count).reduce(f64::min)?;
        let least_s = LENGTH_LEAST * self.below_us / 1e6;
        (length_s < least_s).then(|| {
            format!(
                "a point at {rate:.0} requests/s lasts {length_s:.6} s, and less than {LENGTH_LEAST} times the \
                 objective's time ({least_s:.6} s) says nothing: take more --duration or --messages"
            )
        })
    }

    fn is_met(&self, rate: f64, summary: &Summary, workload: &Workload) -> bool {
        let requests = summary.requests as f64;
        // So far can the sum of that many independent gaps be off.
        let spread = match workload.pace {
            Pace::Open {
                arrival: Arrival::Poisson,
                ..
            } => 3.0 * requests.sqrt(),
            Pace::Open { .. } | Pace::Closed => 0.0,
        };
        let schedule_s = (requests + spread) / rate;
        let kept = summary.elapsed_s <= schedule_s / KEPT_SHARE;
        // The last answers come after the last send; a short run must not fail for that.
        let few = summary.requests < 1000 * workload.connections as u64;
        let kept = kept || (few && summary.elapsed_s <= schedule_s + self.below_us / 1e6);
        let measured = summary.latency.at_us(self.quantile);
        kept && measured.is_some_and(|measured| measured <= self.below_us)
    }
}

impl Point {
    /// Whether it kept the objective; an error if it tells nothing after the last attempt.
    fn passed(&self) -> Result<bool, String> {
        if self.reasons.is_empty() {
            return Ok(self.within == Some(true));
        }
        Err(format!(
            "at {:.0} requests/s, {ATTEMPTS} times: {}",
            self.rate,
            self.reasons.join(", ")
        ))
    }

    fn line(&self) -> String {
        let verdict = match (&self.reasons[..], self.within) {
            ([_, ..], _) => "INVALID",
            (_, Some(true)) => "within",
            (_, Some(false)) => "beyond",
            (_, None) => "",
        };
        let latency = &self.summary.latency;
        let times = if latency.count == 0 {
            "no latency (acks=0)".to_owned()
        } else {
            format!(
                "p50 {:>7.0} us  p99 {:>8.0} us  p99.9 {:>8.0} us",
                latency.p50_us, latency.p99_us, latency.p99_9_us
            )
        };
        format!(
            "{:>9.0} requests/s  {:>9.0} done/s  {:>7.1} MB/s  {times}  {verdict:<7} {}",
            self.rate,
            self.summary.requests as f64 / self.summary.elapsed_s,
            self.summary.megabytes_per_s,
            self.role
        )
    }
}

/// `sweep`.
pub(crate) async fn sweep<T: Transport>(args: &SweepArgs) -> Result<(), Failure> {
    let mut scene = Scene::new::<T>(&args.rated, None).await?;
    let result = sweep_all::<T>(&mut scene, &args.rate.0).await;
    scene.finish("sweep", result)
}

async fn sweep_all<T: Transport>(
    scene: &mut Scene<'_>,
    rates: &[f64],
) -> Result<Vec<String>, Failure> {
    let mut reasons = Vec::new();
    for rate in rates {
        let point = scene.point::<T>(*rate, "").await?;
        let of = |reason: &String| format!("{rate} requests/s: {reason}");
        reasons.extend(point.reasons.iter().map(of));
    }
    Ok(reasons)
}

/// `max`.
pub(crate) async fn max<T: Transport>(args: &MaxArgs) -> Result<(), Failure> {
    if args.rated.workload(1.0)?.acks == 0 {
        let what = "max needs answers to time: no --acks 0";
        return Err(Failure::Usage(what.to_owned()));
    }
    let mut scene = Scene::new::<T>(&args.rated, Some(args.slo)).await?;
    let result = search::<T>(&mut scene, args).await;
    scene.finish("max", result)
}

/// Doubles until the objective is missed, halves the gap until it is small, then confirms.
async fn search<T: Transport>(
    scene: &mut Scene<'_>,
    args: &MaxArgs,
) -> Result<Vec<String>, Failure> {
    let mut search = Search::new(args.from, args.precision);
    while let Some(rate) = search.next() {
        let known = format!(
            "the broker kept the objective at {:.0} requests/s, and what it could do beyond is not known",
            search.good
        );
        if let Some(reason) = args.slo.too_short(rate, scene.limit(rate)?) {
            return Ok(vec![format!("{reason}; {known}")]);
        }
        let point = scene.point::<T>(rate, "search").await?;
        match point.passed() {
            Ok(passed) => search.tell(rate, passed),
            Err(why) => return Ok(vec![format!("{why}; {known}")]),
        }
    }
    // A rate that was found once was perhaps lucky.
    while search.good > 0.0 {
        let mut confirmed = true;
        for _ in 0..args.confirmations {
            let point = scene.point::<T>(search.good, "confirm").await?;
            confirmed = match point.passed() {
                Ok(passed) => passed,
                Err(why) => {
                    let what = "that was to confirm it: the highest rate is not known";
                    return Ok(vec![format!("{why}; {what}")]);
                }
            };
            if !confirmed {
                break;
            }
        }
        if confirmed {
            scene.body.highest_rate = Some(search.good);
            say(&format!(
                "highest rate {:.0} requests/s: within the objective {} times more",
                search.good, args.confirmations
            ));
            return Ok(Vec::new());
        }
        search.step_down();
    }
    Ok(vec![format!(
        "no rate down to {:.0} requests/s keeps the objective (--from)",
        args.from / Search::DEPTH
    )])
}

/// The search by itself: which rate is next, and what is known.
#[derive(Debug)]
struct Search {
    from: f64,
    precision: f64,
    /// The highest that passed, 0 for none.
    good: f64,
    /// The lowest that did not.
    bad: Option<f64>,
}

impl Search {
    /// It looks below the first rate down to this part of it.
    const DEPTH: f64 = 64.0;

    fn new(from: f64, precision: f64) -> Self {
        Self {
            from,
            precision,
            good: 0.0,
            bad: None,
        }
    }

    fn next(&self) -> Option<f64> {
        let rate = match (self.good, self.bad) {
            (0.0, None) => self.from,
            (0.0, Some(bad)) => bad / 2.0,
            (good, None) => good * 2.0,
            (good, Some(bad)) if bad / good > 1.0 + self.precision => (good * bad).sqrt(),
            _ => return None,
        };
        let rate = rate.round();
        let known = rate == self.good || Some(rate) == self.bad;
        let in_reach = rate >= (self.from / Self::DEPTH).max(1.0) && rate <= RATE_MAX;
        (in_reach && !known).then_some(rate)
    }

    fn tell(&mut self, rate: f64, passed: bool) {
        if passed {
            self.good = self.good.max(rate);
        } else {
            self.bad = Some(self.bad.map_or(rate, |bad| bad.min(rate)));
        }
    }

    /// The best was not confirmed.
    fn step_down(&mut self) {
        let lower = (self.good * (1.0 - self.precision)).round();
        let in_reach = lower >= (self.from / Self::DEPTH).max(1.0) && lower < self.good;
        self.good = if in_reach { lower } else { 0.0 };
    }
}

/// `p99<5ms`, `p99.9<800us`.
pub(crate) fn objective(text: &str) -> Result<Objective, String> {
    let form = || "an objective is a percentile below a time: p99<5ms, p99.9<800us".to_owned();
    let (percentile, time) = text.split_once('<').ok_or_else(form)?;
    let percentile = percentile.trim().strip_prefix('p').ok_or_else(form)?;
    let percentile: f64 = percentile.parse().map_err(|_| form())?;
    if !(1.0..=100.0).contains(&percentile) {
        return Err("a percentile is between 1 and 100".to_owned());
    }
    let time = time.trim_start_matches('=').trim();
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    let in_us = |(unit, factor): (&str, f64)| {
        let number: f64 = time.strip_suffix(unit)?.trim().parse().ok()?;
        (number > 0.0).then_some(number * factor)
    };
    Ok(Objective {
        // Six digits: 99.9 / 100 is not 0.999.
        quantile: (percentile * 1e4).round() / 1e6,
        below_us: units.into_iter().find_map(in_us).ok_or_else(form)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_objective_is_read() {
        let read = |text| objective(text).map(|it| (it.quantile, it.below_us));
        assert_eq!(read("p99<5ms"), Ok((0.99, 5000.0)));
        assert_eq!(read("p99.9 < 800us"), Ok((0.999, 800.0)));
        assert_eq!(read("p50<=1s"), Ok((0.5, 1e6)));
        for wrong in [
            "p99", "99<5ms", "p99<5", "p0<1ms", "p101<1ms", "p99<0ms", "",
        ] {
            assert!(objective(wrong).is_err(), "{wrong}");
        }
    }

    /// What the search finds if rates up to `limit` pass, and after how many points.
    fn found(from: f64, limit: f64) -> (f64, usize) {
        let mut search = Search::new(from, 0.05);
        let mut points = 0;
        while let Some(rate) = search.next() {
            points += 1;
            assert!(points < 50, "no end: {search:?}");
            search.tell(rate, rate <= limit);
        }
        (search.good, points)
    }

    #[test]
    fn the_search_ends_within_its_precision_of_the_limit() {
        for limit in [1000.0, 1001.0, 3333.0, 77_777.0, 250_000.0] {
            let (rate, points) = found(1000.0, limit);
            assert!(rate <= limit && rate * 1.06 > limit, "{rate} of {limit}");
            assert!(points < 16, "{points} points for {limit}");
        }
        assert!((found(1000.0, 100.0).0 - 100.0).abs() < 6.0);
        assert_eq!(found(1000.0, 3.0).0, 0.0);
    }

    #[test]
    fn what_is_not_confirmed_steps_down_and_ends() {
        let mut search = Search::new(64.0, 0.5);
        search.good = 64.0;
        let mut rates = Vec::new();
        while search.good > 0.0 {
            rates.push(search.good);
            search.step_down();
        }
        assert_eq!(rates[..3], [64.0, 32.0, 16.0]);
        assert!(rates.len() < 10);
    }

    fn summary(requests: u64, elapsed_s: f64) -> Summary {
        let mut latency = crate::phase::histogram();
        latency.record_n(100_000, requests).unwrap();
        let second = std::time::Duration::from_secs(1);
        let counted = crate::phase::Counted {
            requests,
            elapsed: std::time::Duration::from_secs_f64(elapsed_s),
            service: latency.clone(),
            lag: latency.clone(),
            latency,
            began_unix_s: 0.0,
            intervals: (second, Vec::new()),
        };
        let resources = crate::resources::Resources::unmeasured();
        Summary::new(&counted, (requests, requests), true, resources)
    }

    #[test]
    fn a_point_of_a_late_generator_is_neither_kept_nor_missed() {
        let point = |reasons: &[&str], within| Point {
            rate: 500.0,
            role: "confirm",
            within: Some(within),
            reasons: reasons.iter().map(|&reason| reason.to_owned()).collect(),
            summary: summary(100, 0.2),
        };
        assert_eq!(point(&[], true).passed(), Ok(true));
        assert_eq!(point(&[], false).passed(), Ok(false));
        for within in [true, false] {
            let why = point(&["generator lagged 9 ms"], within).passed();
            let why = why.unwrap_err();
            assert!(
                why.contains("at 500 requests/s") && why.contains("lagged"),
                "{why}"
            );
        }
    }

    /// `requests` of one connection at 1000 a second, each answered in 100 us, in `elapsed_s`.
    fn is_met(requests: u64, elapsed_s: f64) -> bool {
        let summary = summary(requests, elapsed_s);
        let workload = Workload {
            pace: Pace::Open {
                rate: 1000.0,
                arrival: Arrival::Fixed,
            },
            ..Workload::default()
        };
        let within_5_ms = Objective {
            quantile: 0.99,
            below_us: 5000.0,
        };
        within_5_ms.is_met(1000.0, &summary, &workload)
    }

    #[test]
    fn a_rate_that_was_not_reached_is_beyond_however_few_requests_there_were() {
        assert!(is_met(200, 0.2) && is_met(200, 0.204));
        assert!(!is_met(200, 0.21) && !is_met(200, 2.0));
        assert!(is_met(2000, 2.01) && !is_met(2000, 2.1));
    }

    #[test]
    fn a_point_that_is_short_beside_its_objective_is_refused() {
        let below_1_s = Objective {
            quantile: 0.99,
            below_us: 1e6,
        };
        let limit = |seconds, requests| Limit {
            duration: Some(std::time::Duration::from_secs(seconds)),
            requests,
        };
        let too_short = |limit| below_1_s.too_short(1000.0, limit).is_some();
        assert!(too_short(limit(9, None)) && !too_short(limit(10, None)));
        assert!(too_short(limit(60, Some(9_000))) && !too_short(limit(60, Some(10_000))));
    }
}
