//! What a run measures.

use super::*;
use crate::config::{Arch, DeviceChoice};
use crate::data::{GeneratedSpec, generate};

#[test]
fn an_evaluation_is_recorded_with_the_rate_of_the_step_before_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let data = dir.path().join("images");
    // One step an epoch.
    let spec = GeneratedSpec { seed: 1, size: 32, num_train: 10, num_test: 10 };
    generate(&data, &spec).expect("a writable folder");
    let mut config = crate::verify::config(Arch::AlexnetCifar, &data);
    config.data.resize = 0;
    config.devices.device = DeviceChoice::Cpu;
    config.run.output_dir = dir.path().join("runs");
    config.train.batch_size = 10;
    config.train.epochs = 3;
    config.schedule.kind = ScheduleKind::Plateau;
    // The first evaluation is the best; each after it lets the rate fall.
    (config.schedule.patience, config.schedule.min_improvement) = (1, 1.0);
    config.schedule.factor = 0.5;
    config.train.lr = 0.001;
    let outcome = train(&config, &Screen::without_bar(), &LogFile::default()).expect("it trains");
    let metrics = std::fs::read_to_string(outcome.folder.join("metrics.jsonl")).expect("written");
    let records = metrics.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    let rates: Vec<_> = records
        .filter(|record: &serde_json::Value| record["kind"] == "eval")
        .map(|record| record["lr"].as_f64().expect("a rate"))
        .collect();
    assert_eq!(rates, [0.001, 0.001, 0.0005]);
}
