#!/usr/bin/env python3
"""Writes tests/golden/reduced_paper.safetensors: what PyTorch computes for a small paper net.

The tests compare this program's losses and gradients with a second implementation that shares none
of its backward code: autograd, and every layer that the paper defines in its own way (LRN within a
column, the update rule) spelled out from the paper's formulas.

The reference is computed in float64 from float32 images and weights. Losses are stored as F64,
everything else as F32. The script fails unless a float32 run stays within 1e-5 of the reference, so
a correct float32 implementation can too. Running it again writes the same bytes.

Tensors: images [4,67,67,3] NHWC; labels [4] I64; losses [10], each before its update;
weights.NAME before training, grads.NAME of the first step, trained.NAME after the last update,
for conv1.weight ... fc8.bias (OIHW and OI). Metadata: the constants of the update rule.

Usage: golden.py [--out FILE]        (PyTorch 2.11 and numpy, CPU only)
"""

import argparse
import json
import pathlib
import struct
import sys

import numpy as np
import torch
import torch.nn.functional as F

SEED = 2012
NUM_IMAGES = 4
NUM_CLASSES = 10
IMAGE_SIDE = 67
NUM_UPDATES = 10
TOLERANCE = 1e-5

# Section 5 of the paper; Caffe's and cuda-convnet's rule for biases.
LEARNING_RATE = 1e-3
MOMENTUM = 0.9
WEIGHT_DECAY = 0.0005
BIAS_RATE_MULTIPLIER = 2.0

# Section 3.3 of the paper. alpha multiplies the plain sum over n channels, it is not divided by n.
LRN_K, LRN_N, LRN_ALPHA, LRN_BETA = 2.0, 5, 1e-4, 0.75
NUM_COLUMNS = 2

# name: (weight shape OIHW or OI, bias). Biases of 1 where the paper has them.
LAYERS = {
    "conv1": ((16, 3, 11, 11), 0.0),
    "conv2": ((32, 8, 5, 5), 1.0),
    "conv3": ((24, 32, 3, 3), 0.0),
    "conv4": ((24, 12, 3, 3), 1.0),
    "conv5": ((16, 12, 3, 3), 1.0),
    "fc6": ((32, 16), 1.0),
    "fc7": ((32, 32), 1.0),
    "fc8": ((10, 32), 0.0),
}


def make_inputs():
    """Images NHWC of mean-subtracted pixels, and one label each."""
    rng = np.random.Generator(np.random.PCG64(SEED))
    shape = (NUM_IMAGES, IMAGE_SIDE, IMAGE_SIDE, 3)
    images = rng.uniform(-120.0, 120.0, shape).astype(np.float32)
    labels = rng.permutation(NUM_CLASSES)[:NUM_IMAGES].astype(np.int64)
    return images, labels


def make_weights():
    """N(0, 2 / fan-in): a net this narrow still passes a signal. The last layer is 10x smaller."""
    rng = np.random.Generator(np.random.PCG64(SEED + 1))
    weights = {}
    for name, (shape, bias) in LAYERS.items():
        sigma = np.sqrt(2.0 / np.prod(shape[1:])) * (0.1 if name == "fc8" else 1.0)
        weights[f"{name}.weight"] = rng.normal(0.0, sigma, shape).astype(np.float32)
        weights[f"{name}.bias"] = np.full(shape[0], bias, np.float32)
    return weights


def lrn_column(x):
    """x / (k + alpha * sum over n channels of x^2)^beta, within one column [N,C,H,W]."""
    half = LRN_N // 2
    squares = F.pad(x * x, (0, 0, 0, 0, half, half))
    channels = x.shape[1]
    total = sum(squares[:, shift : shift + channels] for shift in range(LRN_N))
    return x / (LRN_K + LRN_ALPHA * total) ** LRN_BETA


def lrn(x):
    """Each column normalizes over its own channels, as on the paper's two GPUs."""
    return torch.cat([lrn_column(column) for column in x.chunk(NUM_COLUMNS, dim=1)], dim=1)


def forward(p, images):
    """Logits [N,10] of NHWC images: the layers of figure 2, narrower, without dropout."""

    def conv(name, x, **options):
        return F.relu(F.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], **options))

    def linear(name, x):
        return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    x = images.permute(0, 3, 1, 2)                                  # [N, 3, 67, 67]
    x = F.max_pool2d(lrn(conv("conv1", x, stride=4)), 3, 2)         # [N, 16, 7, 7]
    x = F.max_pool2d(lrn(conv("conv2", x, padding=2, groups=2)), 3, 2)  # [N, 32, 3, 3]
    x = conv("conv3", x, padding=1)                                 # both columns: no groups
    x = conv("conv4", x, padding=1, groups=2)
    x = F.max_pool2d(conv("conv5", x, padding=1, groups=2), 3, 2)   # [N, 16, 1, 1]
    x = x.flatten(1)
    x = F.relu(linear("fc6", x))
    x = F.relu(linear("fc7", x))
    return linear("fc8", x)


