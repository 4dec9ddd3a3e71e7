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

import gpus

ROOT = pathlib.Path(__file__).resolve().parent.parent
OURS = ROOT / "target/release/alexnet-mgpu"
TOOL = pathlib.Path(sys.argv[0]).name
# What a run says of its rate over all timed steps; behind it ours says that of the median step.
OURS_RATE = re.compile(r"^mean: ([\d.]+) img/s$", re.MULTILINE)
PEERS_RATE = re.compile(r"^([\d.]+) img/s$", re.MULTILINE)


class Failed(Exception):
    """A contender that did not do its work; the text says why."""


def peer_python():
    """The Python that has what bench/peers import."""
    return os.environ.get("PEER_PYTHON") or str(ROOT / ".peers/bin/python")


def check_programs(programs, peers_target, ours=OURS):
    """Ends with what to do if a program is not there. `ours` is the one that is not a peer."""
    for program in programs:
        if not os.access(program, os.X_OK):
            hint = f"make {peers_target}, or set PEER_PYTHON"
            if program == str(ours):
                hint = "make build" if ours == OURS else "make build, or name another with --program"
            sys.exit(f"{TOOL}: {program} not found; run: {hint}")


def run(command):
    """Runs a command, shows its output and returns what it wrote to stdout."""
    print(f"$ {shlex.join(command)}", flush=True)
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False
    )
    print(done.stdout, end="", flush=True)
    print(done.stderr, end="", file=sys.stderr, flush=True)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Failed(said[-1] if said else f"exit status {done.returncode}")
    return done.stdout


def rate_in(output, pattern):
    """The last rate of this form in a run's output."""
    rates = pattern.findall(output)
    if not rates:
        raise Failed("it printed no line with its img/s")
    return float(rates[-1])


def take_turns(commands, rounds, read):
    """Per contender, what `read(name, output)` made of each of its runs; and why others failed, by name.

    Who fails takes no further turn. Without the first contender, which all others are compared with, nothing can be
    said, so its failure ends the program.
    """
    measured, failures = {name: [] for name in commands}, {}
    first = next(iter(commands))
    for _ in range(rounds):
        for name, command in commands.items():
            if name in failures:
                continue
            try:
                measured[name].append(read(name, run(command)))
            except Failed as why:
                if name == first:
                    sys.exit(f"{TOOL}: {name} failed: {why}")
                failures[name] = f"failed: {why}"
                print(f"{TOOL}: {name} failed; going on without it", file=sys.stderr, flush=True)
                del measured[name]
    return measured, failures


def failed_row(name, why, num_columns):
    """The row of a table for a contender that failed."""
    return f"| {name} | {why.replace('|', '/')} |" + " |" * (num_columns - 2)


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
    """The processor, and the GPUs if programs see any."""
    names = [gpus.query("name", gpu) for gpu in gpus.visible_gpus()]
    return "; ".join([processor(), *filter(None, names)])


def output_of(*command):
    """What a command prints, or nothing if it is not there or fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def versions(packages):
    """`NAME VERSION, ...` of those packages that the peers' Python has."""
    code = (
        "import importlib.metadata as found, sys\n"
        "have = {one.metadata['Name'].lower(): one.version for one in found.distributions()}\n"
        "print(', '.join(f'{name} {have[name]}' for name in sys.argv[1:] if name in have))"
    )
    return output_of(peer_python(), "-c", code, *packages)


def write_report(path, title, facts, lines, peers=()):
    """Writes the table with the machine, the date, the command line and further facts.

    `peers` are the packages whose versions matter.
    """
    commit = output_of("git", "rev-parse", "--short", "HEAD")
    found = versions(peers) if peers else ""
    command = shlex.join([f"bench/{TOOL}", *sys.argv[1:]])
    report = [
        f"# {title}",
        "",
        f"- machine: {machine()}",
        f"- date: {datetime.date.today().isoformat()}",
        *([f"- commit: {commit}"] if commit else []),
        f"- command: `{command}`",
        *([f"- peers: {found}"] if found else []),
        *(f"- {fact}" for fact in facts),
        "",
        *lines,
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(report) + "\n")
    print(f"wrote {path}")
