"""The machine under check: its GPUs, and commands that are run on it against a deadline."""

import functools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEERS = ROOT / "bench/peers"

# A command that would have less time is not begun; one that takes longer leaves the others too little.
LEAST_SECONDS = 5
MOST_SECONDS = 150

OUT_OF_TIME = "not run: out of time"


@dataclass
class Done:
    """A command that has ended."""

    output: str
    problem: str | None = None

    def last_json(self):
        """The last line that is a JSON object, or None."""
        for line in reversed(self.output.splitlines()):
            if line.startswith("{"):
                try:
                    return json.loads(line)
                except ValueError:
                    return None
        return None

    def last_line(self):
        """What the command said last: where it failed, why."""
        return last_line(self.output)


def last_line(output):
    return (output.strip().splitlines() or ["no output"])[-1][-240:]


class Machine:
    """Runs commands until the deadline, and kills what still runs then."""

    def __init__(self, args):
        self.args = args
        self.rehearsal = args.device == "cpu"
        self.begun = time.monotonic()
        self.num_gpus = 0 if self.rehearsal else len(visible_gpus())
        self.torch, self.torch_folder = self.find_torch()
        self.lent, self.ours_environment = "its own", dict(os.environ)
        self.lend_libtorch()
        self.prefer_nccl()

    def find_torch(self):
        """Version and folder of the peer's torch. A rehearsal has a peer only if one is named."""
        if self.rehearsal and not self.args.python:
            return None, None
        self.args.python = self.args.python or sys.executable
        code = "import json, torch; print(json.dumps([torch.__version__, torch.__path__[0]]))"
        command = [self.args.python, "-c", code]
        try:
            found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
            version, folder = json.loads(found.stdout.splitlines()[-1])
        except (OSError, subprocess.SubprocessError, ValueError, IndexError):
            return None, None
        return version, pathlib.Path(folder)

    def lend_libtorch(self):
        """Lets the program load the peer's libtorch if it starts with no other.

        LD_LIBRARY_PATH goes before what a program is linked to find, so it is left alone where that is
        there; what the caller has put into it stays first.
        """
        why_not = self.start()
        if why_not and self.torch_folder:
            # The program knows NCCL by a name that wheels lack.
            self.links = tempfile.TemporaryDirectory()
            beside = self.torch_folder.parent / "nvidia"
            if nccl := find_nccl(beside):
                pathlib.Path(self.links.name, "libnccl.so").symlink_to(nccl)
            paths = [os.environ.get("LD_LIBRARY_PATH"), self.torch_folder / "lib", self.links.name]
            paths += sorted(beside.glob("*/lib"))
            self.ours_environment["LD_LIBRARY_PATH"] = ":".join(str(path) for path in paths if path)
            self.lent = f"torch {self.torch}'s, as the program finds none of its own"
            why_not = self.start()
        if why_not:
            sys.exit(f"gpu-check: {self.args.binary} does not start (libtorch: {self.lent}): {why_not}")

    def prefer_nccl(self):
        """Lets the program, and the libtorch it loads, take the NCCL that was named.

        The program knows it as libnccl.so, libtorch as libnccl.so.2, and both have to be the same.
        """
        if self.args.nccl is None:
            return
        self.named = tempfile.TemporaryDirectory()
        for name in ["libnccl.so", "libnccl.so.2"]:
            pathlib.Path(self.named.name, name).symlink_to(self.args.nccl.resolve())
        paths = [self.named.name, self.ours_environment.get("LD_LIBRARY_PATH")]
        preloaded = [f"{self.named.name}/libnccl.so.2", self.ours_environment.get("LD_PRELOAD")]
        self.ours_environment["LD_LIBRARY_PATH"] = ":".join(path for path in paths if path)
        self.ours_environment["LD_PRELOAD"] = ":".join(path for path in preloaded if path)

    def start(self):
        """Why the program does not start, if it does not; if it does, its version is known."""
        command = [self.args.binary, "--version"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=60, env=self.ours_environment, check=False
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        self.version = done.stdout.strip() or "unknown"
        return last_line(done.stderr) if done.returncode else None

    def seconds_left(self):
        return self.args.minutes * 60 - (time.monotonic() - self.begun)

    def ours(self, *words, **environment):
        """Runs the program with these arguments, and these variables set."""
        return self.run([self.args.binary, *words], self.ours_environment | environment)

    def peer(self, *words):
        """Runs the peer's Python with these arguments, in the environment the caller gave it."""
        return self.run([self.args.python, *words], dict(os.environ))

    def run(self, words, environment):
        words = [str(word) for word in words]
        left = min(self.seconds_left(), MOST_SECONDS)
        if left < LEAST_SECONDS:
            return Done("", OUT_OF_TIME)
        print("$", " ".join(words), flush=True)
        try:
            # Of a session of its own, so that whatever it has started can be killed with it.
            process = subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                errors="replace", env=environment, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return Done(str(error), f"failed: {error}")
        try:
            output, _ = process.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            why = "failed: takes too long" if left == MOST_SECONDS else OUT_OF_TIME
            return Done(output, f"{why} (stopped after {left:.0f} s)")
        if process.returncode:
            print(output[-2000:], flush=True)
            return Done(output, f"failed: {last_line(output)}")
        return Done(output)


def nvidia_smi(*words):
    """What nvidia-smi prints, or nothing."""
    try:
        done = subprocess.run(
            ["nvidia-smi", *words], capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


@functools.cache
def visible_gpus():
    """What nvidia-smi calls the GPUs that programs see, in their order."""
    num_gpus = sum(line.startswith("GPU ") for line in nvidia_smi("-L").splitlines())
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or num_gpus == 0:
        return [str(number) for number in range(num_gpus)]
    return [name.strip() for name in chosen.split(",") if name.strip()]


def query(what):
    """The first visible GPU's answer."""
    first = next(iter(visible_gpus()), "0")
    return nvidia_smi(f"--query-gpu={what}", "--format=csv,noheader,nounits", f"--id={first}")


def find_nccl(beside):
    """NCCL in the wheels beside torch, or in the system."""
    for nccl in beside.glob("nccl/lib/libnccl.so.2"):
        return nccl
    try:
        known = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"libnccl\.so\.2 .*=> (\S+)", known)
    return pathlib.Path(found.group(1)) if found else None


class PeakMemory:
    """The most memory in use on the first visible GPU during a `with`, above what was before, in MiB."""

    def __init__(self):
        self.mib = None
        self.done = threading.Event()

    def sample(self):
        used = query("memory.used")
        return float(used) if used.replace(".", "").isdigit() else None

    def watch(self):
        while not self.done.wait(0.25):
            used = self.sample()
            if used is not None:
                self.mib = max(self.mib or 0.0, used - self.before)

    def __enter__(self):
        self.before = self.sample()
        if self.before is not None:
            self.thread = threading.Thread(target=self.watch, daemon=True)
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        if self.before is not None:
            self.thread.join()
