//! `scripts/gpu-check` without a GPU: a rehearsal with this program on the CPU, and what it makes of a GPU,
//! a program and a PyTorch that are shell scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// The script with these flags, its results in `out`.
fn script(out: &Path, flags: &[&str]) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/gpu-check");
    let mut command = Command::new(script);
    command.args(flags).arg("--out").arg(out);
    command
}

/// Runs it, and returns it with the report it wrote.
fn run(mut command: Command, out: &Path) -> (Output, String) {
    let output = command.output().expect("python3 is there, as for scripts/get-libtorch");
    let results = fs::read_to_string(out.join("results.json")).unwrap_or_default();
    let is_json = serde_json::from_str::<serde_json::Value>(&results).is_ok();
    assert!(is_json, "results.json: {results}\n{}", String::from_utf8_lossy(&output.stderr));
    (output, fs::read_to_string(out.join("report.md")).expect("a report"))
}

/// The row of the report that begins with `what`.
fn row<'a>(report: &'a str, what: &str) -> &'a str {
    let found = report.lines().find(|line| line.starts_with(&format!("| {what} |")));
    found.unwrap_or_else(|| panic!("no row for {what}:\n{report}"))
}

#[test]
fn the_rehearsal_checks_layers_modes_and_resuming_feeds_packed_files_and_times_steps() {
    let out = tempfile::tempdir().expect("temporary folder");
    let flags =
        ["--device", "cpu", "--rounds", "1", "--binary", env!("CARGO_BIN_EXE_alexnet-mgpu")];
    let (output, report) = run(script(out.path(), &flags), out.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    for what in [
        "kernels, layers, optimizers against the CPU",
        "collectives, in-process, 4 ranks",
        "verify, alexnet-cifar, in-process, 2 ranks",
        "verify, alexnet-cifar, in-process, 4 ranks",
        "resumed after 2 of 4 steps, alexnet-cifar, batch 4, bf16",
    ] {
        assert!(row(&report, what).ends_with("| pass |"), "{report}");
    }
    assert!(report.contains("a rehearsal without a GPU"), "nobody takes it for a GPU's");
    assert!(report.contains("libtorch: its own"), "{report}");
    assert!(row(&report, "step, alexnet, batch 4, tf32").contains("| ours "), "{report}");
    assert!(report.contains("- goals: none was looked at\n"), "they are for GPUs: {report}");
    let fed = row(&report, "fed from packed files, alexnet-cifar, batch 4, fp32");
    assert!(fed.ends_with(" x synthetic |"), "{fed}");
    assert!(row(&report, "collectives, nccl, 2 ranks").contains("not run: NCCL connects GPUs"));
}

/// A machine of shell scripts in a folder.
struct Fakes(TempDir);

impl Fakes {
    fn new() -> Self {
        let fakes = Self(tempfile::tempdir().expect("temporary folder"));
        fakes.write("nvidia-smi", NVIDIA_SMI);
        fs::write(fakes.path().join("used"), "100\n").expect("writable");
        fakes
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a script of this name, in whose body `DIR` is the folder.
    fn write(&self, name: &str, body: &str) -> PathBuf {
        let path = self.path().join(name);
        let body = body.replace("DIR", &self.path().display().to_string());
        fs::write(&path, format!("#!/bin/sh\n{body}")).expect("writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("own file");
        path
    }

    /// Runs the script on this machine with `program` and `python`.
    fn run(&self, flags: &[&str], program: &str, python: &str) -> (Output, String) {
        self.run_seeing("0", flags, program, python)
    }

    /// The report of a run that gets a SIGTERM when `num` of what it has begun hang: `program` writes its id into a file
    /// `DIR/begun*` at once, which it renames to `DIR/hang*` then. None is there afterwards, and no other has been begun.
    fn report_of_a_run_ended_when(&self, num: usize, flags: &[&str], program: &str) -> String {
        let program = self.write("alexnet-mgpu", program);
        let python = self.write("python", "exit 1");
        let mut command = script(self.path(), flags);
        command.arg("--binary").arg(program).arg("--python").arg(python);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.path().display()));
        let mut child = command.spawn().expect("python3 is there");
        while self.ids("hang").len() < num {
            assert!(
                child.try_wait().expect("a child of ours").is_none(),
                "it waits for the program"
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let kill = |words: &[&str]| Command::new("kill").args(words).status().expect("kill exists");
        assert!(kill(&["-TERM", &child.id().to_string()]).success());
        assert_eq!(child.wait().expect("a child of ours").code(), Some(1));
        assert_eq!(
            (self.ids("hang").len(), self.ids("begun").len()),
            (num, 0),
            "others were begun"
        );
        for id in self.ids("hang") {
            assert!(!kill(&["-0", &id]).success(), "process {id} is still there");
        }
        fs::read_to_string(self.path().join("report.md")).expect("a report")
    }

    /// The ids in the files whose names begin so.
    fn ids(&self, prefix: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path()).expect("readable").map(|e| e.expect("readable"));
        let files = entries.filter(|e| e.file_name().to_string_lossy().starts_with(prefix));
        files.map(|e| fs::read_to_string(e.path()).expect("a file").trim().to_owned()).collect()
    }

    /// The same with these GPUs in sight.
    fn run_seeing(
        &self,
        gpus: &str,
        flags: &[&str],
        program: &str,
        python: &str,
    ) -> (Output, String) {
        let program = self.write("alexnet-mgpu", program);
        let python = self.write("python", python);
        let mut command = script(self.path(), flags);
        command.arg("--binary").arg(program).arg("--python").arg(python);
        command.env("CUDA_VISIBLE_DEVICES", gpus);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.path().display()));
        command.env("LD_LIBRARY_PATH", "/first");
        run(command, self.path())
    }
}

