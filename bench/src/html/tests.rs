//! The page's structure: it is closed, loads nothing, and holds what was measured. What it looks like, a
//! person judges.

use super::*;
use crate::environment::Environment;
use crate::phase::{Counted, histogram};
use crate::report::{Effect, Summary};
use crate::resources::{Breakdown, Resources, StageTimes};
use crate::series::{Recorder, Sample};
use crate::table::{Objective, Point, Sweep, Table};
use std::time::{Duration, Instant};

/// A phase of `seconds` with a thousand answers each, as if it had been measured.
fn counted(seconds: u64) -> Counted {
    let begin = Instant::now();
    let mut recorder = Recorder::new(begin);
    let mut latency = histogram();
    for number in 0..seconds * 1000 {
        let ns = 50_000 + number % 997 * 1000;
        latency.record(ns).unwrap();
        recorder.answered(begin + Duration::from_millis(number), Some(ns));
    }
    Counted {
        requests: seconds * 1000,
        elapsed: Duration::from_secs(seconds),
        service: latency.clone(),
        lag: latency.clone(),
        latency,
        began_unix_s: 1.8e9,
        intervals: recorder.finish(),
    }
}

fn resources(seconds: u64) -> Resources {
    let mut resources = Resources::unmeasured();
    resources.machine.cpus = 2;
    resources.machine.elapsed_s = seconds as f64;
    let sample = |second| Sample {
        at_s: f64::from(second),
        broker_cpus: Some(0.5),
        generator_cpus: 0.9,
        foreign_cpus: 0.1,
        steal_cpus: 0.0,
        broker_resident_bytes: Some(1 << 24),
        device_write_megabytes_per_s: Some(12.5),
    };
    resources.samples = (1..=seconds as u32).map(sample).collect();
    resources
}

fn summary(open_loop: bool) -> Summary {
    let summary = Summary::new(&counted(5), (5000, 900_000), open_loop, resources(5));
    summary.with_warm_up(&counted(2))
}

fn document(name: &str, labels: &[&str]) -> Document {
    let environment = Environment::capture(std::path::Path::new("/tmp"));
    let measurement =
        |label: &&str| Measurement::new(label, "ringlog", serde_json::Map::new(), summary(true));
    let mut document = Document::new("produce", environment, Vec::new(), ());
    document.name = name.to_owned();
    document.with_measurements(labels.iter().map(measurement).collect())
}

/// The drawings of a page; each must be closed, with every attribute quoted and every entity known.
fn drawings(page: &str) -> Vec<&str> {
    let found = page
        .split("<svg")
        .skip(1)
        .filter_map(|rest| rest.split("</svg>").next());
    let found: Vec<_> = found.collect();
    for drawing in &found {
        let mut open = Vec::new();
        for tag in drawing.split('<').skip(1) {
            let (tag, text) = tag.split_once('>').expect("a tag ends");
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            assert!(!text.contains('>'), "{text}");
            let name = tag
                .trim_start_matches('/')
                .split([' ', '/'])
                .next()
                .unwrap();
            match (tag.starts_with('/'), tag.ends_with('/')) {
                (true, _) => assert_eq!(open.pop(), Some(name), "{tag}"),
                (false, false) => open.push(name),
                (false, true) => {}
            }
        }
        assert!(open.is_empty(), "{open:?} left open");
        for bad in ["NaN", "inf", "&nbsp;"] {
            assert!(!drawing.contains(bad), "{bad} in {drawing}");
        }
    }
    found
}

#[test]
fn a_page_of_one_result_has_all_its_charts_and_loads_nothing() {
    let page = page(&[document("one", &["produce"])]);
    assert_eq!(drawings(&page).len(), 4, "percentiles, load, heat map, CPU");
    for title in [
        "Latency by percentile",
        "Where every latency lies",
        "warm-up",
        "What it cost",
    ] {
        assert!(page.contains(title), "no {title}");
    }
    for loaded in ["src=", "http://", "https://", "@import", "url("] {
        let own = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!own.contains(loaded), "{loaded}");
    }
}

