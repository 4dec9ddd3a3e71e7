//! A loader allocates its memory at the start: no image costs an allocation later. FFI: the counting
//! allocator.
#![allow(unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use alexnet_mgpu::colours::Colours;
use alexnet_mgpu::config::Config;
use alexnet_mgpu::data::{
    self, Augment, GeneratedSpec, Geometry, Loader, Order, Output, Split, TrainLoader,
};
use common::delivery;

/// The system's allocator, and how often it was asked.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: as promised by the caller.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const BATCH: usize = 64;
const NUM_IMAGES: usize = 10 * BATCH;

/// Loads for ever, on two threads.
fn load(path: &Path, augment: Augment, output: Output) -> Loader {
    let config = Config::default();
    let colours = Colours::find(&config).expect("the built-in constants");
    let loader = TrainLoader {
        source: data::open(path, Split::Train).expect("a good set"),
        order: Order::Shuffled,
        geometry: Geometry { resize: 48, pad: 0, crop: 40 },
        variation: augment.variation(colours.lighting),
        normalisation: colours.normalisation,
        seed: 1,
        batch: BATCH,
        start_step: 0,
        last_step: None,
        max_bad_fraction: 0.0,
    };
    loader.spawn(delivery(BATCH, output)).expect("threads start")
}

/// Takes batches; the allocations meanwhile.
fn allocations(loader: &Loader, num_batches: usize) -> u64 {
    let before = ALLOCATIONS.load(Relaxed);
    for _ in 0..num_batches {
        loader.receivers[0][0].next().expect("good images").expect("it goes on for ever");
    }
    ALLOCATIONS.load(Relaxed) - before
}

#[test]
fn images_cost_no_allocation_once_the_loader_runs() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let spec = GeneratedSpec { seed: 1, size: 64, num_train: NUM_IMAGES, num_test: 10 };
    data::generate(dir.path(), &spec).expect("room for images");
    for (augment, output) in [
        (Augment::Paper, Output::F32),
        (Augment::Torchvision, Output::Bf16),
        (Augment::CropFlip, Output::U8),
    ] {
        let loader = load(dir.path(), augment, output);
        allocations(&loader, 30); // three epochs: every buffer has met every image
        let num_batches = 20;
        let num = allocations(&loader, num_batches);
        loader.join();
        // A batch is shared by an `Arc`, and rayon queues its jobs; an epoch has an order.
        let limit = (8 * num_batches) as u64;
        assert!(
            num <= limit,
            "{augment:?}: {num} allocations for {num_batches} batches of {BATCH}"
        );
    }
}
