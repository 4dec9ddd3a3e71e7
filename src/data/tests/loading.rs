//! Determinism, delivery, reuse and the breaking of every wait.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;

use half::bf16;

use super::{Contents, NORMALISATION, Pictures, Plain, delivery, drain, eval, floats, train};
use crate::data::{
    Content, DataError, Delivery, Form, Images, Normalisation, Order, Output, Pixels, Source, Views,
};

const ALL: &[(usize, usize)] = &[(0, 4)];

fn pictures() -> Images {
    Arc::new(Pictures::new(18))
}

fn batches(workers: usize, shares: &[(usize, usize)]) -> Vec<Vec<Contents>> {
    let loader = train(pictures(), 10).spawn(delivery(shares, workers)).expect("a good set");
    drain(loader).expect("no bad image")
}

#[test]
fn batches_are_the_same_with_any_number_of_workers() {
    let one = batches(1, ALL);
    assert_eq!(one.len(), 10);
    assert_eq!(one, batches(2, ALL));
    assert_eq!(one, batches(4, ALL));
    assert!(one.windows(2).all(|pair| pair[0][0].images != pair[1][0].images));
}

#[test]
fn loading_from_the_middle_of_an_epoch_continues_exactly() {
    let whole = batches(2, ALL);
    for start in [1, 3, 4, 6, 9, 10] {
        let mut config = train(pictures(), 10);
        config.start_step = start;
        let rest = drain(config.spawn(delivery(ALL, 2)).expect("a good set"));
        assert_eq!(rest.expect("no bad image"), whole[start as usize..]);
    }
}

#[test]
fn shares_side_by_side_are_the_whole_batch() {
    let whole = batches(2, ALL);
    let shares = batches(2, &[(0, 3), (3, 3), (3, 4)]);
    assert_eq!(whole.len(), shares.len());
    for (whole, shares) in whole.iter().zip(&shares) {
        let images: Vec<f32> = shares.iter().flat_map(|share| floats(&share.images)).collect();
        let samples: Vec<u32> = shares.iter().flat_map(|share| share.samples.clone()).collect();
        let labels: Vec<i64> = shares.iter().flat_map(|share| share.labels.clone()).collect();
        assert_eq!(images, floats(&whole[0].images));
        assert_eq!((samples, labels), (whole[0].samples.clone(), whole[0].labels.clone()));
    }
}

#[test]
fn an_epoch_shows_no_image_twice_and_drops_its_incomplete_batch() {
    let steps = batches(2, ALL);
    let epoch: Vec<_> = steps[..4].iter().map(|step| step[0].epoch).collect();
    assert_eq!(epoch, [0; 4]);
    assert_eq!((steps[4][0].epoch, steps[4][0].step), (1, 4));
    let shown = |steps: &[Vec<Contents>]| -> Vec<u32> {
        steps.iter().flat_map(|step| step[0].samples.clone()).collect()
    };
    let (first, second) = (shown(&steps[..4]), shown(&steps[4..8]));
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 16);
    assert_ne!(first, second);
    let labels: Vec<i64> = steps[..4].iter().flat_map(|step| step[0].labels.clone()).collect();
    assert!(labels.iter().zip(&first).all(|(&label, &sample)| label == i64::from(sample % 2)));
}

#[test]
fn slots_are_allocated_once_and_shared_by_the_consumers_of_a_share() {
    let mut to = delivery(ALL, 2);
    to.consumers_per_share = 2;
    let loader = train(pictures(), 60).spawn(to).expect("a good set");
    let mut memory = BTreeSet::new();
    for _ in 0..60 {
        let [a, b] = [0, 1].map(|i| loader.receivers[0][i].next().expect("no bad image"));
        let (a, b) = (a.expect("not the end"), b.expect("not the end"));
        assert!(Arc::ptr_eq(&a, &b));
        let Pixels::F32(images) = &a.images else { panic!("not what was asked for") };
        memory.insert(images.as_ptr() as usize);
    }
    assert!(loader.receivers[0][0].next().expect("no bad image").is_none());
    assert!((2..=5).contains(&memory.len()), "depth + 3 slots, not {}", memory.len());
    loader.join();
}

#[test]
fn a_batch_larger_than_the_set_is_an_error_with_advice() {
    let error = train(Arc::new(Plain::new(3, 8)), 1).spawn(delivery(ALL, 1)).err();
    let message = error.expect("three images").to_string();
    assert!(message.contains("batch of 4") && message.contains("at most 3"), "{message}");
}

/// A source that holds every read until the test lets go of it.
struct Stuck(crossbeam_channel::Receiver<()>, Plain);

impl Source for Stuck {
    fn len(&self) -> usize {
        self.1.len()
    }
    fn classes(&self) -> &[String] {
        self.1.classes()
    }
    fn label(&self, index: usize) -> usize {
        self.1.label(index)
    }
    fn name(&self, index: usize) -> String {
        self.1.name(index)
    }
    fn read(&self, index: usize, bytes: &mut Vec<u8>) -> std::io::Result<Content> {
        let _ = self.0.recv();
        self.1.read(index, bytes)
    }
}

