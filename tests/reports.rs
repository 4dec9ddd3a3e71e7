//! What a step has to say, at once as on a CPU or a step late as on a GPU: the same numbers, each once, in
//! order, and nothing that went wrong is passed over.

mod forwarding;

use std::sync::Arc;
use std::time::Duration;

use alexnet_mgpu::collective::{Collective, Solo};
use alexnet_mgpu::config::{Arch, Config, DeviceChoice, Gpus, Mode};
use alexnet_mgpu::data::{Batch, Pixels};
use alexnet_mgpu::diverged::Diverged;
use alexnet_mgpu::launch::{Place, World};
use alexnet_mgpu::metrics::Phase;
use alexnet_mgpu::net::arch::Architecture;
use alexnet_mgpu::random::{Key, Purpose};
use alexnet_mgpu::run;
use alexnet_mgpu::train::{Reporting, Reports, StepDone, Worker};
use anyhow::Result;
use forwarding::Forwarding;

/// Two replicas, or two columns, of the small network on CPU threads.
struct Desk {
    config: Config,
    world: World,
    arch: Architecture,
}

impl Desk {
    fn new() -> Self {
        Self::of(Mode::DataParallel)
    }

    fn of(mode: Mode) -> Self {
        let mut config = Config::default();
        config.net.arch = Arch::AlexnetCifar;
        config.devices.device = DeviceChoice::Cpu;
        (config.devices.mode, config.devices.gpus) = (mode, Gpus::Count(2));
        config.train.batch_size = 4;
        let world = run::world(&config).expect("CPU devices");
        let arch = run::architecture(&config, 10).expect("known");
        Self { config, world, arch }
    }

    /// What `work` makes of every rank's worker and a batch whose pixels are `grey` and darker.
    fn run<T: Send>(
        &self,
        reporting: Reporting,
        grey: f32,
        work: impl Fn(&mut Worker, &Arc<Batch>) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        self.world.run(|place| {
            let replica = place.replica as u64;
            let key = Key::new(1, Purpose::Generate).with(replica);
            let pixel = |i: u64| grey - key.uniform(i) as f32;
            let images = Pixels::F32((0..2 * 32 * 32 * 3).map(pixel).collect());
            let batch = Arc::new(Batch::standalone(2 * place.replica, images, vec![3, 7]));
            let mut worker = {
                let drawn = run::drawn(&self.config);
                run::worker(&self.config, &self.arch, &self.world, place, drawn)?
            };
            worker.reports = Reports::new(reporting);
            work(&mut worker, &batch)
        })
    }

    /// The reports on three steps, and on a fourth one behind a stop.
    fn four_steps(&self, reporting: Reporting) -> Vec<Vec<(u64, u64, u64)>> {
        let told = |done: StepDone| (done.step, done.loss_part.to_bits(), done.wire_bytes);
        let work = |worker: &mut Worker, batch: &Arc<Batch>| {
            let mut reports = Vec::new();
            for step in 0..3 {
                reports.extend(worker.step(batch, step, 0.01)?);
                let expected = step as usize + usize::from(reporting == Reporting::AtOnce);
                assert_eq!(reports.len(), expected);
            }
            reports.extend(worker.settle()?);
            assert!(worker.settle()?.is_none(), "it has been told");
            reports.extend(worker.step(batch, 3, 0.01)?);
            reports.extend(worker.settle()?);
            Ok(reports.into_iter().map(told).collect())
        };
        self.run(reporting, 0.5, work).expect("it trains")
    }
}

#[test]
fn a_step_late_the_same_is_told_of_every_step() {
    let desk = Desk::new();
    let at_once = desk.four_steps(Reporting::AtOnce);
    assert_eq!(desk.four_steps(Reporting::StepLate), at_once);
    let steps: Vec<_> = at_once[1].iter().map(|(step, ..)| *step).collect();
    assert_eq!(steps, [0, 1, 2, 3]);
}

#[test]
fn a_loss_that_is_no_number_is_found_with_the_next_step_or_before_anything_relies_on_it() {
    let desk = Desk::new();
    let fails = |reporting, work: fn(&mut Worker, &Arc<Batch>) -> Result<()>| {
        let error = desk.run(reporting, 3e38, work).expect_err("fp32 ends a little above");
        assert!(error.chain().any(|cause| cause.is::<Diverged>()), "{error:#}");
        format!("{error:#}")
    };
    let text = fails(Reporting::AtOnce, |worker, batch| worker.step(batch, 0, 0.01).map(|_| ()));
    assert!(text.contains("loss of step 0") && text.contains("not finite: conv1."), "{text}");
    let next = |worker: &mut Worker, batch: &Arc<Batch>| {
        assert!(worker.step(batch, 0, 0.01)?.is_none());
        worker.step(batch, 1, 0.01).map(|_| ())
    };
    let settle = |worker: &mut Worker, batch: &Arc<Batch>| {
        assert!(worker.step(batch, 0, 0.01)?.is_none());
        worker.settle().map(|_| ())
    };
    for work in [next, settle] {
        let text = fails(Reporting::StepLate, work);
        assert!(text.contains("loss of step 0") && text.contains("after the update"), "{text}");
    }
}

/// What gathering and flushing take longer than they have to.
const DELAY: Duration = Duration::from_millis(20);

/// A group that takes its time.
fn slow(group: &mut Box<dyn Collective>) {
    let before = || std::thread::sleep(DELAY);
    let group_alone = std::mem::replace(group, Box::new(Solo));
    *group = Box::new(Forwarding { group: group_alone, before });
}

/// What two devices spend on `phase` with the delays of the group that `choose` chooses.
fn times(mode: Mode, phase: Phase, choose: fn(&mut Place) -> &mut Box<dyn Collective>) -> Vec<f64> {
    let work = |worker: &mut Worker, batch: &Arc<Batch>| {
        slow(choose(&mut worker.place));
        let done = worker.step(batch, 0, 0.01)?.expect("a CPU reports at once");
        Ok(done.phases.ms(phase))
    };
    Desk::of(mode).run(Reporting::AtOnce, 0.5, work).expect("it trains")
}

#[test]
fn waiting_for_gradients_and_for_weights_is_time_of_the_all_reduce() {
    let times = times(Mode::DataParallel, Phase::AllReduce, |place| &mut place.data);
    let twice = 2.0 * DELAY.as_secs_f64() * 1e3;
    assert!(times.iter().all(|ms| *ms >= twice), "{times:?}");
}

#[test]
fn waiting_for_other_columns_activations_is_time_of_the_exchange() {
    let times = times(Mode::Split, Phase::Exchange, |place| &mut place.columns);
    // Columns see each other before the third convolution and before each fully-connected layer.
    let four_times = 4.0 * DELAY.as_secs_f64() * 1e3;
    assert!(times.iter().all(|ms| *ms >= four_times), "{times:?}");
}
