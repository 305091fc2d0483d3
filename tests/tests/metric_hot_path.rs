//! Publishing is part of every wake-up of a shard: it must not allocate.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use penstock::metric::{Registry, ShardPublisher};
use penstock::shard::counters::{ListenerCounters, ShardCounters};

/// Counts the allocations of each thread, so that the test harness' own do not show.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to `System` unchanged, which keeps GlobalAlloc's rules; the counter is a
// const-initialised thread-local without a destructor, so counting never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps `alloc`'s rules.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System.alloc` above with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn publishing_allocates_nothing() {
    let settings = penstock::config::builtin();
    let registry = std::sync::Arc::new(Registry::new());
    let mut publisher = ShardPublisher::new(&registry, &settings.listeners, 0);
    let mut counters = ShardCounters {
        listeners: vec![ListenerCounters::default(); settings.listeners.len()],
        ..ShardCounters::default()
    };
    let before = ALLOCATIONS.get();
    for round in 1..=1_000 {
        for listener in &mut counters.listeners {
            listener.received_frames += 3;
            for count in &mut listener.refused_frames {
                *count += 1;
            }
            listener.accepted_records[0] += 50;
            listener.connections = round % 7;
        }
        counters.busy_ns += 1_000;
        counters.journal_bytes = round << 20;
        publisher.observe_sync(round * 10_000);
        publisher.observe_ingest(round * 20_000);
        publisher.publish(&counters);
    }
    assert_eq!(ALLOCATIONS.get(), before);
    // The counter does count, and the loop did publish.
    drop(Box::new(std::hint::black_box(1)));
    assert!(ALLOCATIONS.get() > before);
    let text = registry.render();
    assert!(text.contains("penstock_received_frames_total{listener=\"udp\"} 3000\n"));
    assert!(text.contains("penstock_ingest_duration_seconds_count 1000\n"));
}
