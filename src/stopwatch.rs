//! What a step spends its time on, without stopping for the answer.
//!
//! On a CPU work is done when a call returns, and the clock tells. A GPU works behind the host: events
//! mark the places in its stream, and are read a step later, when it has long passed them.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaEvent, CudaStream};
use tch::Device;

use crate::metrics::{Phase, PhaseTimes};
use crate::torch_ext::cuda;

/// Times the phases of one rank's steps.
pub struct Stopwatch(Laps);

enum Laps {
    Host { last: Instant, times: PhaseTimes },
    Gpu { stream: Arc<CudaStream>, this_step: Marks, last_step: Marks },
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
            let timed = CUevent_flags::CU_EVENT_DEFAULT;
            self.events.push(stream.context().new_event(Some(timed))?);
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
                Laps::Gpu { stream, this_step: Marks::default(), last_step: Marks::default() }
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
            Laps::Gpu { stream, this_step, .. } => {
                this_step.phases.clear();
                this_step.put(0, stream)?;
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
            Laps::Gpu { stream, this_step, .. } => {
                this_step.phases.push(phase);
                this_step.put(this_step.phases.len(), stream)?;
            }
        }
        Ok(())
    }

    /// The step has ended: its times, or those of the step before it on a GPU.
    ///
    /// # Errors
    /// If the GPU is lost.
    pub fn finish(&mut self) -> Result<PhaseTimes> {
        match &mut self.0 {
            Laps::Host { times, .. } => Ok(*times),
            Laps::Gpu { this_step, last_step, .. } => {
                std::mem::swap(this_step, last_step);
                this_step.times()
            }
        }
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
        for phase in [Phase::Backward, Phase::Exchange, Phase::Backward] {
            pause();
            stopwatch.lap(phase).expect("no GPU");
        }
        let times = stopwatch.finish().expect("no GPU");
        assert!(times.ms(Phase::Backward) >= 4.0 && times.ms(Phase::Exchange) >= 2.0, "{times:?}");
        assert_eq!(times.ms(Phase::Forward), 0.0);
        stopwatch.start().expect("no GPU");
        assert_eq!(stopwatch.finish().expect("no GPU"), PhaseTimes::default());
    }
}
