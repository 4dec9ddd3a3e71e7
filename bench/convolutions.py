#!/usr/bin/env python3
"""Times the ways to compute the convolutions of the paper's network by cuDNN: why `src/net/conv.rs` does what it does.

Needs a Python with torch and a GPU. Prints a table of microseconds, for maps in channels-last memory:

  as it is     the convolution of the paper, grouped where it is grouped
  as one       conv2, conv4 and conv5 over all channels, as their groups are when filters have zeros between them
  one a group  a convolution for each group, were its channels a map of their own; copies are not counted
  folded       conv1 on squares of 4 x 4 pixels as 48 channels
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
}


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


def passes(args, layer, way):
    """Microseconds of the forward pass and of the gradients of the input, the weights and the bias; of the bias
    itself, which libtorch adds in a pass of its own."""
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
        return times * time_us(lambda: F.conv2d(x, w, bias, stride, padding, 1, groups), args.steps)

    def backward(*mask):
        rest = ([filters], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups, mask)
        return times * time_us(lambda: torch.ops.aten.convolution_backward(dy, x, w, *rest), args.steps)

    dw, plain = backward(False, True, False), forward(None)
    return {
        "forward": plain,
        "dx": None if layer == "conv1" else backward(True, False, False),
        "dw": dw,
        "bias": forward(b) - plain,
        "db": backward(False, True, True) - dw,
    }


def main():
    args = parse_arguments()
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = args.precision == "tf32"
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}, batch {args.batch}, {args.precision}\n")
    print("| layer | way | forward | dx | dw | bias | db |\n|---|---|---|---|---|---|---|")
    for layer, ways in LAYERS.items():
        for name, way in ways.items():
            times = passes(args, layer, way).values()
            shown = ["–" if time is None else f"{time:.0f}" for time in times]
            print("|", " | ".join([layer, name, *shown]), "|", flush=True)


if __name__ == "__main__":
    main()
