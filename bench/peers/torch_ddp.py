"""Times one training step of AlexNet in PyTorch over several devices: the peer of `alexnet-mgpu bench step
--mode data-parallel`.

DistributedDataParallel as its documentation advises: one process a device, NCCL on GPUs and Gloo on CPUs,
gradients as views of the buckets, and `--wire bf16` by the bf16_compress_hook. The net, its arguments and
the last lines are those of torch_step.py; `--batch` is in images on all devices together, and every
device has as many.
"""

import argparse
import functools
import os
import statistics
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from torch_step import make_step, peak_memory_mib, set_up_libraries


def parse_arguments():
    parser = argparse.ArgumentParser(description="time one AlexNet training step under DDP")
    parser.add_argument("--arch", choices=["alexnet", "alexnet-owt"], default="alexnet")
    parser.add_argument("--batch", type=int, default=64, help="images on all devices together")
    parser.add_argument("--precision", choices=["fp32", "tf32", "bf16"], default="bf16")
    parser.add_argument("--wire", choices=["computed", "fp32", "bf16"], default="computed")
    parser.add_argument("--gpus", type=int, default=2, help="devices")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="on all devices together")
    parser.add_argument("--steps", type=int, default=4, help="steps in one timed window")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=3, help="untimed steps")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    variants = ["eager", "channels-last", "compile"]
    parser.add_argument("--variant", choices=variants, default="channels-last")
    args = parser.parse_args()
    if min(args.batch, args.gpus, args.threads, args.steps, args.windows) < 1:
        parser.error("--batch, --gpus, --threads, --steps and --windows have to be at least 1")
    if args.wire == "fp32" and args.precision == "bf16":
        parser.error(
            "--wire fp32 with --precision bf16 has no counterpart: alexnet-mgpu's gradients are bf16 "
            "then, and autocast's fp32; leave --wire out, or use --precision fp32"
        )
    if args.batch % args.gpus:
        parser.error(f"--batch {args.batch} does not divide among {args.gpus} devices")
    return args


def halves_gradients(args):
    """Whether gradients, which autocast leaves in fp32, are to travel in bf16: where ours do."""
    return args.wire == "bf16" or (args.wire == "computed" and args.precision == "bf16")


def replicate(args, model):
    """The model as a replica whose gradients are summed."""
    model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    if halves_gradients(args):
        model.register_comm_hook(None, bf16_compress_hook)
    return model


def time_window(args, step):
    """Images per second of all devices over `--steps` steps, which all have finished."""
    dist.barrier()
    start = time.perf_counter()
    for _ in range(args.steps):
        step()
    if args.device == "cuda":
        torch.cuda.synchronize()
    dist.barrier()
    return args.batch * args.steps / (time.perf_counter() - start)


def work(rank, args, store):
    """One device's process."""
    torch.set_num_threads(max(args.threads // args.gpus, 1))
    torch.manual_seed(1 + rank)
    set_up_libraries(args.precision)
    device = torch.device(args.device, rank) if args.device == "cuda" else torch.device("cpu")
    if args.device == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if args.device == "cuda" else "gloo"
    dist.init_process_group(backend, f"file://{store}", rank=rank, world_size=args.gpus)
    try:
        step = make_step(args, device, args.batch // args.gpus, functools.partial(replicate, args))
        for _ in range(args.warmup):
            step()
        rates = [time_window(args, step) for _ in range(args.windows)]
        if rank == 0:
            print(f"peak memory: {peak_memory_mib(args.device):.0f} MiB")
            print(f"{statistics.median(rates):.1f} img/s", flush=True)
    finally:
        dist.destroy_process_group()


def main():
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (args, os.path.join(folder, "rendezvous")), nprocs=args.gpus)


if __name__ == "__main__":
    main()
