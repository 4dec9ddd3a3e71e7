"""What the benchmarks share: contenders that take turns, and the report written of them.

Each round runs every contender once, so that a machine that slows down slows all of them.
"""

import datetime
import os
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
OURS = ROOT / "target/release/alexnet-mgpu"
TOOL = pathlib.Path(sys.argv[0]).name


def peer_python():
    """The Python that has what bench/peers import."""
    return os.environ.get("PEER_PYTHON") or str(ROOT / ".peers/bin/python")


def check_programs(programs, peers_target):
    """Ends with what to do if a program is not there."""
    for program in programs:
        if not os.access(program, os.X_OK):
            ours = program == str(OURS)
            hint = "make build" if ours else f"make {peers_target}, or set PEER_PYTHON"
            sys.exit(f"{TOOL}: {program} not found; run: {hint}")


def run(name, command):
    """Runs a command, shows its output and returns it."""
    print(f"$ {shlex.join(command)}", flush=True)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, end="", flush=True)
    if done.returncode != 0:
        sys.exit(f"{TOOL}: {name} failed with exit status {done.returncode}")
    return done.stdout


def take_turns(commands, rounds, read):
    """Per contender, what `read(name, output)` made of each of its runs."""
    measured = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            measured[name].append(read(name, run(name, command)))
    return measured


def processor():
    """CPU model, and the cores that may be used."""
    try:
        shown = subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout
    except OSError:
        shown = ""
    model = re.search(r"^Model name:\s*(.+)$", shown, re.MULTILINE)
    cores = len(os.sched_getaffinity(0))
    return f"{model.group(1).strip() if model else 'unknown CPU'}, {cores} cores"


def machine():
    """The processor, and the GPU if there is one."""
    name = processor()
    try:
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        gpus = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split("\n")
        return "; ".join([name, *filter(None, gpus)])
    except (OSError, subprocess.CalledProcessError):
        return name


def write_report(path, title, facts, lines):
    """Writes the table with the machine, the date, the command line and further facts."""
    command = shlex.join([f"bench/{TOOL}", *sys.argv[1:]])
    report = [
        f"# {title}",
        "",
        f"- machine: {machine()}",
        f"- date: {datetime.date.today().isoformat()}",
        f"- command: `{command}`",
        *(f"- {fact}" for fact in facts),
        "",
        *lines,
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(report) + "\n")
    print(f"wrote {path}")
