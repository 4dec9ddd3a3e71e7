use std::fs;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::progress::{RunLength, Screen};

/// Metrics of a run of 25 steps in epochs of 10, and the lines they write.
struct Run {
    dir: TempDir,
    metrics: Metrics,
}

fn progress() -> Progress {
    let length = RunLength { steps_per_epoch: 10, total_steps: 25 };
    Progress::new(&Screen::without_bar(), length)
}

impl Run {
    fn new(num_replicas: usize, log_steps: u64) -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        let path = dir.path().join("metrics.jsonl");
        let metrics = Metrics::new(&path, num_replicas, log_steps, progress()).expect("writable");
        Self { dir, metrics }
    }

    fn text(&self) -> String {
        fs::read_to_string(self.dir.path().join("metrics.jsonl")).expect("written")
    }

    fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

fn report(step: u64, replica: usize, loss_part: f64) -> StepReport {
    let mut phases = PhaseTimes::default();
    phases.add_ms(Phase::Wait, 20.0 * replica as f64);
    phases.add_ms(Phase::Backward, 8.0);
    let loading = Stages {
        num_images: 10 * (step + 1),
        decode: Duration::from_micros(20 * (step + 1) * (step + 1)),
        ..Stages::default()
    };
    StepReport {
        step,
        replica,
        loss_part,
        num_images: 4,
        lr: 0.5,
        wire_bytes: 100 + 10 * replica as u64,
        step_ms: 40.0,
        phases,
        num_queued: 3 - replica,
        loading,
    }
}

const EVAL: EvalReport = EvalReport {
    num_steps: 20,
    top1: 0.1 + 0.2,
    top5: 0.75,
    loss: 2.5,
    num_images: 100,
    seconds: 1.5,
    lr: 0.5,
};

#[test]
fn a_record_sums_loss_parts_over_replicas_and_averages_over_steps() {
    let run = Run::new(2, 2);
    for step in 0..4 {
        for replica in [1, 0] {
            run.metrics.step(report(step, replica, step as f64)).expect("writable");
        }
    }
    let expected = r#"{"kind":"step","step":2,"epoch":1,"loss":1.0,"lr":0.5,"img_per_s":200.0,"wait_share":0.25,"queued":2.5,"wire_bytes":100,"ms":{"wait":10.0,"copy":0.0,"forward":0.0,"exchange":0.0,"backward":8.0,"all_reduce":0.0,"update":0.0},"loader_us":{"read":0.0,"decode":4.0,"resize":0.0,"finish":0.0}}"#;
    assert_eq!(run.text().lines().next(), Some(expected));
    assert_eq!(run.lines()[1]["loss"], 5.0);
    // 320 us for 40 images, less the first record's 80 us for 20.
    assert_eq!(run.lines()[1]["loader_us"]["decode"], 12.0);
    assert_eq!(run.lines().len(), 2);
}

#[test]
fn the_order_in_which_replicas_report_does_not_change_a_bit() {
    let parts = [0.1, 1e17, -1e17];
    let loss_of = |order: [usize; 3]| {
        let run = Run::new(3, 1);
        for replica in order {
            run.metrics.step(report(0, replica, parts[replica])).expect("writable");
        }
        run.lines()[0]["loss"].as_f64().expect("a number").to_bits()
    };
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        assert_eq!(loss_of(order), ((0.1 + 1e17) - 1e17_f64).to_bits(), "{order:?}");
    }
}

#[test]
fn replicas_may_be_steps_apart_and_records_stay_in_order() {
    let run = Run::new(2, 1);
    for (step, replica) in [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)] {
        run.metrics.step(report(step, replica, 1.0)).expect("writable");
    }
    let steps: Vec<_> = run.lines().iter().map(|line| line["step"].as_u64()).collect();
    assert_eq!(steps, [Some(1), Some(2), Some(3)]);
}

#[test]
fn the_last_steps_are_recorded_when_the_run_ends_or_stops() {
    let (whole, stopped) = (Run::new(1, 10), Run::new(1, 10));
    (0..25).for_each(|step| whole.metrics.step(report(step, 0, 1.0)).expect("writable"));
    (0..13).for_each(|step| stopped.metrics.step(report(step, 0, 1.0)).expect("writable"));
    for (run, expected) in [(whole, vec![10, 20, 25]), (stopped, vec![10, 13])] {
        run.metrics.finish().expect("writable");
        let steps: Vec<_> = run.lines().iter().filter_map(|line| line["step"].as_u64()).collect();
        assert_eq!(steps, expected);
    }
}

#[test]
fn an_evaluation_is_recorded_exactly() {
    let run = Run::new(2, 10);
    run.metrics.eval(EVAL).expect("writable");
    let expected = r#"{"kind":"eval","step":20,"epoch":2,"top1":0.30000000000000004,"top5":0.75,"loss":2.5,"num_images":100,"seconds":1.5,"lr":0.5}"#;
    assert_eq!(run.text(), format!("{expected}\n"));
}

#[test]
fn a_loss_that_is_not_finite_is_null() {
    let run = Run::new(1, 1);
    run.metrics.step(report(0, 0, f64::NAN)).expect("writable");
    assert_eq!(run.lines()[0].get("loss"), Some(&Value::Null));
}

#[test]
fn a_full_disk_is_one_error_that_says_what_where_why_and_what_to_do() {
    let metrics = Metrics::new(Path::new("/dev/full"), 1, 1, progress()).expect("opens");
    let message = format!("{:#}", metrics.step(report(0, 0, 1.0)).expect_err("disk full"));
    for part in ["measurements", "/dev/full", "No space left", "--resume auto"] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    metrics.step(report(1, 0, 1.0)).expect("the error was reported");
    metrics.eval(EVAL).expect("the error was reported");
}

#[test]
fn a_report_out_of_turn_is_an_error_and_not_a_wrong_mean() {
    let run = Run::new(2, 1);
    run.metrics.step(report(0, 0, 1.0)).expect("in turn");
    assert!(run.metrics.step(report(0, 0, 1.0)).is_err(), "twice");
    assert!(run.metrics.step(report(0, 2, 1.0)).is_err(), "no such replica");
}