#[test]
fn where_the_time_went_is_a_bar_of_all_its_stages_and_a_table() {
    let times = |stage: &str, mean_us: f64, slowest_us| StageTimes {
        stage: stage.to_owned(),
        mean_us,
        p50_us: mean_us,
        p99_us: 2.0 * mean_us,
        slowest_us,
    };
    let mut document = document("one", &["produce"]);
    let resources = &mut document.measurements[0].summary.resources;
    resources.broker_stages = vec![Breakdown {
        request: "Produce".to_owned(),
        samples: 7,
        stages: vec![
            times("append", 30.0, Some(40.0)),
            times("journal", 90.0, Some(4960.0)),
        ],
        whole: times("whole", 120.0, Some(5000.0)),
    }];
    let page = page(std::slice::from_ref(&document));
    let drawings = drawings(&page);
    assert_eq!(drawings.len(), 5, "one more than without");
    // A quarter, and three, of a bar.
    for width in ["width=\"114.5\"", "width=\"343.5\""] {
        assert!(drawings[4].contains(width), "no {width} in {}", drawings[4]);
    }
    for cell in ["75.0 %", "Produce, 7 sampled", "5\u{a0}ms"] {
        assert!(page.contains(cell), "no {cell}");
    }
    let lines = document.measurements[0].summary.lines();
    assert!(
        lines
            .iter()
            .any(|line| line.contains("7 requests were sampled"))
    );
}

#[test]
fn the_result_is_in_the_page_and_its_histograms_can_be_read_from_it() {
    let before = document("</script><b>", &["produce"]);
    let page = page(std::slice::from_ref(&before));
    assert!(
        !page.contains("</script><b>"),
        "the name of a result ends no element"
    );
    let (_, rest) = page.split_once("id=\"result-0\">").unwrap();
    let (json, _) = rest.split_once("</script>").unwrap();
    let after: Document = serde_json::from_str(json).unwrap();
    assert_eq!(after.name, before.name);
    let read = |document: &Document| {
        document.measurements[0]
            .summary
            .latency
            .histogram()
            .unwrap()
    };
    assert_eq!(read(&after), read(&before));
    assert_eq!(read(&after).len(), 5000);
}

#[test]
fn several_results_stand_side_by_side_with_what_their_environments_differ_in() {
    let mut other = document("two", &["a", "b"]);
    let text = serde_json::to_string(&other.environment).unwrap();
    let text = text.replacen("\"release\":\"Linux", "\"release\":\"Linus", 1);
    other.environment = Some(serde_json::from_str(&text).unwrap());
    let page = page(&[document("one", &["produce"]), other]);
    drawings(&page);
    for told in ["two: a", "two: b", "differs in", "kernel.release", "Linus"] {
        assert!(page.contains(told), "no {told}");
    }
}

#[test]
fn sweeps_effects_and_tables_are_drawn_whatever_their_numbers_are() {
    let point =
        |value: f64, reasons: &[String]| Point::of("ringlog", value, &summary(true), reasons);
    let late = ["late".to_owned()];
    let sweep = Sweep {
        title: "Rate against latency".to_owned(),
        variable: "requests/s".to_owned(),
        points: vec![point(1e3, &[]), point(1e5, &late)],
        objective: Some(Objective {
            percentile: "p99".to_owned(),
            limit_us: 5000.0,
        }),
    };
    let effect = |ratio: f64, low: f64, high: f64| Effect {
        measure: "CPU".to_owned(),
        decides: true,
        less_is_better: true,
        ratio,
        low,
        high,
        detectable_share: 0.03,
        margin_share: 0.02,
        verdict: "slower".to_owned(),
    };
    let empty = Table {
        title: "Nothing".to_owned(),
        columns: vec!["a".to_owned()],
        ..Table::default()
    };
    let effects = vec![
        effect(1.1, 1.05, 1.2),
        effect(1e6, 1e-9, f64::INFINITY),
        effect(1.0, 1.0, 1.0),
    ];
    let document = document("x", &[])
        .with_sweeps(vec![sweep, Sweep::default()])
        .with_effects(effects)
        .with_tables(vec![empty]);
    let page = page(&[document]);
    assert_eq!(drawings(&page).len(), 2);
    assert!(page.contains("dot hollow"), "a late point is hollow");
}

#[test]
fn a_result_that_failed_before_its_first_answer_is_a_page_too() {
    let environment = Environment::capture(std::path::Path::new("/tmp"));
    let reason = "the broker <died>".to_owned();
    let page = page(&[Document::failed("produce", environment, reason, ())]);
    assert!(page.contains("failed") && page.contains("the broker &lt;died&gt;"));
}