/// Two GPUs.
const NVIDIA_SMI: &str = r#"
case "$*" in
    -L) echo "GPU 0: Pretender H200"; echo "GPU 1: Hidden" ;;
    *name*--id=0) echo Pretender H200 ;;
    *name*) echo Hidden ;;
    *memory.used*) cat "DIR/used" ;;
esac
"#;

/// A program with a wrong kernel, on a GPU that NCCL cannot share.
const PROGRAM: &str = r#"
case "$*" in
    "gpu-check kernels"*)
        echo '{"outcomes": [{}, {}, {}], "failed": [
            {"name": "lrn", "difference": null, "limit": 1e-5},
            {"name": "dropout", "difference": 0.5, "limit": 1e-5}]}' | tr -d '\n'
        exit 1 ;;
    "gpu-check collectives --ranks 1 "*nccl*) echo "ok  sums" ;;
    "gpu-check collectives"*nccl*)
        echo "NCCL 2.28.9 cannot put several ranks on one GPU; 2.30 and later can"; exit 4 ;;
    "gpu-check collectives"*) echo "ok  sums"; echo "ok  shares" ;;
    verify*nccl*) echo "out of memory"; exit 1 ;;
    verify*"--gpus 0,0"*) echo "the modes agree: largest relative difference 1.5e-15, limit 1e-10" ;;
    "gpu-check speed")
        echo '{"copy_gb_s": 3000, "kernels": [
            {"kernel": "finish bf16", "us": 10.0, "gb_s": 1500, "share_of_copy": 0.5},
            {"kernel": "momentum f32", "us": 300.0, "gb_s": 2700, "share_of_copy": 0.9}]}' | tr -d '\n' ;;
    "gpu-check steps") while read -r flags; do echo 300 > "DIR/used"; echo "20.0 img/s"; done ;;
esac
"#;

/// A PyTorch with too little memory for one of its ways.
const PYTHON: &str = r#"
case "$*" in
    -c*) echo '["2.11.0", "DIR/torch"]' ;;
    *torch_kernels.py*)
        echo '{"kernels": [
            {"kernel": "finish bf16", "variant": "torchvision v2", "us": 60.0},
            {"kernel": "momentum f32", "variant": "fused", "problem": "RuntimeError: none here"}]}' | tr -d '\n' ;;
    *--serve)
        while read -r flags; do
            case "$flags" in
                *channels-last*) echo "failed: OutOfMemoryError: CUDA | out of memory" ;;
                *"--batch 1024"*max-autotune*) echo "Killed"; exit 1 ;;
                *) echo 800 > "DIR/used"; echo "13.0 img/s" ;;
            esac
        done ;;
