//! Trains AlexNet (Krizhevsky, Sutskever, Hinton 2012) on one or many GPUs, one thread per device.
//!
//! Start with [`train`]: one rank's step, on one screen. `docs/tour.md` follows a batch from its file
//! to the checkpoint.

pub mod cancel;
pub mod canonical;
pub mod cli;
pub mod collective;
pub mod config;
pub mod data;
pub mod device;
pub mod exit;
pub mod feed;
pub mod kernels;
pub mod launch;
pub mod net;
pub mod optim;
pub mod params;
pub mod random;
pub mod run;
pub mod topology;
pub mod torch_ext;
pub mod train;
