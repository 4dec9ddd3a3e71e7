"""What nvidia-smi says of the GPUs that programs see."""

import functools
import itertools
import os
import subprocess


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
    names = [name.strip() for name in chosen.split(",")]
    # CUDA reads as far as the first that is none; -1 is how people say that there are none at all.
    return list(itertools.takewhile(lambda name: name and not name.startswith("-"), names))


def query(what, gpu=None):
    """The answer of a GPU, by default of the first visible one."""
    gpu = gpu or next(iter(visible_gpus()), "0")
    return nvidia_smi(f"--query-gpu={what}", "--format=csv,noheader,nounits", f"--id={gpu}")


def used_mib():
    """The memory in use on the first visible GPU, or None."""
    used = query("memory.used")
    return float(used) if used.replace(".", "").isdigit() else None
