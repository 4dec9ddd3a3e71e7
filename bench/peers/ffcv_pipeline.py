"""Times FFCV on packed 256 x 256 JPEGs: a peer of `alexnet-mgpu bench pipeline`.

FFCV reads its own kind of file: it is written here first, with the very bytes of the packed JPEGs
instead of FFCV's own encoding of their pixels. Decoder, reflection and NormalizeImage are FFCV's:

  --crop own   and so is the crop, of the centre; as all of FFCV's crops it resizes, to the size it has
  --crop made  a random crop made for it here, which resizes nothing and reflects in the same pass

It does less work than ours: no colour noise, its decoder takes the less exact transform, and its own
crop is not a random one. Batches are [N, 227, 227, 3].
"""

import os
import sys
import tempfile
import traceback
from dataclasses import replace

import numpy as np
from ffcv.fields import RGBImageField
from ffcv.fields.rgb_image import IMAGE_MODES, CenterCropRGBImageDecoder, SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation
from ffcv.transforms import NormalizeImage, RandomHorizontalFlip
from ffcv.writer import DatasetWriter

import work

# In grey levels: FFCV decodes with the fast transform.
TOLERANCE = 2.0
# One epoch of the loader, in images: its memory is allocated anew in each, so epochs are long.
EPOCH = 1 << 17


class StoredJpeg(RGBImageField):
    """An RGB image that is written as the JPEG file it came as."""

    def encode(self, destination, image, malloc):
        destination["mode"] = IMAGE_MODES["jpg"]
        destination["height"] = destination["width"] = work.FRAME
        destination["data_ptr"], storage = malloc(len(image))
        storage[:] = np.frombuffer(image, np.uint8)

    @staticmethod
    def from_binary(_):
        return StoredJpeg()


class Jpegs:
    """What FFCV's writer reads."""

    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        return (self.files[i],)


class CropAndFlip(Operation):
    """A crop of each image, mirrored or not: random ones, or the middle."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def generate_code(self):
        each = Compiler.get_iterator()
        side, slack, centre = work.CROP, work.SLACK, work.CHECKED_CORNER
        is_random = self.draw == "random"

        def crop_and_flip(images, out):
            for i in each(images.shape[0]):
                top, left = centre, centre
                if is_random:
                    top, left = np.random.randint(0, slack + 1), np.random.randint(0, slack + 1)
                window = images[i, top : top + side, left : left + side]
                if is_random and np.random.rand() < 0.5:
                    out[i] = window[:, ::-1]
                else:
                    out[i] = window
            return out[: images.shape[0]]

        crop_and_flip.is_parallel = True
        return crop_and_flip

    def declare_state_and_memory(self, previous_state):
        shape = (work.CROP, work.CROP, 3)
        state = replace(previous_state, shape=shape, jit_mode=True)
        return state, AllocationQuery(shape, previous_state.dtype)


def operations(args):
    if args.crop == "own":
        decoder = CenterCropRGBImageDecoder((work.CROP, work.CROP), work.CROP / work.FRAME)
        start = [decoder] if args.check else [decoder, RandomHorizontalFlip()]
    else:
        start = [SimpleRGBImageDecoder(), CropAndFlip("middle" if args.check else "random")]
    return [*start, NormalizeImage(work.MEAN, np.ones(3, np.float32), np.float32)]


def batches(loader):
    while True:
        for (images,) in loader:
            yield images


def run(args, path):
    files = work.packed_jpegs(args.data)
    writer = DatasetWriter(path, {"image": StoredJpeg()}, num_workers=1)
    writer.from_indexed_dataset(Jpegs(files))
    epochs = 1 if args.check else -(-EPOCH // len(files))
    loader = Loader(
        path,
        batch_size=min(work.CHECKED_IMAGES, len(files)) if args.check else args.batch,
        num_workers=args.threads,
        os_cache=True,
        order=OrderOption.SEQUENTIAL if args.check else OrderOption.RANDOM,
        indices=np.tile(np.arange(len(files), dtype=np.uint64), epochs),
        pipelines={"image": operations(args)},
        custom_fields={"image": StoredJpeg},
    )
    if args.check:
        outputs = list(next(batches(loader)))
        work.report_check(args, outputs, has_noise=False, tolerance=TOLERANCE)
    else:
        work.report_rate(args, batches(loader))


def main():
    parser = work.parser(__doc__, ["jpeg256"])
    parser.add_argument("--crop", choices=["own", "made"], default="own")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(args, f"{folder}/train.beton")


if __name__ == "__main__":
    status = 1
    try:
        main()
        status = 0
    except SystemExit as asked:
        print(asked, file=sys.stderr)
    except Exception:
        traceback.print_exc()
    # FFCV's threads do not end by themselves.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
