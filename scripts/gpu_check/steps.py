"""How fast training steps are, and how much memory they take, in turns with PyTorch."""

import contextlib
import re
import statistics
from dataclasses import dataclass, field

from .machine import OUT_OF_TIME, PEERS, PeakMemory

# What PyTorch is run as; see bench/peers/torch_step.py.
EAGER, LAST, COMPILED = "eager", "channels-last", "max-autotune"
# Where memory is compared.
LEAN = ("alexnet", 128, "fp32")


@dataclass
class Contender:
    """The runs of one program in one case."""

    rates: list = field(default_factory=list)
    peaks_mib: list = field(default_factory=list)
    problem: str | None = None

    def rate(self):
        return statistics.median(self.rates) if self.rates else None

    def peak_mib(self):
        return max(self.peaks_mib, default=None)

    def shown(self, name):
        if not self.rates:
            return f"{name} {self.problem or 'not run'}"
        peak = f", {self.peak_mib():.0f} MiB" if self.peaks_mib else ""
        return f"{name} {self.rate():.0f} img/s{peak}"


def cases(machine):
    """(network, batch, precision), the most telling first."""
    if machine.args.case:
        return machine.args.case
    if machine.rehearsal:
        return [("alexnet-cifar", 4, "fp32"), ("alexnet-cifar", 4, "tf32")]
    nets = ["alexnet", "alexnet-owt"]
    first = [LEAN, ("alexnet", 512, "bf16"), ("alexnet", 128, "bf16"), ("alexnet-owt", 512, "bf16")]
    rest = [(n, b, p) for p in ["bf16", "tf32", "fp32"] for b in [128, 512, 1024] for n in nets]
    return first + [case for case in rest if case not in first]


def turns(machine):
    """(case, name) of every run, in the order in which time is spent on them.

    Compiling takes a minute or more: the two cases that tell most go first, the others after everything else
    has been measured once.
    """
    peers = [EAGER, LAST] if machine.torch else []
    order = []
    for at, case in enumerate(cases(machine)):
        order += [(case, name) for name in ["ours", *peers]]
        if machine.torch and at in (1, 2):
            order.append((case, COMPILED))
    if machine.torch:
        order += [(c, COMPILED) for c in cases(machine) if (c, COMPILED) not in order]
    again = [(case, name) for case in cases(machine) for name in ["ours", *peers]]
    return order + again * (machine.args.rounds - 1)


def run(machine, case, name):
    """One run: what ended, and the most memory it took, where that is asked for: to look disturbs.

    Both programs are timed over the same number of steps in one go, from the end of as many untimed ones.
    """
    net, batch, precision = case
    flags = ["--arch", net, "--batch", batch, "--precision", precision]
    flags += ["--device", machine.args.device]
    steps, warmup = (2, 1) if machine.rehearsal else (max(12800 // batch, 20), 20)
    flags += ["--steps", steps, "--warmup", warmup]
    with PeakMemory() if case == LEAN else contextlib.nullcontext() as memory:
        if name == "ours":
            done = machine.ours("bench", "step", *flags)
        else:
            done = machine.peer(PEERS / "torch_step.py", *flags, "--windows", 1, "--variant", name)
    return done, memory.mib if memory else None


def rate(output):
    """img/s over all timed steps: the peer's only window, and what ours calls its mean."""
    found = re.findall(r"^(?:mean: )?([\d.]+) img/s$", output, re.MULTILINE)
    return float(found[0]) if found else None


def measure_steps(machine, report):
    found = {case: {} for case in cases(machine)}
    for case, name in turns(machine):
        contender = found[case].setdefault(name, Contender())
        done, peak_mib = run(machine, case, name)
        per_second = rate(done.output)
        if done.problem or per_second is None:
            # Of several the first tells most: later turns may only have come too late.
            contender.problem = contender.problem or done.problem or f"failed: {done.last_line()}"
            continue
        contender.rates.append(per_second)
        if peak_mib is not None:
            contender.peaks_mib.append(peak_mib)
    report.results["steps"] = [
        {"case": case, "contenders": {name: vars(one) for name, one in contenders.items()}}
        for case, contenders in found.items()
    ]
    if LEAN in found:
        add_memory(report, found[LEAN])
    for case, contenders in found.items():
        add_row(report, case, contenders)


def add_row(report, case, contenders):
    net, batch, precision = case
    what = f"step, {net}, batch {batch}, {precision}"
    value = "; ".join(one.shown(name) for name, one in contenders.items())
    ours = contenders["ours"]
    if ours.rate() is None and not ours.problem.startswith(OUT_OF_TIME):
        return report.check(what, False, value)
    return report.add(what, value, ratios(contenders) or "–")


def ratios(contenders):
    ours = contenders["ours"].rate()
    peers = {name: one.rate() for name, one in contenders.items() if name != "ours" and one.rate()}
    return "; ".join(f"{ours / rate:.2f} x {name}" for name, rate in peers.items()) if ours else ""


def add_memory(report, contenders):
    def shown(name, one):
        peak = f"{one.peak_mib():.0f} MiB" if one.peaks_mib else one.problem or "not seen by nvidia-smi"
        return f"{name} {peak}"

    what = "peak memory, {}, batch {}, {}".format(*LEAN)
    value = "; ".join(shown(name, one) for name, one in contenders.items())
    ours, eager = (contenders.get(name, Contender()).peak_mib() for name in ["ours", EAGER])
    report.add(what, value, f"{ours / eager:.2f} x {EAGER}" if ours and eager else "–")
