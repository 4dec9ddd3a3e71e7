//! What the process says to the shell when it ends.
//!
//! Scripts and schedulers act on the exit code, so each kind of failure has one, and one function
//! decides which. Error types do not know their codes; code that needs a special one wraps its error
//! in [`Coded`].

use std::{error::Error, fmt, process::ExitCode};

use cudarc::driver::DriverError;
use tch::TchError;

use crate::backend::BackendError;
use crate::collective::{nccl::NcclError, watchdog::Stuck};
use crate::config::ConfigError;
use crate::data::DataError;
use crate::device::DeviceError;
use crate::diverged::Diverged;
use crate::kernels::cuda::CudaError;
use crate::stdout::Closed;

/// The exit codes of the program, as `--help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command did what was asked.
    Ok = 0,
    /// It failed for a reason with no code of its own.
    Failure = 1,
    /// The command line or the configuration is wrong; clap uses the same code.
    Usage = 2,
    /// The data set, an image, a model or a checkpoint cannot be read.
    Data = 3,
    /// A device is missing, out of memory or lost.
    Device = 4,
    /// The loss is no longer finite.
    Diverged = 5,
    /// An exchange between ranks failed or did not end.
    Exchange = 6,
    /// A signal stopped the run after it had saved a checkpoint: start it again with
    /// `--resume auto`. The value is `EX_TEMPFAIL` of sysexits.h, which batch systems requeue.
    Saved = 75,
    /// A signal ended a command that saves nothing, or a second one any: 128 + SIGINT.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The section of `--help` about exit codes.
pub const EXIT_CODES_HELP: &str = "\
Exit codes:
    0  done
    1  failed for a reason not listed here
    2  wrong command line or configuration
    3  the data, a model or a checkpoint cannot be read
    4  a device is missing, out of memory or lost
    5  the loss is no longer finite
    6  an exchange between devices failed or did not end
   75  a signal stopped training, all steps saved: continue with --resume; or packing: the same command
  130  a signal stopped another command, or a second one any, at once (143: by SIGTERM, 129: by SIGHUP)";

/// An error with the exit code it asks for. It prints as the error inside it.
#[derive(Debug)]
pub struct Coded {
    /// The code that the process ends with.
    pub exit: Exit,
    error: anyhow::Error,
}

impl Coded {
    /// Attaches `exit` to `error`; the outermost code of a chain is the one used.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into() }
    }
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for Coded {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // The error inside is already this one's message.
        self.error.chain().nth(1)
    }
}

/// An error and its causes as the user reads them: without causes that the text before has told already, and
/// without libtorch's call stacks.
#[must_use]
pub fn in_words(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        let stack =
            ["\nException raised from", "\nframe #"].iter().filter_map(|s| cause.find(s)).min();
        let told = &cause[..stack.unwrap_or(cause.len())];
        if text.contains(told) {
            continue;
        }
        if !text.is_empty() {
            text += ": ";
        }
        text += told;
    }
    text
}

/// The exit code of a failed run: that of the outermost cause which has one, else
/// [`Exit::Failure`].
#[must_use]
pub fn exit_of(error: &anyhow::Error) -> Exit {
    error.chain().find_map(exit_of_cause).unwrap_or(Exit::Failure)
}

