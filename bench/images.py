"""The images of the pipeline benchmark in the three forms of --input, made from any photographs.

Few photographs are repeated, as copies: what is measured comes from the page cache, and should be
more than a processor's own caches hold.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tarfile

import turns

ENDINGS = {".jpeg", ".jpg"}
# Every 20th photograph is also a validation image, so that the folder is a whole image set.
VALIDATION_STEP = 20
# How each packed form is called by `alexnet-mgpu pack`.
PACKED = {"jpeg256": "jpeg", "u8": "u8"}


def is_photograph(name):
    return pathlib.PurePath(name).suffix.lower() in ENDINGS


def class_of(name):
    """`n01440764` of `n01440764/x.JPEG` and of `n01440764_tench.JPEG`."""
    path = pathlib.PurePath(name)
    return path.parent.name or path.stem.split("_")[0]


def spread(items, num):
    """`num` of the items, evenly spaced; all of them again and again where there are fewer."""
    if len(items) >= num:
        return [items[i * len(items) // num] for i in range(num)]
    return [items[i % len(items)] for i in range(num)]


def in_folder(folder):
    """Names and readers of a folder's photographs, those of train/ if it has one."""
    root = folder / "train" if (folder / "train").is_dir() else folder
    paths = sorted(path for path in root.rglob("*") if is_photograph(path.name))
    return [(str(path.relative_to(root)), path.read_bytes) for path in paths]


def in_tar(path):
    """The same of a tar file's."""
    tar = tarfile.open(path)
    members = [member for member in tar if member.isfile() and is_photograph(member.name)]
    return [(member.name, lambda m=member: tar.extractfile(m).read()) for member in members]


def write_photographs(source, folder, num_images):
    """`folder/train/CLASS/*.jpg` and `folder/val/CLASS/*.jpg`."""
    found = in_folder(source) if source.is_dir() else in_tar(source)
    if not found:
        sys.exit(f"{turns.TOOL}: no .jpg or .jpeg in {source}; give photographs with --images")
    for i, (name, read) in enumerate(spread(found, num_images)):
        splits = ["train", "val"] if i % VALIDATION_STEP == 0 else ["train"]
        for split in splits:
            path = folder / split / class_of(name) / f"{i:06}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(read())


def pack(photographs, folder, name):
    """Packs photographs with our program."""
    words = [turns.OURS, "pack", photographs, folder, "--format", PACKED[name]]
    subprocess.run([str(word) for word in words], check=True)


def is_made_from(path, stamp):
    """Whether what the file beside `path` says it was made from is `stamp`."""
    try:
        return path.exists() and json.loads(stamp_of(path).read_text()) == stamp
    except (OSError, ValueError):
        return False


def stamp_of(path):
    return path.with_name(f"{path.name}.json")


def prepare(source, work, num_images, inputs):
    """The folder of each form in `inputs`; forms that `work` has of the same photographs are kept."""

    def made(name, make):
        path, unfinished = work / name, work / f"{name}.unfinished"
        stamp = {"source": str(source.resolve()), "num_images": num_images, "form": name}
        if is_made_from(path, stamp):
            return path
        other = " anew: it is of other photographs, or of another number" if path.exists() else ""
        print(f"making {path}{other}", flush=True)
        stamp_of(path).unlink(missing_ok=True)
        for folder in (path, unfinished):
            shutil.rmtree(folder, ignore_errors=True)
        make(unfinished)
        unfinished.rename(path)
        # Last, so that what has a stamp is whole.
        stamp_of(path).write_text(json.dumps(stamp) + "\n")
        return path

    photographs = made("jpeg", lambda to: write_photographs(source, to, num_images))
    folders = {"jpeg": photographs}
    for name in sorted(set(inputs) & set(PACKED)):
        folders[name] = made(name, lambda to, name=name: pack(photographs, to, name))
    return folders
