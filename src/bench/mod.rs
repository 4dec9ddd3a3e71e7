//! The program's own measurements: a training step without the input pipeline, and the pipeline
//! without a training step. Comparing them with anything is the business of `bench/`.

mod pipeline;
mod step;

pub use pipeline::pipeline;
pub use step::{step, steps};

/// The process's largest resident set so far, as Linux reports it.
fn peak_memory_mib() -> Option<u64> {
    memory_mib("VmHWM:")
}

/// The process's resident set, as Linux reports it.
fn resident_memory_mib() -> Option<u64> {
    memory_mib("VmRSS:")
}

fn memory_mib(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib / 1024)
}
