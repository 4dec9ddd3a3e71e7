"""Times what our CUDA kernels do, in PyTorch's operations: the peer of `alexnet-mgpu gpu-check speed`.

The same shapes and names. Eager, the maps in bf16 also under torch.compile; the optimizer as foreach and as fused;
the finish of pixels by torchvision. Backward passes are timed alone, on a graph that is kept. Prints a line of JSON
as each part is done; a row that could not be measured says why.
"""

import argparse
import json

import torch
import torch._functorch.config
import torch.nn.functional as F

# Compiled backward passes may otherwise use up the graph that is kept for the next call.
torch._functorch.config.donated_buffer = False

# Each piece of work is repeated for about this long, but not oftener than ours.
SECONDS = 0.25
MOST_ITERATIONS = 200

# The paper's parameters.
SHAPES = [
    (96, 3, 11, 11), (96,), (256, 48, 5, 5), (256,), (384, 256, 3, 3), (384,), (384, 192, 3, 3), (384,),
    (256, 192, 3, 3), (256,), (4096, 9216), (4096,), (4096, 4096), (4096,), (1000, 4096), (1000,),
]  # fmt: skip


def mean_us(work, iterations):
    """Mean microseconds of one call, by the device's own clock."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(iterations):
        work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e3 / iterations


def time_us(work):
    """The same, warm: a few calls compile and search, a few say how many to time."""
    for _ in range(3):
        work()
    iterations = int(SECONDS * 1e6 / mean_us(work, 3))
    return mean_us(work, min(max(iterations, 5), MOST_ITERATIONS))


def relu_lrn_pool(x):
    x = F.local_response_norm(F.relu(x), size=5, alpha=5 * 1e-4, beta=0.75, k=2.0)
    return F.max_pool2d(x, 3, 2)


def relu_pool(x):
    return F.max_pool2d(F.relu(x), 3, 2)


def compiled(function):
    return torch.compile(function, mode="max-autotune-no-cudagraphs", dynamic=False)


# What follows are pairs of names and of a function that makes as many pieces of work, on the device only then.


def both_passes(name, function, size, dtype):
    """The forward and the backward pass of a function of maps, channels last."""

    def make():
        x = torch.randn(size, device="cuda", dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        y = function(x)
        dy = torch.ones_like(y)
        return [lambda: function(x), lambda: torch.autograd.grad(y, x, dy, retain_graph=True)]

    return [f"{name} forward", f"{name} backward"], make


def maps(batch, dtype, element, prepare=lambda function: function):
    """The layers of feature maps."""
    layers = [
        ("relu1+norm1+pool1", relu_lrn_pool, 55, 96),
        ("relu2+norm2+pool2", relu_lrn_pool, 27, 256),
        ("relu5+pool5", relu_pool, 13, 256),
    ]
    for name, function, side, channels in layers:
        size = (batch, channels, side, side)
        yield both_passes(f"{name} {element}", prepare(function), size, dtype)


def dropout(batch, dtype, element):
    def make():
        x = torch.randn(batch, 4096, device="cuda", dtype=dtype)
        return [lambda: F.dropout(x, 0.5)]

    return [f"dropout6 {element}"], make


def cross_entropy(batch, dtype, element):
    """With its gradient."""

    def make():
        logits = torch.randn(batch, 1000, device="cuda", dtype=dtype, requires_grad=True)
        labels = torch.randint(0, 1000, (batch,), device="cuda")
        return [lambda: torch.autograd.grad(F.cross_entropy(logits, labels), logits)]

    return [f"cross-entropy {element}"], make


def finish(batch, dtype, element):
    """Crop, flip, cast and normalise of bytes on the device; one crop and one flip for the whole batch."""

    def make():
        from torchvision.transforms import v2

        pixels = torch.randint(0, 256, (batch, 3, 256, 256), device="cuda", dtype=torch.uint8)
        steps = v2.Compose([
            v2.RandomCrop(227), v2.RandomHorizontalFlip(), v2.ToDtype(dtype),
            v2.Normalize([124.0, 116.0, 104.0], [58.0, 57.0, 57.0]),
        ])  # fmt: skip
        return [lambda: steps(pixels)]

    return [f"finish {element}"], make


def momentum(element, variant):
    """SGD with momentum and weight decay over the paper's parameters in fp32."""

    def make():
        weights = [torch.randn(shape, device="cuda", requires_grad=True) for shape in SHAPES]
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer = torch.optim.SGD(
            weights, lr=1e-6, momentum=0.9, weight_decay=5e-4, **{variant: True}
        )
        return [optimizer.step]

    return [f"momentum {element}"], make


def parts(batch):
    """Every (variant, names, function that makes their work)."""
    for element, dtype in [("bf16", torch.bfloat16), ("f32", torch.float32)]:
        for names, make in maps(batch, dtype, element):
            yield "eager", names, make
        yield "eager", *dropout(batch, dtype, element)
        yield "eager", *cross_entropy(batch, dtype, element)
        yield "torchvision v2", *finish(batch, dtype, element)
    for variant in ["foreach", "fused"]:
        yield variant, *momentum("f32", variant)
    # Compiling takes long: only what a compiler can fuse, in the precision that is used.
    for names, make in maps(batch, torch.bfloat16, "bf16", compiled):
        yield "compile", names, make


def measured(variant, names, make):
    """A row for each name: the time, or what went wrong."""
    try:
        times = [{"us": time_us(work)} for work in make()]
    except Exception as error:  # Whatever it is, the other rows are still of use.
        said = str(error).strip().splitlines() or [""]
        times = [{"problem": f"{type(error).__name__}: {said[0]}"}] * len(names)
    return [{"kernel": name, "variant": variant, **time} for name, time in zip(names, times)]


def main():
    parser = argparse.ArgumentParser(description="time our kernels' work in PyTorch")
    parser.add_argument("--batch", type=int, default=512)
    args = parser.parse_args()
    for part in parts(args.batch):
        about = {"torch": torch.__version__, "batch": args.batch}
        print(json.dumps({**about, "kernels": measured(*part)}), flush=True)


if __name__ == "__main__":
    main()
