"""Times one training step of AlexNet in PyTorch over several devices: the peer of `alexnet-mgpu bench step
--mode data-parallel`.

DistributedDataParallel as its documentation advises: one process a device, NCCL on GPUs and Gloo on CPUs,
gradients as views of the buckets, and `--wire bf16` by the bf16_compress_hook. The net, its arguments and
the last lines are those of torch_step.py; `--batch` is in images on all devices together, and every
device has as many.
"""

import argparse
import os
import statistics
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from torch_step import NUM_CLASSES, make_model, peak_memory_mib


def parse_arguments():
    parser = argparse.ArgumentParser(description="time one AlexNet training step under DDP")
    parser.add_argument("--arch", choices=["alexnet", "alexnet-owt"], default="alexnet")
    parser.add_argument("--batch", type=int, default=64, help="images on all devices together")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
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
    if args.batch % args.gpus:
        parser.error(f"--batch {args.batch} does not divide among {args.gpus} devices")
    return args


def halves_gradients(args):
    """Whether gradients, which autocast leaves in fp32, are to travel in bf16: where ours do."""
    return args.wire == "bf16" or (args.wire == "computed" and args.precision == "bf16")


def make_step(args, device):
    """A closure that runs one training step on this process's share of the batch."""
    model, side = make_model(args.arch)
    layout = torch.contiguous_format if args.variant == "eager" else torch.channels_last
    model = model.to(device, memory_format=layout).train()
    model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    if halves_gradients(args):
        model.register_comm_hook(None, bf16_compress_hook)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    share = args.batch // args.gpus
    images = torch.randn(share, 3, side, side, device=device).contiguous(memory_format=layout)
    labels = torch.randint(0, NUM_CLASSES, (share,), device=device)

    def loss_of(x, y):
        with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
            return F.cross_entropy(model(x), y)

    if args.variant == "compile":
        loss_of = torch.compile(loss_of)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss_of(images, labels).backward()
        optimizer.step()

    return step


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
    torch.backends.cudnn.benchmark = True
    device = torch.device(args.device, rank) if args.device == "cuda" else torch.device("cpu")
    if args.device == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if args.device == "cuda" else "gloo"
    dist.init_process_group(backend, f"file://{store}", rank=rank, world_size=args.gpus)
    try:
        step = make_step(args, device)
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
