//! The environment variables that libtorch and the C library read when they are loaded, before `main`.
//!
//! Whoever has set one keeps what they set. Nothing here is needed for right results.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A variable, and what it is set to unless it, or another one of the same meaning, is there.
struct Wanted {
    names: &'static [&'static str],
    value: &'static str,
}

const WANTED: [Wanted; 4] = [
    // OpenMP's threads wait for work asleep. By default they spin, on the cores that our kernels and the decoders
    // need at that moment; beside another busy process a step then takes many times as long.
    Wanted { names: &["OMP_WAIT_POLICY"], value: "passive" },
    // Large tensors' memory stays in the process when they are freed. glibc gives every block above 32 MiB back to
    // the kernel at once, so that each activation costs its page faults again in every step.
    Wanted { names: &["MALLOC_MMAP_MAX_"], value: "0" },
    Wanted { names: &["MALLOC_TRIM_THRESHOLD_"], value: "2147483647" },
    // libtorch's memory on GPUs grows in place instead of segment by segment: what is free between segments is of
    // no use to a larger tensor.
    Wanted {
        names: &["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"],
        value: "expandable_segments:True",
    },
];

/// Starts this program again, in the same process, with what is missing.
pub fn complete() {
    let missing = missing(|name| env::var_os(name).is_some());
    if missing.is_empty() {
        return;
    }
    let Ok(program) = env::current_exe() else { return };
    let mut again = Command::new(program);
    if let Some(name) = env::args_os().next() {
        again.arg0(name);
    }
    // Returns only if it failed, and then the program is slower, and no less right.
    let _ = again.args(env::args_os().skip(1)).envs(missing).exec();
}

fn missing(is_set: impl Fn(&str) -> bool) -> Vec<(&'static str, &'static str)> {
    let unset = WANTED.iter().filter(|wanted| !wanted.names.iter().any(|name| is_set(name)));
    unset.map(|wanted| (wanted.names[0], wanted.value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_under_any_of_its_names_is_left_alone() {
        let names = |is_set: &dyn Fn(&str) -> bool| -> Vec<_> {
            missing(is_set).into_iter().map(|(name, _)| name).collect()
        };
        let malloc = ["MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"];
        assert_eq!(names(&|name| !malloc.contains(&name)), malloc);
        assert_eq!(names(&|name| name != "PYTORCH_ALLOC_CONF"), [""; 0]);
        assert_eq!(names(&|name| !name.starts_with("PYTORCH")), ["PYTORCH_ALLOC_CONF"]);
        assert_eq!(names(&|_| false).len(), WANTED.len());
    }

    #[test]
    fn a_program_that_was_started_again_lacks_nothing() {
        let set: Vec<_> = missing(|_| false).into_iter().map(|(name, _)| name).collect();
        assert!(missing(|name| set.contains(&name)).is_empty());
    }
}
