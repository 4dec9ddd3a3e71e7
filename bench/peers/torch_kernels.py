"""Times what our CUDA kernels do, in PyTorch's operations: the peer of `alexnet-mgpu gpu-check speed`.

The same shapes and names. Eager, the maps in bf16 also under torch.compile; the optimizer as foreach and as fused.
Backward passes are timed alone, on a graph that is kept. Prints one line of JSON.
"""

import argparse
import json

import torch
import torch._functorch.config
import torch.nn.functional as F

# Compiled backward passes may otherwise use up the graph that is kept for the next call.
torch._functorch.config.donated_buffer = False

ITERATIONS = 200

# The paper's parameters.
SHAPES = [
    (96, 3, 11, 11), (96,), (256, 48, 5, 5), (256,), (384, 256, 3, 3), (384,), (384, 192, 3, 3), (384,),
    (256, 192, 3, 3), (256,), (4096, 9216), (4096,), (4096, 4096), (4096,), (1000, 4096), (1000,),
]  # fmt: skip


def time_us(work, iterations):
    """Mean microseconds of one call, by the device's own clock."""
    for _ in range(max(1, iterations // 4)):
        work()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(iterations):
        work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e3 / iterations


def relu_lrn_pool(x):
    x = F.local_response_norm(F.relu(x), size=5, alpha=5 * 1e-4, beta=0.75, k=2.0)
    return F.max_pool2d(x, 3, 2)


def relu_pool(x):
    return F.max_pool2d(F.relu(x), 3, 2)


def compiled(function):
    return torch.compile(function, dynamic=False)


def both_passes(name, function, x, *arguments):
    """Yields (name, forward) and (name, backward) of a function of x."""
    x = x.detach().requires_grad_()
    y = function(x, *arguments)
    dy = torch.ones_like(y)
    yield f"{name} forward", lambda: function(x, *arguments)
    yield f"{name} backward", lambda: torch.autograd.grad(y, x, dy, retain_graph=True)


def maps(batch, dtype, element, prepare=lambda function: function):
    """The layers of feature maps, channels last."""
    layers = [
        ("relu1+norm1+pool1", relu_lrn_pool, 55, 96),
        ("relu2+norm2+pool2", relu_lrn_pool, 27, 256),
        ("relu5+pool5", relu_pool, 13, 256),
    ]
    for name, function, side, channels in layers:
        x = torch.randn(batch, channels, side, side, device="cuda", dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        yield from both_passes(f"{name} {element}", prepare(function), x)


def vectors(batch, dtype, element):
    """Dropout, and cross-entropy with its gradient."""
    x = torch.randn(batch, 4096, device="cuda", dtype=dtype)
    yield f"dropout6 {element}", lambda: F.dropout(x, 0.5)
    logits = torch.randn(batch, 1000, device="cuda", dtype=dtype, requires_grad=True)
    labels = torch.randint(0, 1000, (batch,), device="cuda")

    def cross_entropy():
        return torch.autograd.grad(F.cross_entropy(logits, labels), logits)

    yield f"cross-entropy {element}", cross_entropy


def finish(batch, dtype, element):
    """Crop, flip, cast and normalise of bytes on the device, by torchvision."""
    try:
        from torchvision.transforms import v2
    except ImportError:
        return
    pixels = torch.randint(0, 256, (batch, 3, 256, 256), device="cuda", dtype=torch.uint8)
    steps = v2.Compose([
        v2.RandomCrop(227), v2.RandomHorizontalFlip(), v2.ToDtype(dtype),
        v2.Normalize([124.0, 116.0, 104.0], [58.0, 57.0, 57.0]),
    ])  # fmt: skip
    yield f"finish {element}", lambda: steps(pixels)


def momentum(element, variant):
    """SGD with momentum and weight decay over the paper's parameters in fp32."""
    weights = [torch.randn(shape, device="cuda", requires_grad=True) for shape in SHAPES]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    how = {"fused": True} if variant == "fused" else {"foreach": True}
    optimizer = torch.optim.SGD(weights, lr=1e-6, momentum=0.9, weight_decay=5e-4, **how)
    yield f"momentum {element}", optimizer.step


def parts(batch):
    """Every (variant, name, work)."""
    for element, dtype in [("bf16", torch.bfloat16), ("f32", torch.float32)]:
        for part in [maps, vectors, finish]:
            for name, work in part(batch, dtype, element):
                yield "eager", name, work
    # Compiling takes long: only what a compiler can fuse, in the precision that is used.
    for name, work in maps(batch, torch.bfloat16, "bf16", compiled):
        yield "compile", name, work
    for variant in ["foreach", "fused"]:
        for name, work in momentum("f32", variant):
            yield variant, name, work


def main():
    parser = argparse.ArgumentParser(description="time our kernels' work in PyTorch")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    args = parser.parse_args()
    rows = [
        {"kernel": name, "variant": variant, "us": time_us(work, args.iterations)}
        for variant, name, work in parts(args.batch)
    ]
    print(json.dumps({"torch": torch.__version__, "batch": args.batch, "kernels": rows}))


if __name__ == "__main__":
    main()
