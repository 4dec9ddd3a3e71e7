"""How fast single kernels are, beside the same work in PyTorch's operations."""

from . import goals
from .goals import Measured
from .machine import PEERS


def measure_kernels(machine, report):
    if machine.rehearsal:
        return report.not_run("speed of kernels", "no GPU")
    done = machine.ours("gpu-check", "speed")
    ours = done.last_json()
    if done.problem or ours is None:
        return report.unmeasured("speed of kernels", done)
    report.add("copy on the device", f"{ours['copy_gb_s']:.0f} GB/s")
    peers = peer_rows(machine, report)
    report.results["kernel_speed"] = {"ours": ours, "peers": peers}
    for row in ours["kernels"]:
        add_row(report, row, [peer for peer in peers if peer["kernel"] == row["kernel"]])
    return None


def peer_rows(machine, report):
    """What PyTorch takes for each kernel, in each of its ways; why not, in a row of its own."""
    what = "speed of PyTorch's kernels"
    if not machine.torch:
        report.not_run(what, "no Python with torch; name one with --python")
        return []
    done = machine.peer(PEERS / "torch_kernels.py")
    found = done.every_json()
    if done.problem or not found:
        report.add(what, done.problem or f"unreadable: {done.last_line()}")
    return [row for part in found for row in part["kernels"]]


def add_row(report, row, peers):
    name, share = row["kernel"], row["share_of_copy"]
    value = f"{row['us']:.1f} us, {row['gb_s']:.0f} GB/s"
    measured = [Measured(share, f"{share:.2f} x copy", goals.of_kernel(name))]
    for peer in peers:
        if peer.get("us"):
            variant, lead = peer["variant"], peer["us"] / row["us"]
            value += f"; {variant} {peer['us']:.1f} us"
            goal = goals.of_kernel(name, variant)
            measured.append(Measured(lead, f"{lead:.2f} x {variant}", goal))
        else:
            value += f"; {peer['variant']} failed: {peer['problem']}"
    report.measured(name, value, measured)
