//! The recipe of a run: read, layered and checked once, before anything else happens.
//!
//! Built-in defaults, then a file, then every `--set` in the order given, then the flags: a later
//! layer wins, so a flag also wins over a `--set` of the same key. What comes out is typed and in
//! range. This module opens no data set and asks no device.

mod check;
mod choices;
mod colours;
mod error;
mod gpus;
mod keys;
mod layers;
mod schema;

pub(crate) use check::MAX_THREADS;
pub use choices::{
    Algorithms, Arch, BackendChoice, DeviceChoice, Finish, Input, Mode, Optimizer, Precision,
    Resume, ScheduleKind, Wire,
};
pub use colours::{Given, Mean, StatsFrom};
pub use error::{ConfigError, Origin};
pub use gpus::Gpus;
pub use layers::Override;
pub use schema::{
    Config, DataConfig, DevicesConfig, GeneratedConfig, NetConfig, RunConfig, ScheduleConfig,
    TrainConfig,
};