esac
"#;

#[test]
fn a_difference_that_is_no_number_is_a_failure_and_shown() {
    let fakes = Fakes::new();
    let (output, report) = fakes.run(&["--only", "kernels"], PROGRAM, PYTHON);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let row = row(&report, "kernels, layers, optimizers against the CPU");
    let words = ["1 of 3 comparisons", "lrn: not a number > 1e-05", "dropout: 5.0e-01 > 1e-05"];
    assert!(words.iter().all(|words| row.contains(words)) && row.ends_with("| FAIL |"), "{row}");
}

#[test]
fn both_backends_are_checked_by_name_and_what_nccl_cannot_do_is_no_failure_of_ours() {
    let fakes = Fakes::new();
    let (output, report) =
        fakes.run(&["--only", "collectives", "--only", "modes"], PROGRAM, PYTHON);
    assert_eq!(output.status.code(), Some(1), "verify by NCCL fails");
    assert!(row(&report, "collectives, in-process, 4 ranks").contains("2 promises kept | pass |"));
    assert!(row(&report, "collectives, nccl, 1 rank").contains("1 promises kept | pass |"));
    let shared = row(&report, "collectives, nccl, 2 ranks");
    assert!(shared.contains("not run: NCCL 2.28.9 cannot put several ranks"), "{shared}");
    let verified = row(&report, "verify, alexnet, in-process, 2 ranks");
    assert!(verified.contains("largest difference 1.5e-15 | pass |"), "{verified}");
    let failed = row(&report, "verify, alexnet, nccl, 2 ranks");
    assert!(failed.contains("failed: out of memory | FAIL |"), "{failed}");
}

#[test]
fn every_way_of_pytorch_stands_beside_ours_with_its_failure_if_it_has_one() {
    let fakes = Fakes::new();
    let flags = ["--only", "steps", "--only", "kernel-speed", "--only", "memory", "--rounds", "2"];
    let (output, report) = fakes.run(&flags, PROGRAM, PYTHON);
    assert!(output.status.success(), "a peer's failure is none of ours:\n{report}");
    for about in ["- GPU: 1 x Pretender H200\n", "- peer: torch 2.11.0\n", "- libtorch: its own\n"]
    {
        assert!(report.contains(about), "{report}");
    }
    let memory = row(&report, "peak memory, alexnet, batch 128, fp32");
    let failure = "channels-last failed: OutOfMemoryError: CUDA / out of memory";
    let words = ["ours 200 MiB; eager 500 MiB; ", failure];
    assert!(words.iter().all(|words| memory.contains(words)), "{memory}");
    let verdict = "| 200 MiB (met: <= 3,072); 0.40 x eager (met: <= 0.6) |";
    assert!(memory.ends_with(verdict), "{memory}");
    let step = row(&report, "step, alexnet, batch 512, bf16");
    let words = ["ours 20 img/s", "; eager 13 img/s", failure, "; max-autotune 13 img/s"];
    assert!(words.iter().all(|words| step.contains(words)), "{step}");
    let verdict = "| 1.54 x eager (met: >= 1.5); 1.54 x max-autotune (met: >= 1.05); \
                   20 img/s (MISSED: >= 61,000) |";
    assert!(step.ends_with(verdict), "{step}");
    let ended = row(&report, "step, alexnet-owt, batch 1024, tf32");
    assert!(ended.contains("max-autotune failed: Killed"), "{ended}");
    assert!(ended.ends_with("| 1.54 x eager (met: >= 1.3) |"), "{ended}");
    assert_eq!(report.matches("| step, ").count(), 18, "{report}");
    let finish = row(&report, "finish bf16");
    let verdict = "| 0.50 x copy (MISSED: >= 0.75); 6.00 x torchvision v2 (met: >= 5) |";
    assert!(finish.ends_with(verdict), "{finish}");
    assert!(row(&report, "momentum f32").contains("fused failed: RuntimeError: none here"));
    // Met: memory 2, eager 18, compiled 4, momentum 1, finish 1. Missed: rates 7, finish 1.
    assert!(report.contains("- goals: 26 met, 8 missed\n"), "{report}");
}

