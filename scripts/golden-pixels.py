#!/usr/bin/env python3
"""Writes tests/golden/pixels.safetensors: what Pillow and torchvision make of a few JPEG files.

The test src/data/tests/golden_pixels.rs decodes the same files and holds its pixels against these.
The pictures are smooth noise with one hard edge, made here from a seed and encoded by Pillow in every
chroma subsampling that photographs come in, and grey.

For every picture NAME: NAME.jpg, the file; NAME.centre, Resize and CenterCrop; NAME.window, the frame
(Resize and the central square) cut at `window` and reflected; NAME.part.K, `resized_crop` of rectangle
K of NAME.parts (left, top, width, height). For the first picture also NAME.normalised, its centre after
Normalize, and NAME.ten, TenCrop of its frame. Pixels are U8 [.., side, side, 3], normalised ones F32.
Metadata: the sizes, mean and deviation as JSON, and the versions. Running it again writes the same bytes.

With --photographs DIR the pictures are the JPEG files in DIR, at the sizes of ImageNet: a file that
the same test reads if ALEXNET_GOLDEN_PIXELS names it (scripts/check-pixels).

Usage: golden-pixels.py [--out FILE] [--photographs DIR]   (Pillow 13.0, torchvision 0.26, numpy)
"""

import argparse
import io
import json
import pathlib

import numpy as np
import PIL
import torch
import torchvision
from golden import write_safetensors
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional as F

SEED = 2012
QUALITY = 90
# name: Pillow's mode and number of the subsampling
FORMATS = {"420": ("RGB", 2), "422": ("RGB", 1), "444": ("RGB", 0), "grey": ("L", 0)}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = {"resize": 64, "crop": 48, "window": [3, 11]}
LARGE = {"resize": 256, "crop": 224, "window": [7, 29]}
# left, top, width, height in a picture of 160 x 120: reduced, enlarged
PARTS = [(13, 9, 120, 95), (51, 40, 31, 27)]
SIZE = (160, 120)


def picture(rng, mode):
    """Noise of a few pixels' wavelength, brighter in one half."""
    noise = rng.uniform(0, 255, (SIZE[1] // 8, SIZE[0] // 8, 3)).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC)).astype(int)
    pixels[:, SIZE[0] // 3 :] += 60
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode)


def encode(image, subsampling):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY, subsampling=subsampling)
    return file.getvalue()


def generated():
    """(name, file, rectangles) of every picture."""
    rng = np.random.Generator(np.random.PCG64(SEED))
    for name, (mode, subsampling) in FORMATS.items():
        yield name, encode(picture(rng, mode), subsampling), PARTS


def random_part(width, height):
    """What RandomResizedCrop draws."""
    blank = Image.new("L", (width, height))
    top, left, h, w = transforms.RandomResizedCrop.get_params(blank, (0.08, 1.0), (3 / 4, 4 / 3))
    return left, top, w, h


def photographs(folder):
    torch.manual_seed(SEED)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (".jpg", ".jpeg"):
            file = path.read_bytes()
            size = Image.open(io.BytesIO(file)).size
            yield path.stem, file, [random_part(*size) for _ in range(2)]


def pixels(image):
    return np.asarray(image, np.uint8)


def expected(name, file, parts, sizes):
    """Everything that is compared of one picture."""
    resize, crop, (left, top) = sizes["resize"], sizes["crop"], sizes["window"]
    image = Image.open(io.BytesIO(file)).convert("RGB")
    resized = transforms.Resize(resize)(image)
    frame = F.center_crop(resized, [resize, resize])
    window = F.hflip(F.crop(frame, top, left, crop, crop))
    tensors = {
        f"{name}.jpg": np.frombuffer(file, np.uint8),
        f"{name}.parts": np.array(parts, np.int64),
        f"{name}.centre": pixels(F.center_crop(resized, [crop, crop])),
        f"{name}.window": pixels(window),
    }
    for k, (left, top, width, height) in enumerate(parts):
        part = F.resized_crop(image, top, left, height, width, [crop, crop])
        tensors[f"{name}.part.{k}"] = pixels(part)
    return tensors, frame


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description="write Pillow's and torchvision's pixels")
    parser.add_argument("--out", type=pathlib.Path, default=root / "tests/golden/pixels.safetensors")
    parser.add_argument("--photographs", type=pathlib.Path, metavar="DIR")
    args = parser.parse_args()

    sizes = LARGE if args.photographs else SMALL
    pictures = photographs(args.photographs) if args.photographs else generated()
    tensors, names = {}, []
    for name, file, parts in pictures:
        more, frame = expected(name, file, parts, sizes)
        if not names:
            centre = F.to_tensor(more[f"{name}.centre"].copy())
            normalised = F.normalize(centre, MEAN, STD).permute(1, 2, 0).numpy()
            more[f"{name}.normalised"] = normalised
            ten = [pixels(view) for view in transforms.TenCrop(sizes["crop"])(frame)]
            more[f"{name}.ten"] = np.stack(ten)
        names.append(name)
        tensors |= more
    settings = {"names": names, "mean": MEAN, "std": STD, **sizes}
    versions = {"Pillow": PIL.__version__, "torchvision": torchvision.__version__.split("+")[0]}
    write_safetensors(args.out, tensors, {"settings": json.dumps(settings), **versions})


if __name__ == "__main__":
    main()
