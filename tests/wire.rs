//! What a rank sends in a step, as the collectives count it, against formulas from the sizes of the
//! layers. Two kinds of padding are in the formulas: parameters start at multiples of 64 elements and
//! every replica updates equally many, and parts that do not divide travel as long as the longest.

use std::fs;
use std::sync::Arc;

use alexnet_mgpu::config::{Arch, Config, DeviceChoice, Gpus, Mode, Precision, Wire};
use alexnet_mgpu::data::{Batch, GeneratedSpec, Pixels, generate};
use alexnet_mgpu::progress::{LogFile, Screen};
use alexnet_mgpu::run::{architecture, drawn, worker, world};
use alexnet_mgpu::{session, verify};

/// Bytes of a value in fp32 and in bf16.
const FP32: usize = 4;
const BF16: usize = 2;

/// What the formulas need to know of a network of two columns.
struct Net {
    arch: Arch,
    /// Filters, channels each of them sees, their side.
    convs: [(usize, usize, usize); 5],
    /// Values of one image that conv3 sees.
    conv3_inputs: usize,
    /// Outputs, inputs.
    fcs: [(usize, usize); 3],
}

/// Krizhevsky 2012, figure 2.
const PAPER: Net = Net {
    arch: Arch::Alexnet,
    convs: [(96, 3, 11), (256, 48, 5), (384, 256, 3), (384, 192, 3), (256, 192, 3)],
    conv3_inputs: 13 * 13 * 256,
    fcs: [(4096, 6 * 6 * 256), (4096, 4096), (1000, 4096)],
};

const CIFAR: Net = Net {
    arch: Arch::AlexnetCifar,
    convs: [(64, 3, 5), (192, 32, 5), (256, 192, 3), (256, 128, 3), (256, 128, 3)],
    conv3_inputs: 7 * 7 * 192,
    fcs: [(1024, 3 * 3 * 256), (512, 1024), (10, 512)],
};

impl Net {
    /// Elements of each weight and bias of the convolutions, in order.
    fn conv_params(&self) -> Vec<usize> {
        self.convs.iter().flat_map(|(o, i, k)| [o * i * k * k, *o]).collect()
    }

    fn fc_params(&self) -> Vec<usize> {
        self.fcs.iter().flat_map(|(o, i)| [o * i, *o]).collect()
    }

    fn classes(&self) -> usize {
        self.fcs[2].0
    }

    /// Values of one image that the fully-connected layers see, one after the other.
    fn fc_inputs(&self) -> usize {
        self.fcs.iter().map(|(_, inputs)| inputs).sum()
    }

    /// Gradients reduce-scattered and weights all-gathered: `(n - 1) / n` of all, twice.
    fn data_parallel(&self, n: usize, gradient: usize, weight: usize) -> usize {
        let all = padded(&[self.conv_params(), self.fc_params()].concat(), n);
        (n - 1) * all / n * (gradient + weight)
    }

    /// Half of what conv3, fc6, fc7 and fc8 see, forward; the same backward but for fc8, which is on
    /// both columns, so that each has the whole gradient.
    fn split(&self, batch: usize, value: usize) -> usize {
        let forward = (self.conv3_inputs + self.fc_inputs()) / 2;
        (2 * forward - self.fcs[2].1 / 2) * batch * value
    }

    /// What travels of activations: every rank's share of fc6's inputs and its slices of fc7's and
    /// fc8's to all others and back, and its slice of the logits to those whose images they are.
    fn hybrid_activations(&self, n: usize, batch: usize, value: usize) -> usize {
        let [(_, fc6), (_, fc7), (_, fc8)] = self.fcs;
        let (share, slice) = (batch.div_ceil(n), |units: usize| units.div_ceil(n));
        let gathered = share * fc6 + batch * (slice(fc7) + slice(fc8));
        2 * (n - 1) * (gathered + share * slice(self.classes())) * value
    }

    /// The convolutions' gradients and weights besides.
    fn hybrid(&self, n: usize, batch: usize, value: usize, weight: usize) -> usize {
        let convs = padded(&self.conv_params(), n);
        (n - 1) * convs / n * (value + weight) + self.hybrid_activations(n, batch, value)
    }
}

/// The length of an arena with parameters of these sizes, among `n` replicas.
fn padded(sizes: &[usize], n: usize) -> usize {
    let end = sizes.iter().fold(0usize, |end, size| end.next_multiple_of(64) + size);
    end.next_multiple_of(64 * n)
}