def update(p, velocity, grads):
    """Section 5: v <- 0.9 v - 0.0005 lr w - lr g; w <- w + v. Biases: twice the rate, no decay."""
    for name, w in p.items():
        is_bias = name.endswith(".bias")
        rate = LEARNING_RATE * (BIAS_RATE_MULTIPLIER if is_bias else 1.0)
        decay = 0.0 if is_bias else WEIGHT_DECAY
        velocity[name] = MOMENTUM * velocity[name] - decay * rate * w - rate * grads[name]
        p[name] = w + velocity[name]


def train(weights, images, labels, dtype):
    """The loss before each update, the first step's gradients and the final weights."""
    p = {name: torch.from_numpy(w).to(dtype) for name, w in weights.items()}
    velocity = {name: torch.zeros_like(w) for name, w in p.items()}
    x, y = torch.from_numpy(images).to(dtype), torch.from_numpy(labels)
    losses, first_grads = [], None
    for _ in range(NUM_UPDATES):
        leaves = {name: w.detach().requires_grad_() for name, w in p.items()}
        loss = F.cross_entropy(forward(leaves, x), y)
        grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))
        losses.append(loss.item())
        first_grads = first_grads or grads
        update(p, velocity, grads)
    return np.array(losses), {k: g.double().numpy() for k, g in first_grads.items()}, p


def check(losses, grads, losses32, grads32):
    """Stops unless the loss falls, every layer learns, and float32 reproduces it all."""
    loss_error = np.max(np.abs(losses32 - losses) / np.abs(losses))
    grad_errors = {k: np.abs(grads32[k] - g).max() / np.abs(g).max() for k, g in grads.items()}
    worst = max(grad_errors, key=grad_errors.get)
    print("losses:", " ".join(f"{loss:.6f}" for loss in losses))
    print(f"float32 against float64: losses differ by at most {loss_error:.1e} (relative),")
    print(f"  gradients by at most {grad_errors[worst]:.1e} of the largest element ({worst})")
    if losses[-1] > 0.7 * losses[0]:
        sys.exit("the loss does not fall clearly: choose another seed or learning rate")
    if max(loss_error, grad_errors[worst]) > TOLERANCE:
        sys.exit(f"float32 differs by more than {TOLERANCE}: choose another seed or learning rate")
    for name, grad in grads.items():
        if np.count_nonzero(grad) < grad.size // 4:
            sys.exit(f"most of {name}'s gradient is zero: a test against it would prove little")


def write_safetensors(path, tensors, metadata):
    """The format is a JSON header and raw data; written here so that the key order is fixed."""
    dtypes = {"float32": "F32", "float64": "F64", "int64": "I64", "uint8": "U8"}
    header, data, offset = {"__metadata__": metadata}, [], 0
    # Widest elements first keeps every tensor aligned.
    for name in sorted(tensors, key=lambda n: (-tensors[n].itemsize, n)):
        array = np.ascontiguousarray(tensors[name])
        offsets = [offset, offset + array.nbytes]
        dtype = dtypes[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": offsets}
        data.append(array.tobytes())
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join([struct.pack("<Q", len(text)), text, *data]))
    print(f"wrote {path} ({path.stat().st_size} bytes)")


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description="write the golden file of the reduced paper net")
    parser.add_argument(
        "--out", type=pathlib.Path, default=root / "tests/golden/reduced_paper.safetensors"
    )
    out = parser.parse_args().out
    torch.set_num_threads(1)  # a fixed summation order
    torch.use_deterministic_algorithms(True)

    images, labels = make_inputs()
    weights = make_weights()
    losses, grads, trained = train(weights, images, labels, torch.float64)
    losses32, grads32, _ = train(weights, images, labels, torch.float32)
    check(losses, grads, losses32, grads32)

    tensors = {"images": images, "labels": labels, "losses": losses}
    tensors |= {f"weights.{name}": w for name, w in weights.items()}
    tensors |= {f"grads.{name}": g.astype(np.float32) for name, g in grads.items()}
    tensors |= {f"trained.{name}": w.float().numpy() for name, w in trained.items()}
    metadata = {
        "torch": torch.__version__.split("+")[0],
        "learning_rate": str(LEARNING_RATE),
        "momentum": str(MOMENTUM),
        "weight_decay": str(WEIGHT_DECAY),
        "bias_rate_multiplier": str(BIAS_RATE_MULTIPLIER),
        "seed": str(SEED),
    }
    write_safetensors(out, tensors, metadata)


if __name__ == "__main__":
    main()
