"""How much memory of the GPU a training step takes, beside PyTorch's."""

from gpus import used_mib

from . import goals
from .goals import EAGER, LAST, Measured
from .machine import PEERS

CASE = ["--arch", "alexnet", "--batch", 128, "--precision", "fp32"]
STEPS = ["--steps", 20, "--warmup", 20, "--device", "cuda"]


def measure_memory(machine, report):
    what = "peak memory, alexnet, batch 128, fp32"
    if machine.rehearsal:
        return report.not_run(what, "no GPU")
    ours, mib = held(machine.our_server("gpu-check", "steps"), *CASE, *STEPS)
    if ours.problem:
        return report.unmeasured(what, ours)
    found, shown = {"ours": mib}, [f"ours {in_mib(mib)}"]
    for name in [EAGER, LAST] if machine.torch else []:
        flags = [*CASE, *STEPS, "--windows", 1, "--variant", name]
        done, found[name] = held(machine.peer_server(PEERS / "torch_step.py", "--serve"), *flags)
        shown.append(f"{name} {done.problem or in_mib(found[name])}")
        if done.problem:
            found[name] = None
    report.results["memory"] = found
    measured = []
    if mib:
        measured.append(Measured(mib, f"{mib:.0f} MiB", goals.MEMORY))
        if eager := found.get(EAGER):
            measured.append(Measured(mib / eager, f"{mib / eager:.2f} x {EAGER}", goals.MEMORY_OF_EAGER))
    return report.measured(what, "; ".join(shown), measured)


def in_mib(mib):
    return "not seen by nvidia-smi" if mib is None else f"{mib:.0f} MiB"


def held(server, *flags):
    """What a server answers to flags, and the memory of the GPU that it then holds: both sides' allocators keep
    what steps have needed, but not what libraries took to search."""
    before = used_mib()
    try:
        done = server.ask(*flags)
        after = used_mib()
    finally:
        server.end()
    return done, None if before is None or after is None else after - before
