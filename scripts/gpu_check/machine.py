"""The machine under check: its GPUs, the program and its peer, and what these load."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from gpus import visible_gpus

from .commands import MOST_SECONDS, Deadline, Server, last_line, run

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEERS = ROOT / "bench/peers"


class Machine:
    """Runs the program and its peer until the deadline, and kills what still runs then."""

    def __init__(self, args):
        self.args = args
        self.rehearsal = args.device == "cpu"
        self.deadline = Deadline(args.minutes)
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

    def ours(self, *words, **environment):
        """Runs the program with these arguments, and these variables set."""
        return run([self.args.binary, *words], self.ours_environment | environment, self.deadline)

    def peer(self, *words):
        """Runs the peer's Python with these arguments, in the environment the caller gave it."""
        return run([self.args.python, *words], dict(os.environ), self.deadline)

    def our_server(self, *words):
        """The program with these arguments, to be asked line by line."""
        return Server([self.args.binary, *words], self.ours_environment, self.deadline)

    def peer_server(self, *words, most=MOST_SECONDS):
        """The peer's Python with these arguments, to be asked line by line, with so many seconds for an answer."""
        return Server([self.args.python, *words], dict(os.environ), self.deadline, most)


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
