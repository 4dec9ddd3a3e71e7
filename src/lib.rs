//! Trains AlexNet (Krizhevsky, Sutskever, Hinton 2012) on one or many GPUs, one thread per device.
//!
//! Start with [`train`]: one rank's step, on one screen. `docs/tour.md` follows a batch from its file
//! to the checkpoint.

pub mod backend;
pub mod bench;
pub mod cancel;
pub mod canonical;
pub mod checkpoint;
pub mod cli;
pub mod collective;
pub mod collective_check;
pub mod colours;
pub mod config;
pub mod cuda;
pub mod data;
pub mod device;
pub mod diverged;
pub mod draw;
pub mod elements;
pub mod environment;
pub mod exit;
pub mod feed;
pub mod folder_lock;

pub mod image_folder;
pub mod inference;
pub mod intake;
pub mod kernel_check;
pub mod kernels;
pub mod launch;
pub mod metrics;
pub mod net;
pub mod optim;
pub mod pack;
pub mod panics;
pub mod params;
pub mod pretrained;
pub mod progress;
pub mod random;
pub mod replace;
pub mod run;
pub mod run_folder;
pub mod schedule;
pub mod session;
pub mod shell;
pub mod statistics;
pub mod stdout;
pub mod stop;
pub mod stopwatch;
pub mod topology;
pub mod torch_ext;
pub mod train;
pub mod trained;
pub mod verify;