#[test]
fn cancelling_wakes_a_waiting_consumer() {
    let (let_go, held) = crossbeam_channel::bounded(0);
    let to = delivery(ALL, 1);
    let cancel = to.cancel.clone();
    let source = Arc::new(Stuck(held, Plain::new(8, 8)));
    let mut loader = train(source, 1).spawn(to).expect("a good set");
    let receiver = loader.receivers.remove(0).remove(0);
    let consumer = thread::spawn(move || receiver.next());
    cancel.cancel();
    let result = consumer.join().expect("the consumer does not panic");
    assert!(matches!(result, Err(DataError::Cancelled)));
    drop(let_go);
    loader.join();
}

#[test]
fn cancelling_ends_a_producer_that_waits_for_a_consumer() {
    let mut to = delivery(ALL, 1);
    to.depth = 1;
    let cancel = to.cancel.clone();
    let source = Arc::new(Plain::new(8, 8));
    let mut config = train(source.clone(), 0);
    config.last_step = None;
    let mut loader = config.spawn(to).expect("a good set");
    let receivers = std::mem::take(&mut loader.receivers);
    let held = receivers[0][0].next().expect("no bad image");
    while source.reads.load(std::sync::atomic::Ordering::Relaxed) < 12 {
        thread::yield_now(); // one batch is held, one queued, one fills the last slot
    }
    cancel.cancel();
    loader.join(); // returns only if the producer's wait was broken
    assert!(matches!(receivers[0][0].next(), Err(DataError::Cancelled) | Ok(Some(_))));
    drop(held);
}

#[test]
fn a_loader_without_consumers_ends_by_itself() {
    let mut config = train(pictures(), 0);
    config.last_step = None;
    config.spawn(delivery(ALL, 2)).expect("a good set").join();
}

#[test]
fn a_panic_while_loading_reaches_every_consumer_with_its_message() {
    let (shares, mut source) = (&[(0, 2), (2, 4)], Plain::new(8, 8));
    source.bad = |index| if index == 6 { panic!("image six") } else { false };
    let mut config = train(Arc::new(source), 2);
    config.order = Order::Sequential;
    let loader = config.spawn(delivery(shares, 2)).expect("a good set");
    for consumers in &loader.receivers {
        assert!(consumers[0].next().expect("the first batch is good").is_some());
        let error = consumers[0].next().expect_err("the second is not").to_string();
        assert!(error.contains("panicked: image six"), "{error}");
    }
}

#[test]
fn evaluation_shows_every_image_once_and_every_share_every_batch() {
    for len in [1, 4, 5, 7, 8, 13] {
        let config = eval(Arc::new(Plain::new(len, 12)), 4, Views::Centre);
        let loader = config.spawn(delivery(&[(0, 3), (3, 4)], 2)).expect("a good set");
        let steps = drain(loader).expect("no bad image");
        assert_eq!(steps.len(), len.div_ceil(4));
        let samples: Vec<u32> =
            steps.iter().flatten().flat_map(|share| share.samples.clone()).collect();
        assert!(samples.into_iter().eq(0..len as u32));
        for share in steps.iter().flatten() {
            assert_eq!(share.images.len(), share.labels.len() * 8 * 8 * 3);
            let right = share.labels.iter().zip(&share.samples);
            assert!(right.clone().all(|(&label, &sample)| label == i64::from(sample % 3)));
        }
    }
}

#[test]
fn evaluation_delivers_ten_views_an_image_in_place() {
    let [ten, one] = [Views::Ten, Views::Centre].map(|views| {
        let loader = eval(pictures(), 5, views).spawn(delivery(&[(0, 5)], 2)).expect("a good set");
        drain(loader).expect("no bad image")
    });
    let len = 8 * 8 * 3;
    let mut num_images = 0;
    for (ten, one) in ten.iter().flatten().zip(one.iter().flatten()) {
        for (ten, one) in floats(&ten.images).chunks(10 * len).zip(floats(&one.images).chunks(len))
        {
            assert_eq!(&ten[4 * len..5 * len], one);
            num_images += 1;
        }
    }
    assert_eq!(num_images, 18);
}

#[test]
fn bf16_is_the_rounded_f32_and_u8_the_same_windows() {
    let batches = |output| {
        let mut loader = train(pictures(), 6);
        loader.variation.lighting = None;
        loader.geometry.pad = 0;
        let to = Delivery { form: Form::Finished(output), ..delivery(ALL, 2) };
        drain(loader.spawn(to).expect("a good set")).expect("no bad image")
    };
    let (exact, rounded, bytes) =
        (batches(Output::F32), batches(Output::Bf16), batches(Output::U8));
    for ((exact, rounded), bytes) in exact.iter().zip(&rounded).zip(&bytes) {
        let exact = floats(&exact[0].images);
        let expected = exact.iter().map(|&x| bf16::from_f32(x)).collect();
        assert_eq!(rounded[0].images, Pixels::Bf16(expected));
        let Pixels::U8(bytes) = &bytes[0].images else { panic!("not what was asked for") };
        for (i, (&byte, exact)) in bytes.iter().zip(exact).enumerate() {
            let Normalisation { mean, std, .. } = NORMALISATION;
            assert_eq!((f32::from(byte) - mean[i % 3]) / std[i % 3], exact);
        }
    }
    assert_eq!((exact.len(), rounded.len(), bytes.len()), (6, 6, 6));
}
