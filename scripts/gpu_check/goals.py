"""What is to be reached on one GPU: docs/results/gpu.md has the same table for readers.

Limits of steps are shares of what an H200 could do if nothing overlapped, from 790 TFLOP/s in bf16 and 4.3 TB/s.
"""

from dataclasses import dataclass


@dataclass
class Goal:
    """A number that is to be reached, or not to be exceeded."""

    least: float | None = None
    most: float | None = None

    def is_met(self, value):
        return value >= self.least if self.most is None else value <= self.most

    def __str__(self):
        return f">= {self.least:,g}" if self.most is None else f"<= {self.most:,g}"


@dataclass
class Measured:
    """A number as it is shown, and what it was to be."""

    value: float
    shown: str
    goal: Goal | None = None


EAGER, LAST, COMPILED = "eager", "channels-last", "max-autotune"

# The least over PyTorch, by precision and batch; the least img/s of the paper's network, on this GPU.
OVER_EAGER = {"bf16": 1.5, "tf32": 1.3, "fp32": 1.3}
OVER_COMPILED = {("bf16", 128): 1.15, ("bf16", 512): 1.05, ("bf16", 1024): 1.05}
LIMITS_OF = "H200"
RATES = {
    ("bf16", 512): 61_000,
    ("tf32", 128): 27_000, ("tf32", 512): 32_000, ("tf32", 1024): 32_500,
    ("fp32", 128): 10_400, ("fp32", 512): 10_800, ("fp32", 1024): 10_800,
}  # fmt: skip

FED = Goal(least=0.97)
MEMORY, MEMORY_OF_EAGER = Goal(most=3072), Goal(most=0.6)

# By the first words of a kernel's name: its share of a copy, and the least over each of the peer's ways.
KERNELS = {
    ("relu1", "relu2"): (0.80, {"eager": 3, "compile": 1.3}),
    ("momentum f32",): (0.85, {"foreach": 2, "fused": 1}),
    ("finish",): (0.75, {"torchvision v2": 5}),
}


def of_step(case, over):
    """The goal of a step against one of the peer's ways, if there is one."""
    _, batch, precision = case
    least = {EAGER: OVER_EAGER.get(precision), COMPILED: OVER_COMPILED.get((precision, batch))}
    return Goal(least[over]) if least.get(over) else None


def of_rate(case):
    """The goal of a step's img/s, if there is one."""
    net, batch, precision = case
    least = RATES.get((precision, batch)) if net == "alexnet" else None
    return Goal(least) if least else None


def of_kernel(name, over=None):
    """The goal of a kernel's share of a copy, or of its lead over one of the peer's ways, if there is one."""
    for beginnings, (share, leads) in KERNELS.items():
        if name.startswith(beginnings):
            least = leads.get(over) if over else share
            return Goal(least) if least else None
    return None
