"""Times torchvision's transforms: a peer of `alexnet-mgpu bench pipeline`.

  v1  Pillow: Image.open, then transforms on Pillow images up to ToTensor
  v2  torchvision.io's JPEG decoder (libjpeg-turbo), then transforms.v2 on tensors

With one thread the images are made in the process itself, which is faster than a DataLoader with
one worker; with more, a DataLoader has as many workers. Both resize the whole image, ours only what
its crop shows. Batches are [N, 3, 227, 227].
"""

import io

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms as v1
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import functional, v2

import work

# In grey levels: v2 decodes with another build of libjpeg-turbo.
TOLERANCE = 0.1
EPOCH = 1 << 20
# ToTensor divides by 255.
MEAN = (work.MEAN / 255).tolist()
STD = [1 / 255] * 3


class Lighting:
    """The paper's colour noise, for tensors in 0 to 1."""

    def __init__(self, is_fixed):
        self.noise = torch.from_numpy(work.NOISE / 255)
        self.fixed = torch.from_numpy(work.CHECKED_NORMALS) if is_fixed else None

    def __call__(self, image):
        normals = torch.randn(3) if self.fixed is None else self.fixed
        return image.add_((self.noise @ normals).view(3, 1, 1))


def fixed_crop(image):
    return functional.crop(image, work.CHECKED_CORNER, work.CHECKED_CORNER, work.CROP, work.CROP)


def transform(args):
    """From a decoded image to a normalised tensor."""
    api = v1 if args.api == "v1" else v2
    to_float = [v1.ToTensor()] if args.api == "v1" else [v2.ToDtype(torch.float32, scale=True)]
    frame = [api.Resize(work.FRAME), api.CenterCrop(work.FRAME)] if args.input == "jpeg" else []
    crop = [api.RandomCrop(work.CROP), api.RandomHorizontalFlip()]
    crop = [fixed_crop] if args.check else crop
    end = [Lighting(args.check), api.Normalize(MEAN, STD, inplace=True)]
    return api.Compose([*frame, *crop, *to_float, *end])


class Images(Dataset):
    """Training images by number, ready for a network."""

    def __init__(self, args):
        self.args = args
        self.transform = transform(args)
        is_packed = args.input == "jpeg256"
        self.items = work.packed_jpegs(args.data) if is_packed else work.photographs(args.data)

    def __len__(self):
        return len(self.items)

    def decode(self, item):
        is_packed = self.args.input == "jpeg256"
        if self.args.api == "v1":
            return Image.open(io.BytesIO(item) if is_packed else item).convert("RGB")
        packed = torch.from_numpy(np.frombuffer(item, np.uint8)) if is_packed else None
        return decode_jpeg(packed if is_packed else read_file(str(item)), ImageReadMode.RGB)

    def __getitem__(self, i):
        return self.transform(self.decode(self.items[i]))


def batches(args, images):
    """Batches for ever."""
    if args.threads == 1:
        batch = torch.empty(args.batch, 3, work.CROP, work.CROP)
        for numbers in work.shuffled(range(len(images)), args.batch):
            yield torch.stack([images[i] for i in numbers], out=batch)
    # One long epoch, because workers idle between epochs.
    order = RandomSampler(images, num_samples=EPOCH)
    yield from DataLoader(images, args.batch, sampler=order, num_workers=args.threads)


def main():
    parser = work.parser(__doc__, ["jpeg", "jpeg256"])
    parser.add_argument("--api", choices=["v1", "v2"], default="v1")
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = Images(args)
    if args.check:
        outputs = [images[i].numpy() for i in range(min(work.CHECKED_IMAGES, len(images)))]
        work.report_check(args, outputs, has_noise=True, tolerance=TOLERANCE)
    else:
        work.report_rate(args, batches(args, images))


if __name__ == "__main__":
    main()
