"""Times DALI on the CPU: a peer of `alexnet-mgpu bench pipeline`.

  --graph region    decodes only the rectangle that the crop shows (the size is read from the header
                    first) and resizes it straight to 227 x 227: DALI's strongest graph
  --graph standard  decodes and resizes the whole image, then crops: the graph of DALI's examples.
                    It resizes more than ours, which leaves out what is not in the central square

  --lighting mean   the colour noise is part of the mean that is subtracted, and costs nothing
  --lighting step   the noise is added in a step of its own, as in the paper's text
  --lighting none   no noise: less work than ours

--dct fast takes the decoder's less exact transform; ours is the exact one. Crop, reflection, mean
and cast are one operator. Packed u8 images are handed over without a copy. Batches are
[N, 3, 227, 227] unless --layout HWC.
"""

import numpy as np
from nvidia.dali import fn, math, pipeline_def, types

import work

# In grey levels. The fast transform alone differs by 1.1.
TOLERANCES = {"exact": 0.5, "fast": 2.0}


def corner(args):
    """Top and left of the crop in the 256 x 256 frame, f32."""
    if args.check:
        return types.Constant(np.full(2, work.CHECKED_CORNER, np.float32), device="cpu")
    return math.floor(fn.random.uniform(range=[0, work.SLACK + 1], shape=[2]))


def noisy_mean(args):
    """The mean to subtract, with the image's noise inside, and the noise if it is to be added."""
    mean = work.MEAN.tolist()
    if args.lighting == "none":
        return mean, None
    fixed = np.array([work.CHECKED_NORMALS])
    drawn = fn.random.normal(shape=[1, 3])
    normals = types.Constant(fixed, device="cpu") if args.check else drawn
    if args.lighting == "step":
        noise = fn.coord_transform(normals, M=work.NOISE.ravel().tolist())
        return mean, fn.reshape(noise, shape=[3, 1, 1] if args.layout == "CHW" else [1, 1, 3])
    shifted = fn.coord_transform(normals, M=(-work.NOISE).ravel().tolist(), T=mean)
    return fn.reshape(shifted, shape=[3]), None


def finish(args, images, **crop):
    """Crop if asked to, reflection, noise, mean, f32."""
    mean, noise = noisy_mean(args)
    mirror = 0 if args.check else fn.random.coin_flip()
    images = fn.crop_mirror_normalize(
        images, mean=mean, std=[1.0], mirror=mirror, dtype=types.FLOAT,
        output_layout=args.layout, **crop,
    )  # fmt: skip
    return images if noise is None else images + noise


def frame(jpegs):
    """Of each JPEG, as [height, width]: its size, its scaled size, and the frame's corner therein.

    The shorter side becomes 256 and the longer one is rounded down; half a pixel of the corner goes
    to the even side: torchvision's Resize and CenterCrop.
    """
    size = fn.cast(fn.slice(fn.peek_image_shape(jpegs), 0, 2, axes=[0]), dtype=types.INT32)
    scaled = work.FRAME * size // fn.reductions.min(size)
    excess = scaled - work.FRAME
    return size, scaled, (excess + ((excess // 2) & 1)) // 2


def decode_options(args):
    return {"output_type": types.RGB, "use_fast_idct": args.dct == "fast"}


RESIZING = {"interp_type": types.INTERP_LINEAR, "antialias": True}


def region(args, jpegs):
    """The pixels of the crop, [227, 227, 3] u8, from no more of the JPEG than they need."""
    size, scaled, offset = frame(jpegs)
    size, scaled = fn.cast(size, dtype=types.FLOAT), fn.cast(scaled, dtype=types.FLOAT)
    step = size / scaled
    low = (offset + corner(args)) * step
    high = low + work.CROP * step
    reach = math.max(step, 1.0)  # of the filter, in pixels of the JPEG
    start = fn.cast(math.floor(math.max(low - reach, 0.0)), dtype=types.INT32)
    end = fn.cast(math.ceil(math.min(high + reach, size)), dtype=types.INT32)
    images = fn.decoders.image_slice(
        jpegs, start=start, end=end, axis_names="HW", **decode_options(args)
    )
    return fn.resize(
        images, size=[work.CROP, work.CROP], roi_start=low - start, roi_end=high - start, **RESIZING
    )


def crop_at(position):
    """The arguments of a crop whose corner, as a fraction of the way it can move, is [y, x]."""
    y, x = (fn.reshape(fn.slice(position, i, 1, axes=[0]), shape=[]) for i in range(2))
    return {"crop": (work.CROP, work.CROP), "crop_pos_y": y, "crop_pos_x": x}


def from_photographs(args, jpegs):
    if args.graph == "region":
        return finish(args, region(args, jpegs))
    _, scaled, offset = frame(jpegs)
    images = fn.decoders.image(jpegs, **decode_options(args))
    images = fn.resize(images, size=fn.cast(scaled, dtype=types.FLOAT), **RESIZING)
    return finish(args, images, **crop_at((offset + corner(args)) / (scaled - work.CROP)))


def from_frames(args, images):
    return finish(args, images, **crop_at(corner(args) / work.SLACK))


def from_packed_jpegs(args, jpegs):
    if args.graph == "standard":
        return from_frames(args, fn.decoders.image(jpegs, **decode_options(args)))
    start = fn.cast(corner(args), dtype=types.INT32)
    images = fn.decoders.image_slice(
        jpegs, start=start, shape=[work.CROP, work.CROP], axis_names="HW", **decode_options(args)
    )
    return finish(args, images)


def batches_of(args, items):
    """What external_source asks for: shuffled, or in order for the check."""
    if args.check:
        yield items[: args.batch]
    yield from work.shuffled(items, args.batch)


@pipeline_def
def pipeline(args):
    order = {"random_shuffle": not args.check, "name": "reader"}
    if args.input == "u8":
        items = work.packed_pixels(args.data)
        source = batches_of(args, items)
        return from_frames(args, fn.external_source(source=source, no_copy=True, layout="HWC"))
    if args.input == "jpeg256":
        paths = [str(path) for path in work.shards(args.data, "tar")]
        return from_packed_jpegs(args, fn.readers.webdataset(paths=paths, ext=["jpg"], **order))
    files = [str(path) for path in work.photographs(args.data)]
    labels = [0] * len(files)
    return from_photographs(args, fn.readers.file(files=files, labels=labels, **order)[0])


def batches(built):
    while True:
        yield built.run()


def main():
    parser = work.parser(__doc__, ["jpeg", "jpeg256", "u8"])
    parser.add_argument("--graph", choices=["region", "standard"], default="region")
    parser.add_argument("--lighting", choices=["mean", "step", "none"], default="mean")
    parser.add_argument("--dct", choices=["exact", "fast"], default="exact")
    parser.add_argument("--layout", choices=["CHW", "HWC"], default="CHW")
    args = parser.parse_args()
    if args.check:
        args.batch = work.CHECKED_IMAGES
    built = pipeline(args, batch_size=args.batch, num_threads=args.threads, device_id=None, seed=1)
    built.build()
    if args.check:
        outputs = [np.array(image) for image in built.run()[0]]
        has_noise = args.lighting != "none"
        work.report_check(args, outputs, has_noise, tolerance=TOLERANCES[args.dct])
    else:
        work.report_rate(args, batches(built))


if __name__ == "__main__":
    main()
