"""Times albumentations with OpenCV: a peer of `alexnet-mgpu bench pipeline`.

It does less work than ours: no colour noise (its own kind needs the eigenvectors of every image and
is far slower), and OpenCV's bilinear filter is not antialiased: it reads four pixels however much
an image shrinks, so its pixels differ from torchvision's by several grey levels. Batches are
[N, 227, 227, 3].
"""

import os
from concurrent.futures import ThreadPoolExecutor

# Otherwise its import asks the network for a newer version.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2
import numpy as np

import work

# In grey levels: no antialiasing where photographs are resized.
TOLERANCES = {"jpeg": 5.0, "jpeg256": 0.1}
DECODING = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def transform(args):
    """From a decoded image to normalised f32."""
    frame = []
    if args.input == "jpeg":
        shorter = A.SmallestMaxSize(work.FRAME, interpolation=cv2.INTER_LINEAR)
        frame = [shorter, A.CenterCrop(work.FRAME, work.FRAME)]
    crop = [A.RandomCrop(work.CROP, work.CROP), A.HorizontalFlip()]
    if args.check:
        low, high = work.CHECKED_CORNER, work.CHECKED_CORNER + work.CROP
        crop = [A.Crop(low, low, high, high)]
    end = [A.Normalize(work.MEAN / 255, np.full(3, 1 / 255))]
    return A.Compose([*frame, *crop, *end])


def items(args):
    """What is decoded: paths or JPEG files in memory."""
    return work.packed_jpegs(args.data) if args.input == "jpeg256" else work.photographs(args.data)


def loader(args):
    """A function from an item to its image, [227, 227, 3]."""
    apply = transform(args)
    is_packed = args.input == "jpeg256"

    def load(item):
        data = np.frombuffer(item, np.uint8) if is_packed else np.fromfile(item, np.uint8)
        return apply(image=cv2.imdecode(data, DECODING))["image"]

    return load


def batches(args, load):
    """Batches for ever, in memory that is kept."""
    batch = np.empty((args.batch, work.CROP, work.CROP, 3), np.float32)
    pool = ThreadPoolExecutor(args.threads)
    each = map if args.threads == 1 else pool.map
    for chosen in work.shuffled(items(args), args.batch):
        for i, image in enumerate(each(load, chosen)):
            batch[i] = image
        yield batch


def main():
    args = work.parser(__doc__, ["jpeg", "jpeg256"]).parse_args()
    cv2.setNumThreads(1)
    load = loader(args)
    if args.check:
        outputs = [load(item) for item in items(args)[: work.CHECKED_IMAGES]]
        tolerance = TOLERANCES[args.input]
        work.report_check(args, outputs, has_noise=False, tolerance=tolerance)
    else:
        work.report_rate(args, batches(args, load))


if __name__ == "__main__":
    main()
