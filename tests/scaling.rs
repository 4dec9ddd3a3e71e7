//! `scripts/scaling` from end to end: two CPU devices, the small network, a few steps, from memory and from
//! files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use alexnet_mgpu::data::{GeneratedSpec, generate};

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/scaling")
}

#[test]
fn every_mode_is_measured_and_drawn_beside_the_published_curves() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let spec = GeneratedSpec { seed: 1, size: 32, num_train: 40, num_test: 10 };
    generate(&dir.path().join("images"), &spec).expect("a writable folder");
    let output = Command::new("python3")
        .arg(script())
        .current_dir(dir.path())
        .args(["--program", env!("CARGO_BIN_EXE_alexnet-mgpu"), "--out", "plots/two"])
        .args(["--device", "cpu", "--devices", "1,2", "--threads-per-device", "1"])
        .args(["--arch", "alexnet-cifar", "--batch", "4", "--precision", "fp32"])
        .args(["--steps", "2", "--warmup", "1", "--rounds", "1"])
        .args(["--data", "images", "--", "--set", "data.resize=0"])
        .output()
        .expect("python3 is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");

    let read = |name: &str| fs::read_to_string(dir.path().join(name)).expect("written");
    let report: serde_json::Value = serde_json::from_str(&read("plots/two.json")).expect("JSON");
    let results = report["results"].as_array().expect("a list");
    let number = |row: &serde_json::Value, key: &str| row[key].as_f64().expect("a number");
    let row = |scaling: &str, system: &str, mode: &str| {
        let found = results.iter().find(|row| {
            row["scaling"] == scaling && row["system"] == system && row["mode"] == mode
        });
        found.unwrap_or_else(|| panic!("no {scaling}, {system}, {mode} in {report}"))
    };
    for (scaling, batch) in [("weak", 8.0), ("strong", 4.0)] {
        for system in ["ours", "fed"] {
            let alone = number(row(scaling, system, "single"), "img_per_s");
            for mode in ["data-parallel", "split", "hybrid"] {
                let row = row(scaling, system, mode);
                assert_eq!((number(row, "devices"), number(row, "batch")), (2.0, batch), "{row}");
                let expected = number(row, "img_per_s") / (2.0 * alone);
                assert!((number(row, "efficiency") / expected - 1.0).abs() < 1e-9, "{row}");
            }
        }
        let sent = |system, mode| number(row(scaling, system, mode), "wire_bytes");
        for mode in ["data-parallel", "split", "hybrid"] {
            // The same step, whoever feeds it; the fed one has the data's ten classes.
            assert!(sent("fed", mode) > 0.0 && sent("fed", mode) <= sent("ours", mode), "{mode}");
        }
        assert!(sent("ours", "hybrid") < sent("ours", "data-parallel"));
    }

    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("| weak | hybrid, fed | 2 | 8 |"), "{table}");
    let drawn = read("plots/two.svg");
    for part in ["data-parallel", "split", "hybrid", "arXiv 1404.5997", "Theano-MPI", "dashed"] {
        assert!(drawn.contains(part), "{part} is not in the plot");
    }
    let parse = "import sys, xml.dom.minidom as xml; xml.parse(sys.argv[1])";
    let plot = dir.path().join("plots/two.svg");
    let parsed = Command::new("python3").args(["-c", parse]).arg(plot).status();
    assert!(parsed.expect("python3 is installed").success(), "the plot is not XML");
}

/// What the script says when it refuses these arguments.
#[track_caller]
fn refusal(arguments: &[&str]) -> String {
    let output = Command::new("python3")
        .arg(script())
        .args(["--device", "cpu"])
        .args(arguments)
        .output()
        .expect("python3 is installed");
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_runs() {
    let unknown = refusal(&["--scaling", "weak,strnog"]);
    assert!(unknown.contains("strnog"), "{unknown}");
    let unknown = refusal(&["--modes", "spilt"]);
    assert!(unknown.contains("spilt") && unknown.contains("data-parallel"), "{unknown}");
    let wider = refusal(&["--precision", "bf16", "--wire", "fp32"]);
    assert!(wider.contains("--wire fp32") && wider.contains("--precision fp32"), "{wider}");
    let missing = refusal(&["--program", "/nowhere/alexnet-mgpu"]);
    assert!(missing.contains("/nowhere/alexnet-mgpu not found; run: make build"), "{missing}");
}
