"""Whether packed files feed a GPU: training on them, against steps on images that are there already."""

import json
import os
import pathlib
import random
import re
import statistics
import struct
import tempfile
import zlib
from dataclasses import dataclass

from . import goals
from .goals import Measured


@dataclass
class Size:
    """How much is made and trained."""

    net: str
    batch: int
    precision: str
    side: int
    classes: int
    images_per_class: int
    steps: int
    steps_per_record: int


# As many classes as synthetic steps have, and images for a dozen steps, over and over.
WHOLE = Size("alexnet", 512, "bf16", 256, 1000, 8, 200, 10)
REHEARSED = Size("alexnet-cifar", 4, "fp32", 40, 10, 2, 8, 2)


def png(side, seed):
    """A file of random pixels."""

    def chunk(kind, content):
        summed = kind + content
        return struct.pack(">I", len(content)) + summed + struct.pack(">I", zlib.crc32(summed))

    noise = random.Random(seed)
    rows = b"".join(b"\0" + noise.randbytes(3 * side) for _ in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in parts)


def write_images(folder, size):
    """`train/CLASS/*.png` and `val/CLASS/*.png`: few files, each under many names."""
    files = [folder / f"{i}.png" for i in range(size.images_per_class)]
    folder.mkdir()
    for i, file in enumerate(files):
        file.write_bytes(png(size.side, i))
    for name in (f"c{number:04}" for number in range(size.classes)):
        for split, linked in [("train", files), ("val", files[:1])]:
            to = folder / split / name
            to.mkdir(parents=True)
            for file in linked:
                os.link(file, to / file.name)
    for file in files:
        file.unlink()


def train(machine, size, packed, runs):
    """A run on packed files that neither evaluates nor saves before its end."""
    sets = [
        f"train.max_steps={size.steps}", "train.epochs=1000000", "train.eval_epochs=0",
        "run.checkpoint_epochs=0", f"run.log_steps={size.steps_per_record}", f"data.resize={size.side}",
    ]  # fmt: skip
    flags = ["--arch", size.net, "--batch-size", size.batch, "--precision", size.precision]
    flags += ["--device", machine.args.device, "--data", packed, "--lr", 1e-6]
    flags += ["--output-dir", runs, "--name", "fed"]
    return machine.ours(*flags, *(word for one in sets for word in ("--set", one)))


def settled(metrics):
    """img/s and the share of waiting, the medians of the second half of a run's records."""
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [record for record in records if record["kind"] == "step"]
    steps = steps[len(steps) // 2 :]
    return [statistics.median(step[key] for step in steps) for key in ["img_per_s", "wait_share"]]


def synthetic(machine, size):
    """How steps on images that are there already ended, and their img/s."""
    flags = ["--arch", size.net, "--batch", size.batch, "--precision", size.precision]
    flags += ["--device", machine.args.device, "--steps", size.steps // 2, "--warmup", size.steps // 4]
    done = machine.ours("bench", "step", *flags)
    mean = re.search(r"^mean: ([\d.]+) img/s$", done.output, re.MULTILINE)
    return done, float(mean.group(1)) if mean else None


def measure_fed(machine, report):
    size = REHEARSED if machine.rehearsal else WHOLE
    what = f"fed from packed files, {size.net}, batch {size.batch}, {size.precision}"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_images(folder / "images", size)
        done = machine.ours("pack", folder / "images", folder / "packed", "--size", size.side)
        before = None
        if not done.problem:
            done, before = synthetic(machine, size)
        if not done.problem:
            done = train(machine, size, folder / "packed", folder / "runs")
        if done.problem:
            return report.unmeasured(what, done)
        fed, wait_share = settled(folder / "runs/fed/metrics.jsonl")
    done, after = synthetic(machine, size)
    if done.problem or not (before and after):
        return report.unmeasured(what, done)
    report.results["fed"] = {"fed": fed, "wait_share": wait_share, "synthetic": [before, after]}
    value = f"{fed:.0f} img/s, {wait_share:.0%} of it waiting; "
    value += f"synthetic before {before:.0f}, after {after:.0f} img/s"
    share = 2 * fed / (before + after)
    goal = None if machine.rehearsal else goals.FED
    return report.measured(what, value, [Measured(share, f"{share:.2f} x synthetic", goal)])
