"""Times one training step of AlexNet in PyTorch: the peer of `alexnet-mgpu bench step`.

Written as a PyTorch user would: nn.Module, autograd, autocast, torch.optim.SGD. Images are random
and already on the device, so only forward, backward and update are timed. One variant a run,
because peak memory belongs to a process. Where bf16 is asked for, images are bf16: ours are.

  eager          contiguous (NCHW) tensors
  channels-last  model and images in channels_last
  compile        channels-last under torch.compile (compiled before the clock starts)
  max-autotune   the same, in the mode that searches for the fastest kernels and records CUDA graphs

On a GPU all but eager update by the fused SGD.

Last lines: `peak memory: X MiB`, then `X img/s`, the median of the timed windows. With --serve each line of
standard input holds flags of one more run and is answered by `X img/s` or `failed: WHY`; a model stays until a
line is about another one.
"""

import argparse
import gc
import resource
import statistics
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

NUM_CLASSES = 1000


class LocalResponseNorm(nn.Module):
    """Section 3.3 of the paper: alpha multiplies the sum, PyTorch's the mean of n channels."""

    def forward(self, x):
        y = F.local_response_norm(x, size=5, alpha=5 * 1e-4, beta=0.75, k=2.0)
        # Autocast takes the power in fp32; a compiler writes bf16 all the same, at no cost.
        return y.to(x.dtype) if torch.compiler.is_compiling() else y


def paper_alexnet():
    """The paper's net for 227x227 images; LRN over all channels, as torch offers it."""

    def conv(inputs, filters, kernel, **options):
        return [nn.Conv2d(inputs, filters, kernel, **options), nn.ReLU(inplace=True)]

    def pool():
        return nn.MaxPool2d(3, 2)

    return nn.Sequential(
        *conv(3, 96, 11, stride=4), LocalResponseNorm(), pool(),
        *conv(96, 256, 5, padding=2, groups=2), LocalResponseNorm(), pool(),
        *conv(256, 384, 3, padding=1),
        *conv(384, 384, 3, padding=1, groups=2),
        *conv(384, 256, 3, padding=1, groups=2), pool(),
        nn.Flatten(),
        nn.Linear(256 * 6 * 6, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.Linear(4096, NUM_CLASSES),
    )  # fmt: skip


def make_model(arch):
    """The model and the side of the images it takes."""
    if arch == "alexnet":
        return paper_alexnet(), 227
    from torchvision.models import alexnet

    return alexnet(weights=None), 224


def parse_arguments(words=None):
    parser = argparse.ArgumentParser(description="time one AlexNet training step in PyTorch")
    parser.add_argument("--arch", choices=["alexnet", "alexnet-owt"], default="alexnet")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", choices=["fp32", "tf32", "bf16"], default="bf16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=4, help="steps in one timed window")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=3, help="untimed steps")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    variants = ["eager", "channels-last", "compile", "max-autotune"]
    parser.add_argument("--variant", choices=variants, default="channels-last")
    parser.add_argument("--serve", action="store_true", help="take runs from standard input")
    args = parser.parse_args(words)
    if min(args.batch, args.threads, args.steps, args.windows) < 1:
        parser.error("--batch, --threads, --steps and --windows have to be at least 1")
    return args


def set_up_libraries(precision):
    """Searches the fastest convolutions, and takes tf32 only where it is asked for.

    PyTorch's default is tf32 in convolutions and not in matrix products: here it is the same in both.
    """
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"


def make_step(args, device, num_images, wrap=lambda model: model):
    """A closure that runs one training step on `num_images` and returns the loss tensor."""
    model, side = make_model(args.arch)
    layout = torch.contiguous_format if args.variant == "eager" else torch.channels_last
    model = wrap(model.to(device, memory_format=layout).train())
    # Elsewhere, and in eager, torch chooses.
    fused = True if args.device == "cuda" and args.variant != "eager" else None
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=fused
    )
    images = torch.randn(num_images, 3, side, side, device=device)
    images = images.contiguous(memory_format=layout)
    if args.precision == "bf16":
        images = images.bfloat16()
    labels = torch.randint(0, NUM_CLASSES, (num_images,), device=device)

    def loss_of(x, y):
        with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
            return F.cross_entropy(model(x), y)

    if args.variant in ["compile", "max-autotune"]:
        mode = args.variant if args.variant == "max-autotune" else "default"
        loss_of = torch.compile(loss_of, mode=mode)
        # CUDA graphs would copy the batch to memory of their own in each step.
        torch._dynamo.mark_static_address(images)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(images, labels)
        loss.backward()
        optimizer.step()
        return loss

    return step


def device_clock(device):
    """A function that returns the seconds since now, by the device's clock on a GPU."""
    if device == "cpu":
        begun = time.perf_counter()
        return lambda: time.perf_counter() - begun
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()

    def seconds():
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    return seconds


def time_window(args, step):
    """Images per second over `--steps` steps."""
    seconds = device_clock(args.device)
    for _ in range(args.steps):
        step()
    return args.batch * args.steps / seconds()


def peak_memory_mib(device):
    """Device memory on a GPU, resident memory of the process on a CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def prepare(args):
    """A step, with libraries and random numbers set up for it."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    set_up_libraries(args.precision)
    return make_step(args, args.device, args.batch)


def time_windows(args, step):
    """Images per second of each window, after the warm-up."""
    for _ in range(args.warmup):
        step()
    rates = [time_window(args, step) for _ in range(args.windows)]
    loss = step().item()
    assert loss == loss, "the loss is not a number"
    return rates


def give_back_memory():
    """What nobody holds any more goes back to the GPU, which others use too."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def serve():
    """Answers the lines of standard input."""
    known, step = None, None
    for line in sys.stdin:
        try:
            args = parse_arguments(line.split())
            about = [args.arch, args.batch, args.precision, args.threads, args.device, args.variant]
            if about != known:
                known = step = None
                give_back_memory()
                known, step = about, prepare(args)
            answer = f"{statistics.median(time_windows(args, step)):.1f} img/s"
        except (Exception, SystemExit) as error:
            known = step = None
            said = " ".join(str(error).split())
            answer = f"failed: {type(error).__name__}: {said[:240]}"
        print(answer, flush=True)


def main():
    args = parse_arguments()
    if args.serve:
        return serve()
    rates = time_windows(args, prepare(args))
    print(f"torch {torch.__version__} {args.arch} {args.variant} batch {args.batch}", end=" ")
    print(f"{args.precision} {args.device} threads {args.threads}")
    print("windows:", " ".join(f"{rate:.1f}" for rate in rates), "img/s")
    print(f"peak memory: {peak_memory_mib(args.device):.0f} MiB")
    print(f"{statistics.median(rates):.1f} img/s")


if __name__ == "__main__":
    main()
