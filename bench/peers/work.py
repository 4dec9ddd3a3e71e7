"""The work that all peers of the input pipeline do: files, sizes, draws, the clock and the check.

From a file to f32 pixels, as `alexnet-mgpu bench pipeline` does it with the paper's recipe: the
shorter side to 256 (antialiased bilinear), the central 256 x 256, a random 227 x 227 crop of it, a
random reflection, the paper's colour noise (one shift an image, along fixed components), minus the
mean. Each peer reads the files that ours reads. Peers' batches are [N, 3, 227, 227] where that is
their habit, ours [N, 227, 227, 3]; where a peer's work differs otherwise, its program says how.
"""

import argparse
import io
import json
import mmap
import pathlib
import struct
import sys
import tarfile
import time

import numpy as np

FRAME, CROP = 256, 227
SLACK = FRAME - CROP
# As the program's defaults: the mean of ImageNet's training images, and the noise of section 4.1.
MEAN = np.array([127.30, 119.72, 104.91], np.float32)
COMPONENTS = np.array(
    [[-0.5635, -0.5762, -0.5920], [-0.7126, -0.0235, 0.7012], [0.4180, -0.8170, 0.3973]], np.float32
)
AMPLITUDES = 0.1 * np.array([121.78, 37.09, 19.72], np.float32)
# The shift of an image's colours is NOISE @ (three numbers from N(0, 1)).
NOISE = COMPONENTS.T * AMPLITUDES

# What --check puts in place of the random draws: the middle crop, no reflection, this noise.
CHECKED_CORNER = SLACK // 2
CHECKED_NORMALS = np.array([1.0, -0.5, 2.0], np.float32)
CHECKED_IMAGES = 32

WARMUP_BATCHES = 5


def parser(description, inputs):
    """The flags that all peers share."""
    flags = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--data", type=pathlib.Path, required=True, help="folder of the images")
    flags.add_argument(
        "--input",
        choices=inputs,
        default=inputs[0],
        help="jpeg: DATA/train/CLASS/*; jpeg256, u8: DATA/train-* as `alexnet-mgpu pack` writes it",
    )
    flags.add_argument("--threads", type=int, default=1)
    flags.add_argument("--seconds", type=float, default=10.0, help="how long to measure")
    flags.add_argument("--batch", type=int, default=128)
    flags.add_argument(
        "--check", action="store_true", help="compare pixels with torchvision's instead of timing"
    )
    flags.add_argument(
        "--dump", type=pathlib.Path, help="with --check: write the first image (.npy)"
    )
    return flags


def photographs(data):
    """The training images of a folder, sorted."""
    found = sorted(path for path in (data / "train").glob("*/*") if path.is_file())
    return found or sys.exit(f"no images in {data}/train/CLASS/")


def shards(data, ending):
    """The packed training files, sorted."""
    found = sorted(data.glob(f"train-*.{ending}"))
    return found or sys.exit(f"no train-*.{ending} in {data}; make them with: alexnet-mgpu pack")


def mapped(path):
    """A file as memory. Nobody writes to it, but some libraries want to be allowed to."""
    with open(path, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def packed_jpegs(data):
    """The JPEG files inside the shards, as views of mapped memory."""
    found = []
    for path in shards(data, "tar"):
        memory = mapped(path)
        with tarfile.open(path) as shard:
            for member in shard:
                if member.name.endswith(".jpg"):
                    found.append(memory[member.offset_data : member.offset_data + member.size])
    return found


def packed_pixels(data):
    """The images inside the shards, [256, 256, 3] each, as views of mapped memory."""
    found = []
    for path in shards(data, "safetensors"):
        memory = mapped(path)
        (header_bytes,) = struct.unpack("<Q", memory[:8])
        images = json.loads(bytes(memory[8 : 8 + header_bytes]))["images"]
        begin, end = (8 + header_bytes + offset for offset in images["data_offsets"])
        found += list(np.frombuffer(memory[begin:end], np.uint8).reshape(images["shape"]))
    return found


def shuffled(items, batch, seed=1):
    """Lists of `batch` items, for ever, each epoch in another order."""
    random = np.random.default_rng(seed)
    order = []
    while True:
        while len(order) < batch:
            order += random.permutation(len(items)).tolist()
        taken, order = order[:batch], order[batch:]
        yield [items[i] for i in taken]


def report_rate(args, batches):
    """Times batches, an iterator that holds each no longer than the next, and prints the result.

    The clock starts and stops at the arrival of a batch, so work done ahead cancels out.
    """
    for _ in range(WARMUP_BATCHES):
        next(batches)
    num_batches = 0
    begun = time.perf_counter()
    while (seconds := time.perf_counter() - begun) < args.seconds or not num_batches:
        next(batches)
        num_batches += 1
    num_images = num_batches * args.batch
    result = {"images_per_s": num_images / seconds, "images": num_images, "seconds": seconds}
    print(json.dumps(result | {"threads": args.threads}), flush=True)


def expected(args):
    """The checked images as torchvision and Pillow see them, in grey levels, without noise."""
    from PIL import Image
    from torchvision.transforms import functional

    if args.input == "u8":
        frames = packed_pixels(args.data)[:CHECKED_IMAGES]
    elif args.input == "jpeg256":
        files = packed_jpegs(args.data)[:CHECKED_IMAGES]
        frames = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
    else:
        paths = photographs(args.data)[:CHECKED_IMAGES]
        images = [Image.open(path).convert("RGB") for path in paths]
        frames = [
            functional.center_crop(functional.resize(image, FRAME), FRAME) for image in images
        ]
    cut = slice(CHECKED_CORNER, CHECKED_CORNER + CROP)
    return [np.asarray(frame)[cut, cut].astype(np.float32) for frame in frames]


def report_check(args, outputs, has_noise, tolerance):
    """Compares the first images, as the peer would deliver them, with torchvision's pixels.

    `outputs` are [227, 227, 3] or [3, 227, 227]; `tolerance` is in grey levels.
    """
    noise = NOISE @ CHECKED_NORMALS if has_noise else 0
    pixels = []
    for output in outputs:
        assert output.dtype == np.float32, output.dtype
        is_planar = output.shape[0] == 3
        pixels.append((output.transpose(1, 2, 0) if is_planar else output) + (MEAN - noise))
    wanted = expected(args)
    assert len(pixels) == len(wanted), f"{len(pixels)} images came, {len(wanted)} were wanted"
    if args.dump:
        np.save(args.dump, pixels[0])
    differences = [
        float(np.abs(have - want).mean()) for have, want in zip(pixels, wanted, strict=True)
    ]
    result = {
        "mean_abs_difference": sum(differences) / len(differences),
        "largest_of_an_image": max(differences),
        "tolerance": tolerance,
        "images": len(differences),
    }
    print(json.dumps(result), flush=True)
    if result["mean_abs_difference"] > tolerance:
        sys.exit("the pixels are not those of torchvision: this peer does other work")