#[test]
fn steps_of_ours_that_fail_in_a_later_turn_are_a_failure_and_the_next_case_starts_anew() {
    let fakes = Fakes::new();
    let breaks = r#"
        case "$*" in *steps) ;; *) exit ;; esac
        turn=0
        while read -r flags; do
            turn=$((turn + 1))
            case "$turn $flags" in
                3*"--batch 512"*) echo "failed: an illegal address" ;;
                *) echo "20.0 img/s" ;;
            esac
        done"#;
    let flags = ["--only", "steps", "--case", "alexnet,512,bf16", "--case", "alexnet,128,bf16"];
    let (output, report) = fakes.run(&flags, breaks, PYTHON);
    assert_eq!(output.status.code(), Some(1), "{report}");
    let failed = row(&report, "step, alexnet, batch 512, bf16");
    assert!(failed.contains("ours 20 img/s, then failed: an illegal address"), "{failed}");
    assert!(failed.ends_with("| FAIL |"), "{failed}");
    let next = row(&report, "step, alexnet, batch 128, bf16");
    assert!(next.contains("1.54 x eager (met: >= 1.5)"), "{next}");
}

#[test]
fn what_was_found_is_reported_by_a_run_that_is_ended_and_what_it_started_ends_with_it() {
    let fakes = Fakes::new();
    let hangs = r#"
        case "$*" in *steps) ;; *) exit ;; esac
        while read -r flags; do
            case "$flags" in
                *"--batch 512"*) echo "20.0 img/s" ;;
                *) echo $$ > DIR/begun; mv DIR/begun DIR/hang; sleep 1000 ;;
            esac
        done"#;
    let flags = ["--only", "steps", "--case", "alexnet,512,bf16", "--case", "alexnet,128,bf16"];
    let report = fakes.report_of_a_run_ended_when(1, &flags, hangs);
    let step = row(&report, "step, alexnet, batch 512, bf16");
    assert!(step.contains("| ours 20 img/s"), "{report}");
    let broken_off = row(&report, "step, alexnet, batch 128, bf16");
    assert!(broken_off.contains("not run: broken off before"), "{report}");
}

#[test]
fn checks_that_are_ended_begin_no_others_and_those_that_were_done_are_reported() {
    let fakes = Fakes::new();
    let hangs = r#"
        case "$*" in
            --version) ;;
            *kernels*) echo '{"outcomes": [{}], "failed": []}'; touch DIR/done ;;
            *)
                echo $$ > DIR/begun$$
                while [ ! -e DIR/done ]; do sleep 0.1; done
                sleep 1
                mv DIR/begun$$ DIR/hang$$; sleep 1000 ;;
        esac"#;
    let flags = ["--only", "kernels", "--only", "collectives", "--only", "modes"];
    // One of the collectives and one of the modes; each has several.
    let report = fakes.report_of_a_run_ended_when(2, &flags, hangs);
    let done = row(&report, "kernels, layers, optimizers against the CPU");
    assert!(done.ends_with("| pass |"), "{report}");
}

#[test]
fn the_gpus_are_those_in_sight() {
    let fakes = Fakes::new();
    for (gpus, shown) in [("0", "1 x Pretender H200"), ("1, 0", "2 x Hidden"), ("", "none")] {
        let (_, report) = fakes.run_seeing(gpus, &["--only", "kernels"], PROGRAM, PYTHON);
        assert!(report.contains(&format!("- GPU: {shown}\n")), "{gpus}: {report}");
    }
}

#[test]
fn what_there_is_no_time_for_stands_in_the_report_as_not_run() {
    let fakes = Fakes::new();
    let (output, report) = fakes.run(&["--minutes", "0"], PROGRAM, PYTHON);
    assert!(output.status.success(), "{report}");
    let not_run = report.lines().filter(|line| line.contains("not run: out of time"));
    assert!(not_run.count() > 20 && !report.contains("FAIL"), "{report}");
}