/// What each rank sends in a step, when all send the same.
#[track_caller]
fn sent(net: &Net, mode: Mode, n: usize, batch: usize, wire: Wire, precision: Precision) -> usize {
    let mut config = Config::default();
    config.net.arch = net.arch;
    config.devices.device = DeviceChoice::Cpu;
    (config.devices.mode, config.devices.gpus) = (mode, Gpus::Count(n));
    // One bucket of everything that the same ranks hold.
    config.devices.bucket_bytes = 1 << 40;
    config.devices.wire = wire;
    (config.train.batch_size, config.train.precision) = (batch, precision);
    let world = world(&config).expect("CPU devices");
    let arch = architecture(&config, net.classes()).expect("known");
    let shares = world.topology.shares(batch);
    let sent = world.run(|place| {
        let share = shares[place.replica].clone();
        let num_values = share.len() * (arch.input * arch.input * 3) as usize;
        let images = Pixels::F32(vec![1.0; num_values]);
        let labels = vec![0; share.len()];
        let batch = Arc::new(Batch::standalone(share.start, images, labels));
        let done = worker(&config, &arch, &world, place, drawn(&config))?.step(&batch, 0, 1e-6)?;
        Ok(done.expect("a CPU reports at once").wire_bytes as usize)
    });
    let sent = sent.expect("a step");
    assert!(sent.iter().all(|bytes| *bytes == sent[0]), "{sent:?}");
    sent[0]
}

fn sent_fp32(net: &Net, mode: Mode, n: usize, batch: usize) -> usize {
    sent(net, mode, n, batch, Wire::Computed, Precision::Fp32)
}

/// Equal to three digits, as figures are quoted.
#[track_caller]
fn assert_about(got: f64, expected: f64) {
    assert!((got / expected - 1.0).abs() < 5e-3, "{got}, not {expected}");
}

#[test]
fn replicas_send_all_gradients_and_weights_once_around() {
    let num_params: usize = PAPER.conv_params().iter().chain(&PAPER.fc_params()).sum();
    assert_eq!(num_params, 60_965_224);
    let got = sent_fp32(&PAPER, Mode::DataParallel, 2, 2);
    assert_eq!(got, PAPER.data_parallel(2, FP32, FP32));
    // 2 (n - 1) / n of the parameters: 244 MB for two devices; padding is nothing beside it.
    assert_about(got as f64, 243.9e6);
    assert!(got - num_params * FP32 < 64 * 16 * FP32);
    for n in [3, 4] {
        let got = sent_fp32(&CIFAR, Mode::DataParallel, n, 5);
        assert_eq!(got, CIFAR.data_parallel(n, FP32, FP32), "{n}");
    }
}

#[test]
fn columns_send_half_of_what_four_layers_see() {
    let got = sent_fp32(&PAPER, Mode::Split, 2, 2);
    assert_eq!(got, PAPER.split(2, FP32));
    // At the paper's batch: 15.5 MB forward, and 1.05 MB less on the way back.
    let forward = (PAPER.conv3_inputs + PAPER.fc_inputs()) / 2 * 128 * FP32;
    assert_about(forward as f64, 15.5e6);
    assert_about((got * 64 - forward) as f64, 15.53e6 - 1.05e6);
    // Four devices are two replicas of such pairs, which also exchange gradients.
    let all: usize = padded(&halves(&CIFAR), 2);
    let expected = all / 2 * 2 * FP32 + CIFAR.split(2, FP32);
    assert_eq!(sent_fp32(&CIFAR, Mode::Split, 4, 4), expected);
}

/// The parameters of one column: half of every layer but the last, which both have.
fn halves(net: &Net) -> Vec<usize> {
    let mut sizes = [net.conv_params(), net.fc_params()].concat();
    let (columns, last) = (sizes.len() - 2, sizes.len());
    sizes[..columns].iter_mut().for_each(|size| *size /= 2);
    assert_eq!(last, 16);
    sizes
}

