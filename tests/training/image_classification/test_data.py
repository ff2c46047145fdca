from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from service.images import decode_pixels, normalise, open_picture
from tests.training.image_classification.pictures import COLOURS, data_set, picture, write_folder
from training.image_classification.augment import AugmentConfig
from training.image_classification.data import DataConfig, DataSet, Part, _read_idx, load_data, training_batches

CPU = torch.device("cpu")


# idx files


def _write_idx(path: Path, values: NDArray[np.uint8], header: bytes | None = None) -> Path:
    sizes = struct.pack(f">{values.ndim}I", *values.shape)
    head = bytes([0, 0, 8, values.ndim]) if header is None else header
    path.write_bytes(gzip.compress(head + sizes + values.tobytes()))
    return path


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 5, 3)], ids=str)
def test_an_idx_file_is_read_in_its_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    read = _read_idx(_write_idx(tmp_path / "a.gz", values))
    assert read.dtype == torch.uint8
    assert np.array_equal(read.numpy(), values)


@pytest.mark.parametrize("header", [b"\0\0\x0d\1", b"\1\0\x08\1", b"PNG\1"], ids=["floats", "no magic", "text"])
def test_a_file_of_another_format_is_refused_by_name(tmp_path: Path, header: bytes) -> None:
    path = _write_idx(tmp_path / "a.gz", np.zeros(4, np.uint8), header)
    with pytest.raises(ValueError, match=r"a\.gz is no idx file of bytes"):
        _read_idx(path)


def test_an_idx_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\1" + struct.pack(">I", 100) + bytes(99)))
    with pytest.raises(ValueError, match="100"):
        _read_idx(path)


# Folders of images


def _config(root: Path, **changes: object) -> DataConfig:
    plain = {"source": "folder", "path": str(root), "validation": 0.25, "width": 16, "height": 16}
    return DataConfig.model_validate({**plain, **changes})


def _rows(part: Part) -> list[tuple[bytes, int]]:
    """A part's images with their classes, in an order of their own."""
    pairs = zip(part.pixels, part.labels.tolist(), strict=True)
    return sorted((pixels.numpy().tobytes(), label) for pixels, label in pairs)


def _counts(part: Part, classes: int = 3) -> list[int]:
    return torch.bincount(part.labels, minlength=classes).tolist()


def test_a_folder_gives_its_classes_by_the_alphabet(tmp_path: Path) -> None:
    data = load_data(_config(write_folder(tmp_path, train=8, test=2)))
    assert data.labels == COLOURS
    assert _counts(data.test) == [2, 2, 2]
    for part in (data.train, data.validation, data.test):
        strongest = part.pixels.float().mean((2, 3)).argmax(1)
        assert [COLOURS[number] for number in part.labels] == [("red", "green", "blue")[one] for one in strongest]


def test_a_folder_is_split_into_parts_that_share_no_picture(tmp_path: Path) -> None:
    data = load_data(_config(write_folder(tmp_path, train=20, test=5)))
    assert (len(data.train), len(data.validation), len(data.test)) == (45, 15, 15)
    rows = [row for part in (data.train, data.validation, data.test) for row in _rows(part)]
    assert len(set(rows)) == 75
    assert data.train.pixels.shape[1:] == (3, 16, 16)
    assert (data.train.pixels.dtype, data.train.labels.dtype) == (torch.uint8, torch.int64)


def test_without_a_test_folder_a_share_of_each_class_is_held_out(tmp_path: Path) -> None:
    root = write_folder(tmp_path, train=20)
    for path in sorted((root / "train" / "red").iterdir())[4:]:
        path.unlink()
    data = load_data(_config(root, test_share=0.25))
    assert _counts(data.test) == [5, 5, 1]
    assert len(data.train) + len(data.validation) == 15 + 15 + 3
    rows = [row for part in (data.train, data.validation, data.test) for row in _rows(part)]
    assert len(set(rows)) == 44


def test_a_class_of_which_nothing_could_stay_is_refused_by_name(tmp_path: Path) -> None:
    root = write_folder(tmp_path, train=8)
    for path in sorted((root / "train" / "red").iterdir())[1:]:
        path.unlink()
    with pytest.raises(ValueError, match="'red' has 1 pictures"):
        load_data(_config(root))


@pytest.mark.parametrize("test", [0, 4])
def test_every_run_holds_out_the_same(tmp_path: Path, test: int) -> None:
    config = _config(write_folder(tmp_path, train=20, test=test))
    torch.manual_seed(1)
    first = load_data(config)
    torch.manual_seed(2)
    again = load_data(config)
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(first, part).pixels, getattr(again, part).pixels)
        assert torch.equal(getattr(first, part).labels, getattr(again, part).labels)


