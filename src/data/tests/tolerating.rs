//! Bad images: replaced in training, left out in evaluation, counted in both, too many an error.

use std::sync::Arc;

use super::{Plain, delivery, drain, eval, floats, folder, jpeg, train};
use crate::data::{DataError, Order, Split, Views, open};

const ALL: &[(usize, usize)] = &[(0, 4)];

fn plain(len: usize, bad: fn(usize) -> bool) -> Arc<Plain> {
    Arc::new(Plain { bad, ..Plain::new(len, 12) })
}

#[test]
fn a_bad_training_image_is_replaced_by_the_next_good_one_with_its_label() {
    let source = plain(12, |index| index == 5 || index == 11);
    let mut config = train(source, 6);
    config.order = Order::Sequential;
    config.max_bad_fraction = 0.2;
    let loader = config.spawn(delivery(ALL, 2)).expect("a good set");
    let mut shown = Vec::new();
    while let Some(batch) = loader.receivers[0][0].next().expect("tolerated") {
        let labels = batch.labels.iter().zip(&batch.samples);
        assert!(labels.clone().all(|(&label, &sample)| label == i64::from(sample % 3)));
        shown.extend(batch.samples.iter().copied());
    }
    let epoch = [0, 1, 2, 3, 4, 6, 6, 7, 8, 9, 10, 0];
    assert_eq!(shown, [epoch, epoch].concat());
    assert_eq!(loader.bad().count(), 2);
}

#[test]
fn one_bad_image_is_tolerated_in_a_small_set_but_not_two_and_none_if_none_is_allowed() {
    type Case = (fn(usize) -> bool, f64, bool);
    let cases: [Case; 4] = [
        (|_| false, 0.0, true),
        (|index| index == 5, 0.0, false),
        (|index| index == 5, 0.01, true),
        (|index| index == 5 || index == 9, 0.01, false),
    ];
    for (bad, max_bad_fraction, good) in cases {
        let mut config = train(plain(12, bad), 3);
        config.max_bad_fraction = max_bad_fraction;
        let result = drain(config.spawn(delivery(ALL, 2)).expect("a good set"));
        assert_eq!(result.is_ok(), good, "{max_bad_fraction}");
    }
}

#[test]
fn too_many_bad_images_stop_every_consumer_with_count_first_name_and_reason() {
    let mut config = train(plain(12, |index| index >= 5), 3);
    config.order = Order::Sequential;
    for workers in [1, 4] {
        let to = delivery(&[(0, 2), (2, 4)], workers);
        let loader = config.clone().spawn(to).expect("a good set");
        for consumers in &loader.receivers {
            assert!(consumers[0].next().expect("the first batch is good").is_some());
            let error = consumers[0].next().expect_err("the second is not");
            let message = error.to_string();
            assert!(matches!(error, DataError::TooManyBad { count: 7, limit: 1, .. }), "{message}");
            assert!(message.contains("image 5: cannot read: bad sector"), "{message}");
        }
    }
}

#[test]
fn a_set_without_a_single_good_image_is_an_error() {
    let mut config = train(plain(40, |_| true), 1);
    config.max_bad_fraction = 1.0;
    let result = drain(config.spawn(delivery(ALL, 2)).expect("it opens"));
    assert!(matches!(result, Err(DataError::NoSubstitute { tries: 16, .. })));
}

#[test]
fn a_bad_test_image_is_left_out_and_counted() {
    let loader = eval(plain(9, |index| index == 2), 4, Views::Ten).spawn(delivery(ALL, 2));
    let loader = loader.expect("a good set");
    let mut shown = Vec::new();
    while let Some(batch) = loader.receivers[0][0].next().expect("tolerated") {
        let len = 10 * 8 * 8 * 3;
        assert_eq!(batch.images.len(), batch.samples.len() * len);
        for (image, &sample) in floats(&batch.images).chunks(len).zip(&batch.samples) {
            // Plain images: red is the index, and the mean of red is 127.
            assert!(image.contains(&(sample as f32 - 127.0)), "image {sample}");
        }
        assert!(batch.labels.iter().all(|&label| (0..3).contains(&label)));
        shown.extend(batch.samples.iter().copied());
    }
    assert_eq!(shown, [0, 1, 3, 4, 5, 6, 7, 8]);
    assert_eq!(loader.bad().count(), 1);
}

#[test]
fn truncated_and_empty_files_are_named_with_their_reason() {
    let whole = jpeg(20, 20, 0);
    let cut = &whole[..whole.len() / 2];
    let root = folder(&[
        ("train/a/1.jpg", cut),
        ("train/a/2.jpg", b""),
        ("train/b/1.jpg", &whole),
        ("train/b/2.jpg", &whole),
    ]);
    let source = open(root.path(), Split::Train).expect("a good folder");
    assert_eq!(source.len(), 4);
    let result = drain(train(source, 1).spawn(delivery(ALL, 2)).expect("it opens"));
    let message = result.expect_err("two of four are bad").to_string();
    assert!(message.starts_with("2 of 4 images cannot be read (at most 1 tolerated)"), "{message}");
    assert!(message.contains("train/a/1.jpg: the image is truncated"), "{message}");
}
