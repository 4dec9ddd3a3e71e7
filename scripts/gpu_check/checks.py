"""What has to hold: kernels and layers, collectives, modes."""

import re

# What ours says of an NCCL before 2.30, and where there is none.
NO_FAULT = ["cannot put several ranks on one GPU", "no libnccl.so"]
BACKENDS = ["in-process", "nccl"]
# Ranks of the checks; each waits twenty seconds for one that does not come.
COLLECTIVES = {"in-process": [4], "nccl": [1, 2, 4]}
MODES = {"in-process": [2, 4], "nccl": [1, 2, 4]}
# NCCL lets ranks share a GPU from 2.30 on, if its kernels leave room for each other.
SHARED = {"NCCL_MULTI_RANK_GPU_ENABLE": "1", "NCCL_MAX_CTAS": "2", "NCCL_NVLS_ENABLE": "0"}


def number(value):
    """A difference as a reader takes it in; JSON has null for one that is infinite or no number."""
    return "not a number" if value is None else f"{value:.1e}"


def check_kernels(machine, report):
    done = machine.ours("gpu-check", "kernels", "--device", machine.args.device)
    found = done.last_json()
    value = None
    if found and found.get("outcomes"):
        report.results["kernels"] = found
        num, failed = len(found["outcomes"]), found["failed"]
        worst = [f"{o['name']}: {number(o['difference'])} > {o['limit']:.0e}" for o in failed[:5]]
        value = "; ".join([f"{num - len(failed)} of {num} comparisons within limits", *worst])
    report.done("kernels, layers, optimizers against the CPU", done, value)


def obstacle(machine, backend):
    """Why a backend cannot be checked on this machine, if it cannot."""
    return "NCCL connects GPUs" if backend == "nccl" and machine.rehearsal else None


def ranks(number):
    return f"{number} rank{'s' if number > 1 else ''}"


def may_share(machine, num_ranks):
    """NCCL's switches where ranks are more than GPUs."""
    return SHARED if machine.num_gpus < num_ranks else {}


def report_ranks(report, what, done, value):
    """That NCCL refuses to share a GPU, or is not there, is no failure of ours."""
    if done.problem and any(words in done.output for words in NO_FAULT):
        return report.not_run(what, done.last_line())
    return report.done(what, done, value)


def check_collectives(machine, report):
    results = report.results["collectives"] = {}
    for backend in BACKENDS:
        for num_ranks in COLLECTIVES[backend]:
            what = f"collectives, {backend}, {ranks(num_ranks)}"
            if why := obstacle(machine, backend):
                report.not_run(what, why)
                continue
            flags = ["--ranks", num_ranks, "--backend", backend, "--device", machine.args.device]
            done = machine.ours("gpu-check", "collectives", *flags, **may_share(machine, num_ranks))
            results[what] = done.output
            num_kept = len(re.findall(r"^ok  ", done.output, re.MULTILINE))
            value = f"{num_kept} promises kept" if num_kept and not done.problem else None
            report_ranks(report, what, done, value)


def devices_of(machine, num_ranks):
    """A device for each rank; GPUs go round. Of one there is a number: its index would be one."""
    if machine.rehearsal or num_ranks == 1:
        return num_ranks
    return ",".join(str(rank % max(machine.num_gpus, 1)) for rank in range(num_ranks))


def check_modes(machine, report):
    arch, steps = ("alexnet-cifar", 2) if machine.rehearsal else ("alexnet", 10)
    results = report.results["verify"] = {}
    for backend in BACKENDS:
        for num_ranks in MODES[backend]:
            what = f"verify, {arch}, {backend}, {ranks(num_ranks)}"
            if why := obstacle(machine, backend):
                report.not_run(what, why)
                continue
            flags = ["--arch", arch, "--gpus", devices_of(machine, num_ranks), "--backend", backend]
            flags += ["--device", machine.args.device, "--steps", steps]
            done = machine.ours("verify", *flags, **may_share(machine, num_ranks))
            results[what] = done.output
            far = re.search(r"largest relative difference ([\d.einf+-]+)", done.output)
            value = f"largest difference {far.group(1)}" if far else None
            report_ranks(report, what, done, value)
