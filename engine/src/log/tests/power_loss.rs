//! What a log loses when the power fails, on the simulator.

use super::*;
use crate::io::sim::{Fault, World};

fn on<T: 'static, F: Future<Output = T> + 'static>(
    world: &World,
    test: impl FnOnce(SegmentFiles) -> F,
) -> T {
    let io = Io::simulated(world);
    let result = world.block_on(
        std::slice::from_ref(&io),
        test(SegmentFiles::new(&io, 8, 1 << 20)),
    );
    io.clear_tasks();
    result
}

/// Opens the log as after an unclean end, with no recovery point known; gives its end.
async fn open_again(files: &SegmentFiles) -> Log {
    let opening = Opening {
        clean: false,
        recovery_point: 0,
        log_start_offset: None,
        compacts_below_recovery_point: false,
        accept_loss: false,
    };
    Log::open(files, Path::new("/t-0"), small(), opening, &mut |_, _| {})
        .await
        .unwrap()
        .0
}

/// A sync fails and leaves clean pages that are not on disk; the next process on the same page cache
/// synced them in vain, acknowledged their records, and lost them with the power.
#[test]
fn what_a_failed_sync_left_is_written_again() {
    for seed in 0..50 {
        let world = World::new(seed);
        on(&world, async |files| {
            let log = Log::create(&files, Path::new("/t-0"), TOPIC_ID, small());
            let log = log.await.unwrap();
            for _ in 0..10 {
                let batches = vec![batch(&[1, 2], 700)];
                log.append(batches, 0, at(5)).await.unwrap();
            }
            files.io().sync_directory(Path::new("/t-0")).await.unwrap();
        });
        // Each sync of a segment fails once.
        for base in [0, 4, 8, 12, 16] {
            world.fail_next(Fault::SyncError, &format!("{base:020}.log"));
            on(&world, async |files| {
                let log = open_again(&files).await;
                let _ = log.flush().await;
            });
            world.kill();
        }
        on(&world, async |files| {
            let log = open_again(&files).await;
            log.rewrite_unsynced().await.unwrap();
            assert_eq!(log.flush().await.unwrap(), 20);
        });
        world.crash();
        on(&world, async move |files| {
            assert_eq!(open_again(&files).await.log_end_offset(), 20, "seed {seed}");
        });
    }
}
