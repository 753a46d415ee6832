//! Every sample of every shard once, shards side by side, results in the order of the shards.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crossbeam_channel::bounded;

use crate::error::Error;
use crate::shards::{RawSample, ShardSamples};
use crate::skips::Skip;

/// Members that tools look at.
pub(super) const TOOL_MEMBERS: [&str; 9] = ["jpg", "jpeg", "png", "webp", "txt", "json", "cls", "seg.png", "inst.png"];

/// Calls `visit` for every sample and every fault of a shard, several shards at a time, and then
/// `finished` with what `visit` gathered of a shard, in the order of `shards`. `read` is told how many
/// bytes of samples have been read, again and again.
///
/// # Errors
///
/// A shard that cannot be opened.
pub(super) fn scan<T: Default + Send>(
    shards: &[PathBuf],
    threads: usize,
    visit: impl Fn(&mut T, Result<RawSample, Skip>) + Sync,
    read: &(dyn Fn(u64) + Sync),
    mut finished: impl FnMut(T),
) -> Result<(), Error> {
    let next = AtomicUsize::new(0);
    let scan_shard = |index: usize| -> Result<T, Error> {
        let mut gathered = T::default();
        for sample in ShardSamples::open(&shards[index])?.keeping(&TOOL_MEMBERS) {
            let bytes = sample.as_ref().map_or(0, RawSample::bytes);
            visit(&mut gathered, sample);
            read(bytes);
        }
        Ok(gathered)
    };
    thread::scope(|scope| {
        // The receiver lives in here: on an error it goes, sending fails, and the threads end.
        let (sender, results) = bounded(1);
        for _ in 0..threads.clamp(1, shards.len().max(1)) {
            let (sender, next, scan_shard) = (sender.clone(), &next, &scan_shard);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= shards.len() || sender.send((index, scan_shard(index))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let (mut waiting, mut due) = (BTreeMap::new(), 0);
        for (index, result) in results {
            waiting.insert(index, result?);
            while let Some(gathered) = waiting.remove(&due) {
                due += 1;
                finished(gathered);
            }
        }
        Ok(())
    })
}
