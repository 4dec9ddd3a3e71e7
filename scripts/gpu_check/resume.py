"""Whether a run that was stopped and resumed has the bits of one that was not."""

import json
import pathlib
import tempfile
from dataclasses import dataclass

from .fed import Size, write_images

PRECISION = "bf16"


@dataclass
class Runs:
    """What is trained, in how many steps, and where it stops in between."""

    size: Size
    stop: int


WHOLE = Runs(Size("alexnet", 64, PRECISION, 256, 10, 20, 8, 2), 5)
REHEARSED = Runs(Size("alexnet-cifar", 4, PRECISION, 32, 10, 2, 4, 1), 2)


def train(machine, size, images, runs, name, num_steps, *flags):
    """Trains until `num_steps`, and saves."""
    sets = [
        f"train.max_steps={num_steps}", "train.epochs=1000", "train.eval_epochs=0",
        "devices.algorithms=deterministic", f"data.resize={size.side}",
    ]  # fmt: skip
    words = ["--arch", size.net, "--batch-size", size.batch, "--precision", size.precision]
    words += ["--device", machine.args.device, "--data", images, "--output-dir", runs]
    words += ["--name", name, "--lr", 1e-4, *flags]
    return machine.ours(*words, *(word for one in sets for word in ("--set", one)))


def tensors(run):
    """The bytes of each tensor of a run's last checkpoint."""
    found = {}
    for path in sorted((run / "checkpoints/last").resolve().rglob("*.safetensors")):
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        header.pop("__metadata__", None)
        for name, tensor in header.items():
            first, end = tensor["data_offsets"]
            found[f"{path.stem} {name}"] = content[start + first : start + end]
    return found


def verdict(straight, resumed):
    """Whether all tensors are the same, in words."""
    other = sorted(name for name in straight | resumed if straight.get(name) != resumed.get(name))
    if other:
        return False, f"{len(other)} of {len(straight)} tensors differ, {other[0]} among them"
    return bool(straight), f"{len(straight)} tensors, the same bits"


def check_resume(machine, report):
    runs = REHEARSED if machine.rehearsal else WHOLE
    size, end = runs.size, runs.size.steps
    what = f"resumed after {runs.stop} of {end} steps, {size.net}, batch {size.batch}, {PRECISION}"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_images(folder / "images", size)
        for name, steps, flags in [
            ("straight", end, []),
            ("broken", runs.stop, []),
            ("broken", end, ["--resume", "auto"]),
        ]:
            images, to = folder / "images", folder / "runs"
            done = train(machine, size, images, to, name, steps, *flags)
            if done.problem:
                return report.done(what, done)
        same, value = verdict(*(tensors(to / name) for name in ["straight", "broken"]))
    return report.check(what, same, value)
