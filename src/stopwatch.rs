//! What a step spends its time on, without stopping for the answer.
//!
//! On a CPU work is done when a call returns, and the clock tells. A GPU works behind the host: events
//! mark the places in its stream, to be read when it has passed them.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaEvent, CudaStream};
use tch::Device;

use crate::metrics::{Phase, PhaseTimes};
use crate::torch_ext::cuda;

/// A place in this thread's work on a device.
pub struct Mark(Place);

enum Place {
    Host(Instant),
    Gpu(CudaEvent),
}

impl Mark {
    /// The place behind all that this thread has asked `device` for so far.
    ///
    /// # Errors
    /// If a GPU has no events.
    pub fn on(device: Device) -> Result<Self> {
        Ok(Self(match device {
            Device::Cuda(device) => {
                let stream = cuda::borrowed_stream(device)?;
                let event = new_event(&stream)?;
                event.record(&stream)?;
                Place::Gpu(event)
            }
            _ => Place::Host(Instant::now()),
        }))
    }

    /// How long the device took from here to `later`, by its own clock. Waits until it has come there.
    ///
    /// # Errors
    /// If the GPU is lost, or the places are on different devices.
    pub fn seconds_to(&self, later: &Self) -> Result<f64> {
        match (&self.0, &later.0) {
            (Place::Host(here), Place::Host(later)) => Ok((*later - *here).as_secs_f64()),
            (Place::Gpu(here), Place::Gpu(later)) => Ok(f64::from(here.elapsed_ms(later)?) / 1e3),
            _ => bail!("a place on a GPU and one on the CPU have no time between them"),
        }
    }
}

/// One that is timed, and lets a thread that waits for it sleep.
fn new_event(stream: &CudaStream) -> Result<CudaEvent> {
    Ok(stream.context().new_event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC))?)
}

/// Times the phases of one rank's steps.
pub struct Stopwatch(Laps);

enum Laps {
    Host { last: Instant, times: PhaseTimes },
    Gpu { stream: Arc<CudaStream>, marks: Marks, spare: Vec<Marks> },
}

/// The laps of a step.
pub struct Timed(Times);

enum Times {
    Known(PhaseTimes),
    Marked(Marks),
}

/// The marks of one step: the first event is its start, the others end a phase each.
#[derive(Default)]
struct Marks {
    events: Vec<CudaEvent>,
    phases: Vec<Phase>,
}

impl Marks {
    fn put(&mut self, at: usize, stream: &CudaStream) -> Result<()> {
        if at == self.events.len() {
            self.events.push(new_event(stream)?);
        }
        Ok(self.events[at].record(stream)?)
    }

    fn times(&self) -> Result<PhaseTimes> {
        let mut times = PhaseTimes::default();
        for (&phase, lap) in self.phases.iter().zip(self.events.windows(2)) {
            times.add_ms(phase, f64::from(lap[0].elapsed_ms(&lap[1])?));
        }
        Ok(times)
    }
}

impl Stopwatch {
    /// A stopwatch for this thread's work on `device`.
    ///
    /// # Errors
    /// If a GPU has no events.
    pub fn on(device: Device) -> Result<Self> {
        Ok(Self(match device {
            Device::Cuda(device) => {
                let stream = cuda::borrowed_stream(device)?;
                Laps::Gpu { stream, marks: Marks::default(), spare: Vec::new() }
            }
            _ => Laps::Host { last: Instant::now(), times: PhaseTimes::default() },
        }))
    }

    /// A step begins.
    ///
    /// # Errors
    /// If the GPU is lost.
    pub fn start(&mut self) -> Result<()> {
        match &mut self.0 {
            Laps::Host { last, times } => (*last, *times) = (Instant::now(), PhaseTimes::default()),
            Laps::Gpu { stream, marks, .. } => {
                marks.phases.clear();
                marks.put(0, stream)?;
            }
        }
        Ok(())
    }

    /// What was asked for since the last lap, or the start, belongs to `phase`.
    ///
    /// # Errors
    /// If the GPU is lost.
    pub fn lap(&mut self, phase: Phase) -> Result<()> {
        match &mut self.0 {
            Laps::Host { last, times } => {
                let now = Instant::now();
                times.add_ms(phase, (now - *last).as_secs_f64() * 1e3);
                *last = now;
            }
            Laps::Gpu { stream, marks, .. } => {
                marks.phases.push(phase);
                marks.put(marks.phases.len(), stream)?;
            }
        }
        Ok(())
    }

    /// The step has been asked for; another may start before its times are read.
    pub fn finish(&mut self) -> Timed {
        Timed(match &mut self.0 {
            Laps::Host { times, .. } => Times::Known(*times),
            Laps::Gpu { marks, spare, .. } => {
                Times::Marked(std::mem::replace(marks, spare.pop().unwrap_or_default()))
            }
        })
    }

    /// The times of a step. Waits until it is done.
    ///
    /// # Errors
    /// If the GPU is lost.
    pub fn read(&mut self, timed: Timed) -> Result<PhaseTimes> {
        let marks = match timed.0 {
            Times::Known(times) => return Ok(times),
            Times::Marked(marks) => marks,
        };
        let times = marks.times()?;
        if let Laps::Gpu { spare, .. } = &mut self.0 {
            spare.push(marks);
        }
        Ok(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_charged_to_the_phase_it_ends_with_and_each_step_starts_anew() {
        let mut stopwatch = Stopwatch::on(Device::Cpu).expect("needs nothing");
        let pause = || std::thread::sleep(std::time::Duration::from_millis(2));
        stopwatch.start().expect("no GPU");
        for phase in [Phase::Backward, Phase::AllReduce, Phase::Backward] {
            pause();
            stopwatch.lap(phase).expect("no GPU");
        }
        let timed = stopwatch.finish();
        let times = stopwatch.read(timed).expect("no GPU");
        assert!(times.ms(Phase::Backward) >= 4.0 && times.ms(Phase::AllReduce) >= 2.0, "{times:?}");
        assert_eq!(times.ms(Phase::Forward), 0.0);
        stopwatch.start().expect("no GPU");
        let timed = stopwatch.finish();
        assert_eq!(stopwatch.read(timed).expect("no GPU"), PhaseTimes::default());
    }

    #[test]
    fn the_time_between_two_marks_is_that_of_the_work_between_them() {
        let here = Mark::on(Device::Cpu).expect("needs nothing");
        std::thread::sleep(std::time::Duration::from_millis(2));
        let later = Mark::on(Device::Cpu).expect("needs nothing");
        assert!(here.seconds_to(&later).expect("both on the CPU") >= 0.002);
    }
}
