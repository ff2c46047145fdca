"""The data sets: Fashion-MNIST, MNIST, or any folder of images by class."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from service.errors import InferdError
from service.images import decode_pixels, open_picture
from service.manifest import ImagePreprocessing
from training.core.config import ConfigModel
from training.core.data import RemoteFile, fetch, sha256_of
from training.core.seeding import generator
from training.image_classification.augment import AugmentConfig, augment

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_MAX_PIXELS = 100_000_000

_SPLIT_SEED = 1

INPUT = "image"
"""The network's input, by the name it has in the graph."""


@dataclass(frozen=True)
class _Published:
    """A data set in the four files of MNIST: where it is, and the md5 of each file."""

    name: str
    licence: str
    home: str
    url: str
    md5: dict[str, str]
    labels: tuple[str, ...]


_PUBLISHED = {
    "fashion_mnist": _Published(
        name="Fashion-MNIST",
        licence="MIT",
        home="https://github.com/zalandoresearch/fashion-mnist",
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        md5={
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
        labels=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
    ),
    "mnist": _Published(
        name="MNIST",
        licence="CC BY-SA 3.0",
        home="http://yann.lecun.com/exdb/mnist/",
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        md5={
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        labels=tuple("0123456789"),
    ),
}


class DataConfig(ConfigModel):
    """Which images, and how they are split.

    Attributes:
        source: `fashion_mnist`, `mnist`, or `folder` for pictures in `path`/train/<class>/ (and `path`/test/<class>/;
            without one, `test_share` of each class is held out).
        validation: images of the training part that are held out to select by; below 1, a share of it.
        path: of the folder; the other fields say how its pictures become the network's input.
        name: what the manifest calls the folder's data.
        licence: of the folder's data.
    """

    source: Literal["fashion_mnist", "mnist", "folder"] = "fashion_mnist"
    validation: float = Field(default=5000, gt=0)
    path: str = ""
    name: str = "a folder of images"
    licence: str = "unknown"
    test_share: float = Field(default=0.2, gt=0, lt=1)
    width: int = 32
    height: int = 32
    channels: Literal[1, 3] = 3
    fit: Literal["stretch", "crop", "pad"] = "crop"
    background: int = 0
    invert: bool = False


@dataclass(frozen=True)
class Part:
    """Images as bytes (N, C, H, W), uint8, and their class numbers (N,), int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DataSet:
    """A data set split in three.

    Attributes:
        name: as the manifest names it.
        licence: of the data.
        url: where it is published, or a path.
        sha256: of its files, by name.
        labels: the class names, in the order of the class numbers.
        preprocessing: what makes such bytes of a picture, and the network's input of the bytes.
    """

    name: str
    licence: str
    url: str
    sha256: dict[str, str]
    labels: tuple[str, ...]
    train: Part
    validation: Part
    test: Part
    preprocessing: ImagePreprocessing

    def normalised(self, pixels: Tensor) -> Tensor:
        """Map bytes (N, C, H, W) to the network's float32 input."""
        mean = torch.tensor(self.preprocessing.mean, device=pixels.device)[None, :, None, None]
        std = torch.tensor(self.preprocessing.std, device=pixels.device)[None, :, None, None]
        return (pixels.float() / 255 - mean) / std


def load_data(config: DataConfig) -> DataSet:
    """Load the data set of `config`. What is held out is the same in every run, so that runs can be compared.

    Raises:
        ValueError: a file is not what it should be, or the folder has no pictures of two classes.
        OSError: a file can't be read or downloaded.
    """
    return _load_folder(config) if config.source == "folder" else _load_published(config)


def _load_published(config: DataConfig) -> DataSet:
    published = _PUBLISHED[config.source]
    paths = {
        name: fetch(RemoteFile(config.source, name, published.url + name, f"md5:{md5}"))
        for name, md5 in published.md5.items()
    }
    train, test = (
        Part(
            _read_idx(paths[f"{prefix}-images-idx3-ubyte.gz"])[:, None],
            _read_idx(paths[f"{prefix}-labels-idx1-ubyte.gz"]).long(),
        )
        for prefix in ("train", "t10k")
    )
    kept, held_out = _split(train, config.validation, generator(_SPLIT_SEED, "split"))
    return DataSet(
        name=published.name,
        licence=published.licence,
        url=published.home,
        sha256={name: sha256_of(path) for name, path in paths.items()},
        labels=published.labels,
        train=kept,
        validation=held_out,
        test=test,
        preprocessing=_preprocessing(kept, fit="pad"),
    )


def _load_folder(config: DataConfig) -> DataSet:
    root = Path(config.path).expanduser()
    labels = _classes(root / "train")
    if len(labels) < 2:
        raise ValueError(f"{root / 'train'} must hold one folder for each of two classes or more")
    # Decoding needs no mean and deviation yet: those are measured on what it gives.
    how = ImagePreprocessing(
        input=INPUT,
        width=config.width,
        height=config.height,
        channels=config.channels,
        fit=config.fit,
        background=config.background,
        invert=config.invert,
        mean=(0.0,) * config.channels,
        std=(1.0,) * config.channels,
    )
    train = _read_pictures(root / "train", labels, how)
    if (root / "test").is_dir():
        if _classes(root / "test") != labels:
            raise ValueError(f"{root / 'test'} must hold the same folders as {root / 'train'}: {', '.join(labels)}")
        test = _read_pictures(root / "test", labels, how)
    else:
        train, test = _split_each_class(train, config.test_share, generator(_SPLIT_SEED, "test"), labels)
    kept, held_out = _split(train, config.validation, generator(_SPLIT_SEED, "split"))
    return DataSet(
        name=config.name,
        licence=config.licence,
        url=str(root),
        sha256={"pixels": hashlib.sha256(train.pixels.numpy().tobytes() + test.pixels.numpy().tobytes()).hexdigest()},
        labels=labels,
        train=kept,
        validation=held_out,
        test=test,
        preprocessing=_preprocessing(kept, fit=config.fit, background=config.background, invert=config.invert),
    )


def _classes(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")))


def _read_pictures(root: Path, labels: tuple[str, ...], how: ImagePreprocessing) -> Part:
    """Decode every picture under `root`/<class>/ exactly as the server would."""
    pixels, numbers = [], []
    for number, label in enumerate(labels):
        paths = sorted(path for path in (root / label).iterdir() if path.suffix.lower() in _SUFFIXES)
        if not paths:
            raise ValueError(f"there are no pictures ({', '.join(_SUFFIXES)}) in {root / label}")
        for path in paths:
            try:
                picture = open_picture(path.read_bytes(), max_pixels=_MAX_PIXELS)
                pixels.append(torch.from_numpy(decode_pixels(picture, how).copy()))
            except InferdError as error:
                raise ValueError(f"{path}: {error}") from error
            numbers.append(number)
    return Part(torch.stack(pixels), torch.tensor(numbers))


def _split(part: Part, held_out: float, draw: torch.Generator) -> tuple[Part, Part]:
    """Part at random into what is kept and what is held out: a number of images or, below 1, a share of them."""
    count = int(held_out) if held_out >= 1 else max(1, round(held_out * len(part)))
    if count >= len(part):
        raise ValueError(f"{count} of {len(part)} images can't be held out")
    order = torch.randperm(len(part), generator=draw)
    chosen, kept = order[:count], order[count:]
    return Part(part.pixels[kept], part.labels[kept]), Part(part.pixels[chosen], part.labels[chosen])


def _split_each_class(part: Part, share: float, draw: torch.Generator, labels: tuple[str, ...]) -> tuple[Part, Part]:
    """Part every class at random into what is kept and what is held out, a picture at least."""
    chosen = torch.zeros(len(part), dtype=torch.bool)
    for number, label in enumerate(labels):
        members = (part.labels == number).nonzero().flatten()
        count = max(1, round(share * len(members)))
        if count >= len(members):
            raise ValueError(f"class {label!r} has {len(members)} pictures: too few to hold {count} out for the test")
        chosen[members[torch.randperm(len(members), generator=draw)[:count]]] = True
    return Part(part.pixels[~chosen], part.labels[~chosen]), Part(part.pixels[chosen], part.labels[chosen])


def _preprocessing(train: Part, **how: Any) -> ImagePreprocessing:
    """What the manifest will say, with the training part's mean and deviation rounded to what people like to read."""
    channels, height, width = train.pixels.shape[1:]
    values = train.pixels.transpose(0, 1).flatten(1).float() / 255
    return ImagePreprocessing(
        input=INPUT,
        width=width,
        height=height,
        channels=1 if channels == 1 else 3,
        mean=tuple(round(float(value), 4) for value in values.mean(1)),
        std=tuple(round(max(float(value), 1e-3), 4) for value in values.std(1)),
        **how,
    )


def _read_idx(path: Path) -> Tensor:
    """Read a file of the idx format: two zero bytes, the type (8 = uint8), the rank, the sizes, then the values."""
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is no idx file of bytes")
    rank = content[3]
    sizes = np.frombuffer(content, ">u4", rank, 4)
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(sizes).copy())


def training_batches(
    data: DataSet, size: int, config: AugmentConfig, *, seed: int, epoch: int, skip: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield an epoch's batches after the first `skip`: augmented, normalised images and class numbers.

    What is yielded is a function of (seed, epoch, step) alone, so a run resumed in the middle sees what it would have.
    """
    order = torch.randperm(len(data.train), generator=generator(seed, "order", epoch))
    if config.erase_epochs is not None and epoch >= config.erase_epochs:
        config = config.model_copy(update={"erase_probability": 0.0})
    for step in range(skip, len(data.train) // size):
        chosen = order[step * size : (step + 1) * size]
        images = data.normalised(data.train.pixels[chosen].to(device))
        yield augment(images, config, generator(seed, "augment", epoch, step)), data.train.labels[chosen].to(device)
