//! Training learns: in every mode, with either optimizer, the loss of one batch goes to nothing.

use std::sync::Arc;

use alexnet_mgpu::config::{Arch, Config, DeviceChoice, Gpus, Mode, Optimizer, Precision};
use alexnet_mgpu::data::{Batch, GeneratedSpec, generate};
use alexnet_mgpu::feed::Feed;
use alexnet_mgpu::run::{self, Handout};

/// The losses of `num_steps` steps on the same batch of images, without dropout.
fn losses(config: &Config, num_steps: u64) -> Vec<f64> {
    let world = run::world(config).expect("CPU devices");
    let arch = run::architecture(config, 10).expect("a known network");
    let feed = Feed::open(config, arch.input as usize, &world.devices).expect("images");
    let loader = feed.train(config, world.topology, 0..1, &world.cancel).expect("one batch");
    let batches = Handout::new(loader);
    let parts = world
        .run(|place| {
            let batch = batches.take(&place)?.next()?.expect("the only batch");
            let (images, labels) = (batch.images.clone(), batch.labels.clone());
            let batch = Arc::new(Batch::standalone(batch.first, images, labels));
            let column = place.column;
            let mut worker = run::worker(config, &arch, &world, place, run::drawn(config))?;
            let step = |step| {
                let done = worker.step(&batch, step, config.train.lr)?;
                Ok(done.expect("a CPU reports at once").loss_part)
            };
            let losses: Vec<f64> = (0..num_steps).map(step).collect::<anyhow::Result<_>>()?;
            // Both columns compute the loss of their replica.
            Ok(if column == 0 { losses } else { vec![0.0; num_steps as usize] })
        })
        .expect("training runs");
    (0..num_steps as usize).map(|step| parts.iter().map(|losses| losses[step]).sum()).collect()
}

/// Trains with the recipe that `change` makes of this small one.
fn overfits(change: impl Fn(&mut Config)) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let data = dir.path().join("images");
    generate(&data, &GeneratedSpec { seed: 1, size: 32, num_train: 20, num_test: 10 })
        .expect("a writable folder");
    let mut config = Config::default();
    config.data.path = data.display().to_string();
    config.data.std = [64.0; 3].into();
    config.devices.device = DeviceChoice::Cpu;
    config.net.arch = Arch::AlexnetCifar;
    config.net.classes = 10;
    config.net.dropout = 0.0;
    config.train.batch_size = 10;
    config.train.lr = 0.005;
    change(&mut config);
    let losses = losses(&config, 60);
    let (first, last) = (losses[0], losses[59]);
    assert!(first > 1.5, "the first loss of ten classes is about ln 10: {first}");
    assert!(last < 0.05, "{losses:?}");
}

#[test]
fn a_batch_is_learnt_by_heart_on_one_device() {
    overfits(|_| ());
}

#[test]
fn a_batch_is_learnt_by_heart_in_bf16_in_two_columns() {
    overfits(|config| {
        config.train.precision = Precision::Bf16;
        config.devices.mode = Mode::Split;
        config.devices.gpus = Gpus::Count(2);
    });
}

#[test]
fn a_batch_is_learnt_by_heart_in_bf16_on_two_replicas_by_the_other_optimizer() {
    overfits(|config| {
        config.net.arch = Arch::AlexnetOwt;
        config.train.precision = Precision::Bf16;
        config.train.optimizer = Optimizer::Adam;
        config.train.lr = 3e-4;
        config.devices.mode = Mode::DataParallel;
        config.devices.gpus = Gpus::Count(2);
    });
}
