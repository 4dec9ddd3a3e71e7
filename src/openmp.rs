//! How libtorch's OpenMP threads wait for work: asleep.
//!
//! By default they spin, on the cores that our kernels and the decoders need at that moment; beside another
//! busy process a step then takes many times as long. The library reads its environment when it is loaded,
//! before `main`: hence the new start.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The standard variable of OpenMP 3; whoever sets it keeps what they set.
const WAIT_POLICY: &str = "OMP_WAIT_POLICY";

/// Starts this program again, in the same process, if the policy is not set yet.
pub fn wait_asleep() {
    if env::var_os(WAIT_POLICY).is_some() {
        return;
    }
    let Ok(program) = env::current_exe() else { return };
    let mut again = Command::new(program);
    if let Some(name) = env::args_os().next() {
        again.arg0(name);
    }
    // Returns only if it failed, and then spinning threads are better than none.
    let error = again.args(env::args_os().skip(1)).env(WAIT_POLICY, "passive").exec();
    tracing::debug!("{WAIT_POLICY} could not be set: {error}");
}
