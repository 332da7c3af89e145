//! What a load cost on both sides, as a table: per byte, per record, per request.

use super::sections::{grid, mebibytes};
use crate::report::Summary;
use crate::resources::{Count, Usage};
use crate::table::digits;

/// Broker and generator side by side; what is not known says why.
pub(super) fn table(summary: &Summary) -> String {
    let rows = [
        times(summary),
        calls(summary),
        bytes(summary),
        surroundings(summary),
    ];
    let columns = ["", "broker", "generator"];
    // Sentences stand in it: they may wrap.
    grid(&columns, &rows.concat()).replacen("scroll card", "scroll card costs", 1)
}

fn per(value: f64, unit: f64) -> String {
    if unit > 0.0 {
        digits(value / unit)
    } else {
        "-".to_owned()
    }
}

fn both(summary: &Summary, name: &str, of: impl Fn(&Usage) -> String) -> Vec<String> {
    let broker = summary.resources.broker.as_ref();
    vec![
        name.to_owned(),
        broker.map_or("unknown (--pid)".to_owned(), &of),
        of(&summary.resources.generator),
    ]
}

fn times(summary: &Summary) -> Vec<Vec<String>> {
    let (records, requests) = (summary.records as f64, summary.requests as f64);
    let gigabytes = summary.batch_bytes as f64 / 1e9;
    vec![
        both(summary, "CPU time, user + system, s", |of| {
            format!("{:.2} + {:.2}", of.cpu_user_s, of.cpu_system_s)
        }),
        both(summary, "CPU s per GB of batches", |of| {
            per(of.cpu_s(), gigabytes)
        }),
        both(summary, "CPU s per million records", |of| {
            per(of.cpu_s() * 1e6, records)
        }),
        both(summary, "CPU s per million requests", |of| {
            per(of.cpu_s() * 1e6, requests)
        }),
        both(summary, "context switches per request", |of| {
            per(of.context_switches as f64, requests)
        }),
    ]
}

fn calls(summary: &Summary) -> Vec<Vec<String>> {
    let resources = &summary.resources;
    let counted = |count: &Count| match count {
        Count::Counted { count, source } => {
            let records = summary.records as f64;
            format!("{} ({source})", per(*count as f64, records))
        }
        Count::Unavailable(reason) => format!("unavailable: {reason}"),
    };
    vec![
        vec![
            "ring entries per record".to_owned(),
            counted(&resources.broker_ring_entries),
            counted(&resources.generator_ring_entries),
        ],
        vec![
            "system calls per record".to_owned(),
            counted(&resources.broker_system_calls),
            "not counted".to_owned(),
        ],
    ]
}

fn bytes(summary: &Summary) -> Vec<Vec<String>> {
    let device = match (
        &summary.resources.device,
        summary.device_write_amplification,
    ) {
        (Some(device), Some(amplification)) => {
            let flushes = device.flushes.map(|flushes| digits(flushes as f64));
            format!(
                "{} ({}: {} MB, {} flushes, by everybody)",
                digits(amplification),
                device.name,
                digits(device.write_bytes as f64 / 1e6),
                flushes.unwrap_or("unknown".to_owned())
            )
        }
        _ => "unknown".to_owned(),
    };
    vec![
        both(summary, "memory at the end / highest", |of| {
            let (end, highest) = (
                mebibytes(of.resident_bytes),
                mebibytes(of.resident_bytes_max),
            );
            format!("{end} / {highest}")
        }),
        both(summary, "threads", |of| of.threads.to_string()),
        both(
            summary,
            "bytes to the block layer per byte of batches",
            |of| per(of.write_bytes as f64, summary.batch_bytes as f64),
        ),
        vec![
            "bytes on the device per byte of batches".to_owned(),
            device,
            "-".to_owned(),
        ],
    ]
}

fn surroundings(summary: &Summary) -> Vec<Vec<String>> {
    let machine = &summary.resources.machine;
    let verified = summary
        .verified_records
        .map(|records| digits(records as f64));
    vec![
        vec![
            "CPU time of others / stolen, s".to_owned(),
            format!("{:.2} / {:.2}", machine.foreign_cpu_s, machine.steal_s),
            format!("of {:.2} s on {} CPUs", machine.elapsed_s, machine.cpus),
        ],
        vec![
            "records read back and compared".to_owned(),
            verified.unwrap_or("none".to_owned()),
            "-".to_owned(),
        ],
    ]
}
