//! What a request costs the broker with few and with many connections and partitions.

use rustix::process::Signal;

use super::Rows;
use super::node::Node;
use crate::cli::LimitsArgs;
use crate::failure::Failure;
use crate::transport::Transport;
use crate::workload::Workload;

const FEW: usize = 16;
/// The project's mark: many to few.
const RATIO: f64 = 1.25;

/// One repetition.
pub(super) async fn at_scale<T: Transport>(
    args: &LimitsArgs,
    rows: &mut Rows,
) -> Result<(), Failure> {
    if args.connections < 2 {
        let what = "limits of requests needs --connections of at least 2";
        return Err(Failure::Usage(what.to_owned()));
    }
    // A connection keeps to one partition, and both take a file handle of the broker.
    let (many, half) = (args.connections, args.connections / 2);
    let few = cpu_us::<T>(args, (FEW, FEW), rows).await?;
    let connections = cpu_us::<T>(args, (many, FEW), rows).await?;
    let one_each = cpu_us::<T>(args, (half, half), rows).await?;
    let together = cpu_us::<T>(args, (half, FEW), rows).await?;
    let name = format!("CPU per request, {many} connections / {FEW}");
    rows.add(&name, "", Some(RATIO), connections / few);
    let name = format!("CPU per request, {half} connections: {half} partitions / {FEW}");
    rows.add(&name, "", Some(RATIO), one_each / together);
    Ok(())
}

async fn cpu_us<T: Transport>(
    args: &LimitsArgs,
    (connections, partitions): (usize, usize),
    rows: &mut Rows,
) -> Result<f64, Failure> {
    let spawn = &args.spawn_args;
    let mut node = Node::new(spawn, &["--durability", "page-cache"])?;
    node.start(spawn).await?;
    let workload = Workload {
        partitions,
        connections,
        record_bytes: 100,
        seed: args.seed,
        ..Workload::default()
    };
    let of = format!("{connections} connections, {partitions} partitions");
    let of_load = (&workload, args.duration / 2);
    let summary = node.load::<T>(args, of_load, &of, rows).await?;
    let none = || Failure::Target("the broker's CPU time is not known".to_owned());
    let cpu_us = summary.broker_cpu_us_per_request.ok_or_else(none)?;
    rows.add(&format!("{of}: CPU per request"), "us", None, cpu_us);
    node.end(Signal::KILL)?;
    Ok(cpu_us)
}