@pytest.mark.parametrize(("validation", "count"), [(0.5, 12), (7, 7), (0.001, 1)])
def test_validation_is_a_number_of_images_or_a_share_of_them(tmp_path: Path, validation: float, count: int) -> None:
    data = load_data(_config(write_folder(tmp_path, train=8, test=1), validation=validation))
    assert (len(data.validation), len(data.train)) == (count, 24 - count)


def test_more_images_than_there_are_cannot_be_held_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="24 of 24 images can't be held out"):
        load_data(_config(write_folder(tmp_path, train=8, test=1), validation=24))


def _mixed_pictures(folder: Path) -> list[Path]:
    """Pictures of many modes, sizes and formats, in the order in which they are read."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(3)
    wide, high, large = (picture("red", draw, size) for size in ((31, 9), (8, 27), (64, 64)))
    wide.save(folder / "a.png")
    high.save(folder / "b.jpg", quality=90)
    large.save(folder / "c.JPEG")
    large.save(folder / "d.webp")
    wide.convert("L").save(folder / "e.png")
    wide.convert("1").save(folder / "f.png")
    large.quantize(16).save(folder / "g.png")
    transparent = high.convert("RGBA")
    transparent.putalpha(Image.fromarray(draw.integers(0, 256, (27, 8), dtype=np.uint8)))
    transparent.save(folder / "h.png")
    Image.fromarray(draw.integers(0, 65536, (12, 30), dtype=np.uint16)).save(folder / "i.png")
    wide.convert("CMYK").save(folder / "j.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright
    wide.save(folder / "k.jpg", exif=turned)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize(("channels", "invert", "background"), [(3, False, 0), (1, True, 255), (1, False, 40)])
def test_a_folder_gives_exactly_the_pixels_that_the_server_makes_of_a_picture(
    tmp_path: Path, fit: str, channels: int, invert: bool, background: int
) -> None:
    paths = _mixed_pictures(tmp_path / "train" / "one")
    (tmp_path / "train" / "one" / "notes.txt").write_text("no picture", encoding="utf-8")
    (tmp_path / "train" / "two").mkdir()
    picture("green", np.random.default_rng(1)).save(tmp_path / "train" / "two" / "a.png")
    (tmp_path / "test").symlink_to(tmp_path / "train")
    config = _config(
        tmp_path,
        width=12,
        height=10,
        channels=channels,
        fit=fit,
        invert=invert,
        background=background,
        validation=1,
    )
    data = load_data(config)
    how = data.preprocessing
    assert (how.width, how.height, how.channels, how.fit) == (12, 10, channels, fit)
    assert (how.invert, how.background) == (invert, background)
    ones = data.test.pixels[data.test.labels == 0]
    assert len(ones) == len(paths) == 11
    for path, pixels in zip(paths, ones, strict=True):
        served = decode_pixels(open_picture(path.read_bytes(), max_pixels=10_000), how)
        assert np.array_equal(pixels.numpy(), served), path.name


def test_the_network_sees_in_training_what_it_sees_when_it_serves(tmp_path: Path) -> None:
    data = load_data(_config(write_folder(tmp_path, train=8, test=2)))
    pixels = data.test.pixels
    np.testing.assert_allclose(
        data.normalised(pixels).numpy(), normalise(pixels.numpy(), data.preprocessing), atol=1e-5
    )


def test_mean_and_deviation_are_those_of_the_training_part_alone(tmp_path: Path) -> None:
    root = write_folder(tmp_path, train=8, test=2)
    for path in (root / "test").rglob("*.png"):
        Image.new("RGB", (16, 16), "white").save(path)
    data = load_data(_config(root))
    normalised = data.normalised(data.train.pixels)
    assert normalised.mean((0, 2, 3)).tolist() == pytest.approx([0] * 3, abs=1e-3)
    assert normalised.std((0, 2, 3)).tolist() == pytest.approx([1] * 3, abs=1e-3)


def test_pictures_of_one_brightness_have_a_deviation_that_can_be_divided_by(tmp_path: Path) -> None:
    root = write_folder(tmp_path, train=4, test=1)
    for path in root.rglob("*.png"):
        Image.new("RGB", (16, 16), "grey").save(path)
    data = load_data(_config(root))
    assert min(data.preprocessing.std) > 0
    assert bool(data.normalised(data.train.pixels).isfinite().all())


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize(
    ("keep", "problem"), [(0, "the image is empty"), (4, "no image"), (200, "truncated")], ids=["empty", "none", "cut"]
)
def test_a_broken_picture_is_named_with_what_is_wrong(tmp_path: Path, part: str, keep: int, problem: str) -> None:
    root = write_folder(tmp_path, train=4, test=2)
    broken = root / part / "green" / "001.png"
    broken.write_bytes(broken.read_bytes()[:keep])
    with pytest.raises(ValueError, match=rf"{part}/green/001\.png: .*{problem}"):
        load_data(_config(root))


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path, train=4)
    for colour in ("blue", "green"):
        (root / "train" / colour).rename(root / colour)
    with pytest.raises(ValueError, match=r"train must hold one folder for each of two classes or more"):
        load_data(_config(root))


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_class_without_pictures_is_refused_by_name(tmp_path: Path, part: str) -> None:
    root = write_folder(tmp_path, train=4, test=2)
    for path in (root / part / "green").iterdir():
        path.rename(path.with_suffix(".bmp"))
    with pytest.raises(ValueError, match=rf"there are no pictures \(\.png, .*\) in .*{part}/green"):
        load_data(_config(root))


def test_a_test_folder_with_other_classes_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path, train=4, test=2)
    (root / "test" / "green").rename(root / "test" / "gren")
    with pytest.raises(ValueError, match=r"must hold the same folders as .*: blue, green, red"):
        load_data(_config(root))


def test_a_hidden_folder_is_no_class(tmp_path: Path) -> None:
    root = write_folder(tmp_path, train=4, test=2)
    (root / "train" / ".thumbnails").mkdir()
    assert load_data(_config(root)).labels == COLOURS


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_data(_config(tmp_path / "nowhere"))


def test_a_folder_below_the_home_folder_may_be_named_by_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "pictures", train=4)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_data(_config(Path("~/pictures"))).labels == COLOURS


def test_the_manifest_gets_name_licence_and_a_digest_of_what_was_read(tmp_path: Path) -> None:
    config = _config(write_folder(tmp_path, train=4, test=2), name="Three colours", licence="CC0-1.0")
    first = load_data(config)
    assert (first.name, first.licence) == ("Three colours", "CC0-1.0")
    assert load_data(config).sha256 == first.sha256
    Image.new("RGB", (16, 16)).save(tmp_path / "test" / "red" / "000.png")
    assert load_data(config).sha256 != first.sha256


# Batches


def _numbered(count: int) -> DataSet:
    """Images whose pixels tell their number, which is their class too."""
    numbers = torch.arange(count)
    pixels = numbers.to(torch.uint8)[:, None, None, None].expand(-1, 1, 6, 6).contiguous()
    return data_set(Part(pixels, numbers), labels=tuple(map(str, range(count))))


PLAIN = AugmentConfig(flip=False, crop_padding=0, erase_probability=0.0)


def _batches(data: DataSet, config: AugmentConfig, **changes: int) -> list[tuple[Tensor, Tensor]]:
    which = {"seed": 1, "epoch": 0, "skip": 0, **changes}
    return list(training_batches(data, 8, config, device=CPU, **which))


def test_an_epoch_shows_each_image_once_and_drops_what_fills_no_batch() -> None:
    batches = _batches(_numbered(45), PLAIN)
    assert [len(labels) for _, labels in batches] == [8] * 5
    seen = torch.cat([labels for _, labels in batches]).tolist()
    assert len(set(seen)) == 40
    assert seen != sorted(seen)


def test_every_image_comes_normalised_with_its_class() -> None:
    for images, labels in _batches(_numbered(45), PLAIN):
        assert images.dtype == torch.float32
        expected = (labels / 255 - 0.25) / 0.5
        torch.testing.assert_close(images, expected[:, None, None, None].expand_as(images))


@pytest.mark.parametrize("skip", range(6))
def test_batches_after_a_skip_are_those_that_would_have_come(skip: int) -> None:
    data, config = _numbered(45), AugmentConfig()
    torch.manual_seed(1)
    whole = _batches(data, config, epoch=3)
    torch.manual_seed(2)
    rest = _batches(data, config, epoch=3, skip=skip)
    assert len(rest) == 5 - skip
    for (images, labels), (expected, truth) in zip(rest, whole[skip:], strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(labels, truth)


def test_the_same_image_is_changed_otherwise_in_another_batch() -> None:
    alike = Part(torch.full((32, 1, 6, 6), 100, dtype=torch.uint8), torch.zeros(32, dtype=torch.int64))
    config = PLAIN.model_copy(update={"erase_probability": 1.0})
    batches = _batches(data_set(alike, labels=("a", "b")), config)
    assert len({images.numpy().tobytes() for images, _ in batches}) == 4


def test_nothing_is_erased_any_more_after_the_epochs_of_erasing() -> None:
    config = PLAIN.model_copy(update={"erase_probability": 1.0, "erase_epochs": 2})
    data = _numbered(45)
    for epoch, erased in ((0, True), (1, True), (2, False), (3, False)):
        for (images, labels), (whole, same) in zip(
            _batches(data, config, epoch=epoch), _batches(data, PLAIN, epoch=epoch), strict=True
        ):
            assert torch.equal(labels, same)
            assert torch.equal(images, whole) != erased


@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 2}], ids=["epoch", "seed"])
def test_another_epoch_or_seed_gives_another_order(change: dict[str, int]) -> None:
    first, other = _batches(_numbered(45), PLAIN), _batches(_numbered(45), PLAIN, **change)
    assert first[0][1].tolist() != other[0][1].tolist()


def test_the_same_image_is_changed_otherwise_in_another_epoch() -> None:
    data = _numbered(8)
    config = PLAIN.model_copy(update={"erase_probability": 1.0})
    changed = []
    for epoch in (0, 1):
        ((images, labels),) = _batches(data, config, epoch=epoch)
        changed.append(images[labels == 5])
    assert not torch.equal(*changed)


# Fashion-MNIST itself


@pytest.fixture
def fashion(fashion_mnist: Path) -> DataSet:
    assert fashion_mnist.is_dir()
    return load_data(DataConfig())


@pytest.mark.data
def test_fashion_mnist_is_split_as_its_figures_say(fashion: DataSet) -> None:
    assert (len(fashion.train), len(fashion.validation), len(fashion.test)) == (55_000, 5_000, 10_000)
    assert _counts(fashion.test, 10) == [1000] * 10
    together = torch.cat([fashion.train.labels, fashion.validation.labels])
    assert torch.bincount(together).tolist() == [6000] * 10
    parts = (fashion.train, fashion.validation)
    kept, held_out = ({pixels.tobytes() for pixels in part.pixels.numpy()} for part in parts)
    assert len(kept | held_out) == 60_000, "no picture is in both parts"


@pytest.mark.data
def test_fashion_mnist_has_the_mean_and_deviation_known_of_it(fashion: DataSet) -> None:
    how = fashion.preprocessing
    assert (how.width, how.height, how.channels) == (28, 28, 1)
    assert how.mean == pytest.approx((0.286,), abs=1e-3)
    assert how.std == pytest.approx((0.353,), abs=1e-3)


@pytest.mark.data
def test_fashion_mnist_is_named_with_its_files(fashion: DataSet, fashion_mnist: Path) -> None:
    assert fashion.name == "Fashion-MNIST"
    assert fashion.licence == "MIT"
    assert fashion.labels[9] == "Ankle boot"
    assert int(fashion.test.labels[0]) == 9  # the first test picture is the ankle boot of many tutorials
    assert {name: hashlib.sha256((fashion_mnist / name).read_bytes()).hexdigest() for name in fashion.sha256} == (
        fashion.sha256
    )


@pytest.mark.data
def test_fashion_mnist_is_split_as_it_was_for_the_bundle_that_ships(fashion: DataSet) -> None:
    # Pictures that were held out once must never be trained on: the figures of models/ are measured on them.
    digest = hashlib.sha256(fashion.validation.pixels.numpy().tobytes()).hexdigest()
    assert digest == "1d5186ba8ace38938149097d4bf192b7f47612aaf492f39976b67a1452f1c295"


# MNIST itself


@pytest.mark.data
def test_mnist_is_read_as_its_authors_describe_it(mnist: Path) -> None:
    data = load_data(DataConfig(source="mnist"))
    assert (data.name, data.labels) == ("MNIST", tuple("0123456789"))
    assert (len(data.train), len(data.validation), len(data.test)) == (55_000, 5_000, 10_000)
    assert data.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.preprocessing.mean == pytest.approx((0.1307,), abs=1e-3)
    assert data.preprocessing.std == pytest.approx((0.3081,), abs=1e-3)
    assert data.sha256.keys() == {path.name for path in mnist.glob("*.gz")}