#[test]
fn a_step_that_hangs_is_ended_at_the_deadline_with_what_it_has_started() {
    let fakes = Fakes::new();
    // The shell's child keeps the pipe open when the shell alone is killed.
    let hangs = r#"case "$*" in *steps) sleep 1000; echo "20.0 img/s" ;; esac"#;
    let (output, report) = fakes.run(&["--minutes", "0.2", "--only", "steps"], hangs, PYTHON);
    assert!(output.status.success(), "{report}");
    let step = row(&report, "step, alexnet, batch 512, bf16");
    assert!(step.contains("ours not run: out of time (stopped after"), "{step}");
}

#[test]
fn a_check_that_does_not_end_and_a_program_without_results_are_failures() {
    let fakes = Fakes::new();
    let broken = r#"case "$*" in --version) ;; verify*) sleep 1000 ;; *) exit 1 ;; esac"#;
    let flags = ["--minutes", "0.2", "--only", "kernels", "--only", "modes"];
    let (output, report) = fakes.run(&flags, broken, PYTHON);
    assert_eq!(output.status.code(), Some(1));
    for what in
        ["kernels, layers, optimizers against the CPU", "verify, alexnet, in-process, 2 ranks"]
    {
        assert!(row(&report, what).ends_with("| FAIL |"), "{report}");
    }
}

#[test]
fn libtorch_is_lent_behind_the_callers_paths_and_only_to_a_program_without_its_own() {
    let fakes = Fakes::new();
    let nccl = fakes.path().join("nvidia/nccl/lib");
    fs::create_dir_all(&nccl).expect("writable");
    fs::write(nccl.join("libnccl.so.2"), "").expect("writable");
    let own = r#"[ "$LD_LIBRARY_PATH" = /first ] && echo '{"outcomes": [{}], "failed": []}'"#;
    let (output, report) = fakes.run(&["--only", "kernels"], own, PYTHON);
    assert!(output.status.success() && report.contains("libtorch: its own"), "{report}");

    let borrows = r#"
        case "$LD_LIBRARY_PATH" in
            /first:DIR/torch/lib:*:DIR/nvidia/nccl/lib) ;;
            *) echo "libtorch_cpu.so: cannot open" >&2; exit 127 ;;
        esac
        links="${LD_LIBRARY_PATH#*torch/lib:}"
        [ -e "${links%%:*}/libnccl.so" ] && echo '{"outcomes": [{}], "failed": []}'"#;
    let (output, report) = fakes.run(&["--only", "kernels"], borrows, PYTHON);
    assert!(output.status.success() && report.contains("libtorch: torch 2.11.0's"), "{report}");
}

#[test]
fn an_nccl_that_is_named_is_the_only_one_the_program_sees() {
    let fakes = Fakes::new();
    let nccl = fakes.path().join("other");
    fs::write(&nccl, "").expect("writable");
    let program = r#"
        first="${LD_LIBRARY_PATH%%:*}"
        for name in libnccl.so libnccl.so.2; do [ "$first/$name" -ef DIR/other ] || exit 1; done
        [ "$LD_PRELOAD" = "$first/libnccl.so.2" ] && echo '{"outcomes": [{}], "failed": []}'"#;
    let program = format!("case \"$*\" in --version) exit ;; esac\n{program}");
    let named = nccl.display().to_string();
    let flags = ["--only", "kernels", "--nccl", &named];
    let (output, report) = fakes.run(&flags, &program, PYTHON);
    assert!(output.status.success(), "{report}");
}

#[test]
fn one_case_alone_can_be_asked_for_and_a_part_that_breaks_leaves_the_others_alone() {
    let fakes = Fakes::new();
    let breaks =
        format!(r#"case "$*" in "gpu-check speed") echo '{{"none": 1}}'; exit ;; esac{PROGRAM}"#);
    let flags = ["--only", "kernel-speed", "--only", "steps", "--case", "alexnet,512,bf16"];
    let (output, report) = fakes.run(&flags, &breaks, PYTHON);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(row(&report, "kernel-speed").contains("KeyError"), "{report}");
    assert!(row(&report, "step, alexnet, batch 512, bf16").contains("ours 20 img/s"), "{report}");
    assert_eq!(report.matches("| step, ").count(), 1, "{report}");
}
