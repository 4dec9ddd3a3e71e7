#!/usr/bin/env python3
"""Times the ways to compute the convolutions of the paper's network by cuDNN: why `src/net/conv.rs` does what it does.

Needs a Python with torch and a GPU. Prints a table of microseconds, and of the MiB that cuDNN asks for, for maps in
channels-last memory:

  as it is     the convolution of the paper, grouped where it is grouped
  as one       conv2, conv4 and conv5 over all channels, as their groups are when filters have zeros between them
  one a group  a convolution for each group, as it is of maps that are stacked by groups
  folded       conv1 on squares of 4 x 4 pixels as 48 channels

"turned" is dx as a convolution of dy by the filters turned around. "off" is how far dw is from fp64 by libtorch's own
convolution, in the Euclidean norm.
"""

import argparse

import torch
import torch.nn.functional as F
from peers.torch_kernels import mean_us

# By layer: ways, each with input channels, side, filters, kernel, stride, padding, groups and how many there are.
LAYERS = {
    "conv1": {"as it is": (3, 227, 96, 11, 4, 0, 1, 1), "folded": (48, 57, 96, 3, 1, 0, 1, 1)},
    "conv2": {
        "as it is": (96, 27, 256, 5, 1, 2, 2, 1),
        "as one": (96, 27, 256, 5, 1, 2, 1, 1),
        "one a group": (48, 27, 128, 5, 1, 2, 1, 2),
    },
    "conv3": {"as it is": (256, 13, 384, 3, 1, 1, 1, 1)},
    "conv4": {
        "as it is": (384, 13, 384, 3, 1, 1, 2, 1),
        "as one": (384, 13, 384, 3, 1, 1, 1, 1),
        "one a group": (192, 13, 192, 3, 1, 1, 1, 2),
    },
    "conv5": {
        "as it is": (384, 13, 256, 3, 1, 1, 2, 1),
        "as one": (384, 13, 256, 3, 1, 1, 1, 1),
        "one a group": (192, 13, 128, 3, 1, 1, 1, 2),
    },
    # torchvision's, whose gradient in fp32 is far off.
    "owt conv2": {"as it is": (64, 27, 192, 5, 1, 2, 1, 1)},
}
COLUMNS = ["forward", "dx", "turned", "dw", "off", "bias", "db"]


def parse_arguments():
    parser = argparse.ArgumentParser(description="time convolutions by cuDNN")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--precision", choices=["bf16", "tf32", "fp32"], default="bf16")
    parser.add_argument("--steps", type=int, default=10, help="timed calls, behind three that are not")
    args = parser.parse_args()
    if min(args.batch, args.steps) < 1:
        parser.error("--batch and --steps have to be at least 1")
    return args


def time_us(work, steps):
    """Mean microseconds of a call, when cuDNN has searched."""
    mean_us(work, 3)
    return mean_us(work, steps)


def workspace_mib(work):
    """What a call takes of the GPU's memory besides its results."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = work()
    torch.cuda.synchronize()
    results = [found] if isinstance(found, torch.Tensor) else found
    own = sum(result.nbytes for result in results if result is not None)
    return (torch.cuda.max_memory_allocated() - before - own) / 2**20


def turned_around(w, groups):
    """The filters by which a convolution of the output's gradient gives the input's, if there is no stride."""
    filters, inputs, kernel, _ = w.shape
    of_groups = w.view(groups, filters // groups, inputs, kernel, kernel)
    return of_groups.transpose(1, 2).flip([3, 4]).reshape(groups * inputs, filters // groups, kernel, kernel)


def distance_from_fp64(dw, dy, x, w, rest):
    """Of the gradient of filters, from libtorch's own convolution in fp64."""
    with torch.backends.cudnn.flags(enabled=False):
        exact = torch.ops.aten.convolution_backward(dy.double(), x.double(), w.double(), *rest)[1]
    return ((dw.double() - exact).norm() / exact.norm()).item()


def passes(args, layer, way):
    """What each column shows, None where it makes no sense. The bias is what libtorch takes to add it in a pass of its
    own."""
    inputs, side, filters, kernel, stride, padding, groups, times = way
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32

    def noise(*size):
        x = torch.randn(size, device="cuda", dtype=dtype)
        return x.contiguous(memory_format=torch.channels_last)

    x, w = noise(args.batch, inputs, side, side), noise(filters, inputs // groups, kernel, kernel)
    b = torch.randn(filters, device="cuda", dtype=dtype)
    y = F.conv2d(x, w, b, stride, padding, 1, groups)
    dy = torch.randn_like(y)

    def forward(bias):
        return lambda: F.conv2d(x, w, bias, stride, padding, 1, groups)

    def rest(*mask):
        return [filters], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups, mask

    def backward(*mask):
        return lambda: torch.ops.aten.convolution_backward(dy, x, w, *rest(*mask))

    def turned():
        return F.conv2d(dy, around, None, 1, kernel - 1 - padding, 1, groups)

    def measured(work):
        return times * time_us(work, args.steps), workspace_mib(work)

    def shown(found):
        return None if found is None else "{:.0f} ({:.0f})".format(*found)

    around = turned_around(w, groups)
    has_dx = layer != "conv1"
    only_dw = (False, True, False)
    plain, dw = measured(forward(None)), measured(backward(*only_dw))
    return {
        "forward": shown(plain),
        "dx": shown(measured(backward(True, False, False)) if has_dx else None),
        "turned": shown(measured(turned) if has_dx else None),
        "dw": shown(dw),
        "off": f"{distance_from_fp64(backward(*only_dw)()[1], dy, x, w, rest(*only_dw)):.0e}",
        "bias": f"{measured(forward(b))[0] - plain[0]:.0f}",
        "db": f"{measured(backward(False, True, True))[0] - dw[0]:.0f}",
    }


def main():
    args = parse_arguments()
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = args.precision == "tf32"
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}, batch {args.batch}, {args.precision}\n")
    print("|", " | ".join(["layer", "way", *COLUMNS]), "|\n" + "|---" * (2 + len(COLUMNS)) + "|")
    for layer, ways in LAYERS.items():
        for name, way in ways.items():
            found = passes(args, layer, way)
            print("|", " | ".join([layer, name, *(found[column] or "–" for column in COLUMNS)]), "|", flush=True)


if __name__ == "__main__":
    main()