/// The one list of which error type means which code.
fn exit_of_cause(cause: &(dyn Error + 'static)) -> Option<Exit> {
    if let Some(coded) = cause.downcast_ref::<Coded>() {
        return Some(coded.exit);
    }
    let codes = [
        (cause.is::<ConfigError>() || is_of_settings(cause), Exit::Usage),
        (cause.is::<DeviceError>() || cause.is::<BackendError>(), Exit::Device),
        (is_of_device(cause), Exit::Device),
        (cause.is::<DataError>(), Exit::Data),
        (cause.is::<Diverged>(), Exit::Diverged),
        (cause.is::<Closed>(), Exit::Ok),
        (cause.is::<Stuck>() || cause.is::<NcclError>(), Exit::Exchange),
    ];
    codes.into_iter().find_map(|(is_it, exit)| is_it.then_some(exit))
}

/// Whether images are well and do not fit what was set.
fn is_of_settings(cause: &(dyn Error + 'static)) -> bool {
    use DataError::{BatchTooLarge, Geometry};
    let error = cause.downcast_ref::<DataError>();
    matches!(error, Some(BatchTooLarge { .. } | Geometry { .. }))
}

/// Whether the driver, a kernel, or libtorch on behalf of either, says that a GPU fails, or that there is no memory.
fn is_of_device(cause: &(dyn Error + 'static)) -> bool {
    // libtorch's errors are text.
    const SIGNS: [&str; 3] = ["CUDA error", "CUDA out of memory", "can't allocate memory"];
    let says_so = |text: &str| SIGNS.iter().any(|sign| text.contains(sign));
    let torch = cause.downcast_ref::<TchError>();
    let data = cause.downcast_ref::<DataError>();
    cause.is::<CudaError>()
        || matches!(data, Some(DataError::NoMemory { .. }))
        || cause.is::<DriverError>()
        || torch.is_some_and(|error| matches!(error, TchError::Torch(text) if says_so(text)))
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};
    use cudarc::driver::sys::CUresult;

    use super::*;

    #[test]
    fn a_code_survives_the_context_around_it() {
        let coded = anyhow::Error::from(Coded::new(Exit::Data, anyhow!("no such folder")));
        let error = Err::<(), _>(coded).context("cannot train").expect_err("it is an error");
        assert_eq!(exit_of(&error), Exit::Data);
        assert_eq!(format!("{error:#}"), "cannot train: no such folder");
    }

    #[test]
    fn a_coded_error_prints_each_cause_once() {
        let inner = anyhow!("disk full").context("cannot save");
        let error = anyhow::Error::from(Coded::new(Exit::Failure, inner));
        assert_eq!(format!("{error:#}"), "cannot save: disk full");
    }

    #[test]
    fn a_user_reads_each_cause_once_and_no_call_stack() {
        let stack = "shapes disagree (16x6400)\nException raised from addmm\nframe #0: at::addmm";
        let torch = anyhow::Error::from(TchError::Torch(stack.into())).context("forward of fc6");
        let text = in_words(&torch);
        assert!(text.starts_with("forward of fc6: ") && text.ends_with("(16x6400)"), "{text}");
        let full = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes";
        let torch = anyhow::Error::from(TchError::Torch(format!("{full}\nframe #0: c10::Throw")));
        assert!(in_words(&torch).ends_with(full));
        assert_eq!(exit_of(&torch), Exit::Device);
        let twice = anyhow!("no such file").context("cannot read x: no such file").context("");
        assert_eq!(in_words(&twice), "cannot read x: no such file");
    }

    #[test]
    fn a_configuration_error_is_a_usage_error_and_an_unknown_one_a_failure() {
        let config = ConfigError::BadSet { text: "x".into() };
        assert_eq!(exit_of(&config.into()), Exit::Usage);
        assert_eq!(exit_of(&anyhow!("something else")), Exit::Failure);
    }

    #[test]
    fn a_gpu_that_is_lost_or_full_is_a_device_error_whoever_says_so() {
        let lost = DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        let launch = CudaError::Driver { what: "a launch".into(), why: "no memory".into() };
        let full = TchError::Torch("CUDA out of memory. Tried to allocate 2 GiB".into());
        for error in [anyhow::Error::from(lost), launch.into(), full.into()] {
            assert_eq!(exit_of(&error.context("forward of conv1")), Exit::Device);
        }
        let shapes = TchError::Torch("The size of tensor a (3) must match".into());
        assert_eq!(exit_of(&shapes.into()), Exit::Failure);
    }

    #[test]
    fn every_code_is_in_the_help() {
        for exit in [
            Exit::Ok,
            Exit::Failure,
            Exit::Usage,
            Exit::Data,
            Exit::Device,
            Exit::Diverged,
            Exit::Exchange,
            Exit::Saved,
            Exit::Interrupted,
        ] {
            let code = format!("{:>5}  ", exit as u8);
            assert!(EXIT_CODES_HELP.lines().any(|line| line.starts_with(&code)), "{exit:?}");
        }
    }
}