#[test]
fn hybrid_ranks_send_activations_and_the_convolutions_gradients() {
    let got = sent_fp32(&PAPER, Mode::Hybrid, 2, 2);
    assert_eq!(got, PAPER.hybrid(2, 2, FP32, FP32));
    // Shares and slices that do not divide.
    for (n, batch) in [(3, 5), (4, 9)] {
        let got = sent_fp32(&CIFAR, Mode::Hybrid, n, batch);
        assert_eq!(got, CIFAR.hybrid(n, batch, FP32, FP32), "{batch} images on {n}");
    }
    // The rule of thumb, 2 (n - 1) b (9216 + 8192) values, leaves the logits out: 3 % for two devices.
    for (n, expected) in [(2, 17.8e6), (4, 53.5e6), (8, 125e6)] {
        let rule = 2 * (n - 1) * 128 * PAPER.fc_inputs() * FP32;
        assert_about(rule as f64, expected);
        let activations = PAPER.hybrid_activations(n, n * 128, FP32);
        let logits = 2 * (n - 1) * 128 * PAPER.classes() / n * FP32;
        assert_eq!(activations, rule + logits);
    }
}

#[test]
fn hybrid_sends_less_than_replicas_below_a_batch_of_some_3370() {
    let replicas = sent_fp32(&PAPER, Mode::DataParallel, 2, 2) as f64;
    let [two, four] = [2, 4].map(|batch| sent_fp32(&PAPER, Mode::Hybrid, 2, batch) as f64);
    let per_image = (four - two) / 2.0;
    let crossover = (replicas - (two - 2.0 * per_image)) / per_image;
    // Two devices: the fully-connected parameters travel, or their inputs and half the logits do.
    let fc_params = PAPER.fc_params().iter().sum::<usize>() as f64;
    let (inputs, logits) = (PAPER.fc_inputs() as f64, PAPER.classes() as f64 / 2.0);
    assert_about(crossover, fc_params / (inputs + logits));
    assert_about(fc_params / inputs, 3370.0);
    assert!((crossover / 3370.0 - 1.0).abs() < 0.03, "{crossover}");
}

#[test]
fn bf16_halves_what_travels_but_for_weights_that_are_computed_with_in_fp32() {
    let sent = |mode, n, wire, precision| sent(&CIFAR, mode, n, 6, wire, precision);
    for n in [2, 3] {
        let (rounded, fp32) = (Wire::Bf16, Precision::Fp32);
        let expected = CIFAR.data_parallel(n, BF16, FP32);
        assert_eq!(sent(Mode::DataParallel, n, rounded, fp32), expected);
        assert_eq!(sent(Mode::Hybrid, n, rounded, fp32), CIFAR.hybrid(n, 6, BF16, FP32));
        let computed = |mode| sent(mode, n, Wire::Computed, Precision::Bf16);
        assert_eq!(computed(Mode::DataParallel), CIFAR.data_parallel(n, BF16, BF16));
        assert_eq!(computed(Mode::Hybrid), CIFAR.hybrid(n, 6, BF16, BF16));
    }
    assert_eq!(sent(Mode::Split, 2, Wire::Bf16, Precision::Fp32), CIFAR.split(6, BF16));
    assert_eq!(sent(Mode::Single, 1, Wire::Bf16, Precision::Fp32), 0);
}

#[test]
fn a_run_records_what_a_rank_sends_in_a_step() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let images = dir.path().join("images");
    generate(&images, &GeneratedSpec { seed: 1, size: 32, num_train: 20, num_test: 10 })
        .expect("a writable folder");
    let mut config = verify::config(Arch::AlexnetCifar, &images);
    config.net.classes = 0;
    config.data.resize = 0;
    config.devices.device = DeviceChoice::Cpu;
    (config.devices.mode, config.devices.gpus) = (Mode::Hybrid, Gpus::Count(2));
    config.devices.bucket_bytes = 1 << 40;
    config.train.precision = Precision::Fp32;
    (config.train.batch_size, config.train.max_steps, config.run.log_steps) = (6, 2, 1);
    config.run.output_dir = dir.path().join("runs");
    let outcome = session::train(&config, &Screen::without_bar(), &LogFile::default());
    let folder = outcome.expect("it trains").folder;
    let text = fs::read_to_string(folder.join("metrics.jsonl")).expect("written");
    let steps: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .filter(|record: &serde_json::Value| record["kind"] == "step")
        .collect();
    assert_eq!(steps.len(), 2);
    for step in steps {
        assert_eq!(step["wire_bytes"], CIFAR.hybrid(2, 6, FP32, FP32), "{step}");
    }
}
