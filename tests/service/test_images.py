from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from service.errors import BadInput, InferdError, TooLarge, UnsupportedMediaType
from service.images import decode, decode_pixels, normalise, open_picture
from service.manifest import ImagePreprocessing
from tests.service.pictures import Pixels, chunk, drawn, encoded, raw_png

Array = NDArray[Any]

LIMIT = 1_000_000
WIDTH, HEIGHT = 6, 4


def how(**changes: Any) -> ImagePreprocessing:
    """Make preprocessing of grey pictures of 6 x 4, brightness to 0..1; `changes` differ."""
    channels = changes.get("channels", 1)
    usual = {"width": WIDTH, "height": HEIGHT, "channels": channels, "fit": "stretch", "resample": "bilinear"}
    scale = {"mean": [0.0] * channels, "std": [1.0] * channels}
    return ImagePreprocessing.model_validate({"input": "image", **usual, **scale, **changes})


def pixels_of(data: bytes, invert: bool | None = None, **changes: Any) -> Array:
    """Decode to (height, width) or (height, width, 3)."""
    pixels = decode_pixels(open_picture(data, max_pixels=LIMIT), how(**changes), invert=invert)
    return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)


def grey_of(colours: Array) -> Array:
    """What the eye sees of (..., 3) colours, after ITU-R 601."""
    grey: Array = colours.astype(np.float64) @ [0.299, 0.587, 0.114]
    return grey


def laid_on(ground: float, colours: Array, alpha: Array) -> Array:
    """What is seen of (..., channels) colours that let `ground` through."""
    opacity = alpha[..., None] / 255
    seen: Array = colours * opacity + ground * (1 - opacity)
    return seen


def near(found: Array, expected: Array, by: float) -> None:
    assert found.shape == expected.shape
    assert found.dtype == np.uint8
    assert np.abs(found.astype(np.float64) - expected).max() <= by


def blocks(channels: int = 0) -> Pixels:
    """Make a picture of 6 x 4 even blocks, 16 pixels wide: what a lossy format keeps."""
    return drawn(channels=channels).repeat(16, 0).repeat(16, 1)


# Every format and mode, against what the pixels are


LOSSLESS = ["PNG", "WEBP"]


def test_a_grey_png_keeps_every_value() -> None:
    picture = drawn()
    assert (pixels_of(encoded(picture)) == picture).all()
    assert (pixels_of(encoded(picture), channels=3) == picture[..., None]).all()


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_colour_picture_keeps_every_value_and_is_seen_as_grey_by_its_brightness(kind: str) -> None:
    picture = drawn(channels=3)
    assert (pixels_of(encoded(picture, kind), channels=3) == picture).all()
    near(pixels_of(encoded(picture, kind)), grey_of(picture), by=0.51)


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("ground", [0, 100, 255])
def test_a_colour_picture_with_transparency_is_laid_on_the_background(kind: str, ground: int) -> None:
    picture = drawn(channels=4)
    seen = laid_on(ground, picture[..., :3], picture[..., 3])
    near(pixels_of(encoded(picture, kind), channels=3, background=ground), seen, by=1)
    near(pixels_of(encoded(picture, kind), background=ground), grey_of(seen), by=1.5)


@pytest.mark.parametrize("ground", [0, 100, 255])
def test_a_grey_picture_with_transparency_is_laid_on_the_background(ground: int) -> None:
    picture = drawn(channels=2)
    image = Image.merge("LA", [Image.fromarray(picture[..., 0]), Image.fromarray(picture[..., 1])])
    assert image.mode == "LA"
    near(pixels_of(encoded(image), background=ground), laid_on(ground, picture[..., :1], picture[..., 1])[..., 0], by=1)


def palette_picture() -> tuple[Image.Image, Array]:
    """Make a picture of four colours by number, and what it shows."""
    colours = drawn(width=4, height=1, channels=3)[0]
    numbers = drawn() % 4
    image = Image.fromarray(numbers, "L").convert("P")
    image.putpalette(colours.tobytes())
    image.putdata(numbers.ravel().tolist())
    return image, colours[numbers]


def test_a_palette_is_looked_up() -> None:
    image, shown = palette_picture()
    assert image.mode == "P"
    assert (pixels_of(encoded(image), channels=3) == shown).all()
    near(pixels_of(encoded(image)), grey_of(shown), by=0.51)


@pytest.mark.parametrize("ground", [0, 255])
def test_a_palette_whose_colours_are_transparent_in_part_is_laid_on_the_background(ground: int) -> None:
    image, shown = palette_picture()
    alphas = np.array([0, 85, 170, 255], np.uint8)
    data = encoded(image, transparency=alphas.tobytes())
    numbers = np.asarray(image)
    near(pixels_of(data, channels=3, background=ground), laid_on(ground, shown, alphas[numbers]), by=1)


@pytest.mark.parametrize("ground", [0, 255])
def test_a_palette_with_one_transparent_colour_is_laid_on_the_background(ground: int) -> None:
    image, shown = palette_picture()
    data = encoded(image, transparency=2)
    seen = np.where((np.asarray(image) == 2)[..., None], ground, shown)
    assert (pixels_of(data, channels=3, background=ground) == seen).all()


@pytest.mark.parametrize("ground", [0, 255])
def test_a_colour_that_means_transparent_shows_the_background(ground: int) -> None:
    picture = drawn(channels=3)
    picture[1, 2] = picture[3, 4] = (10, 20, 30)
    data = encoded(picture, transparency=(10, 20, 30))
    seen = picture.copy()
    seen[1, 2] = seen[3, 4] = ground
    assert (pixels_of(data, channels=3, background=ground) == seen).all()


@pytest.mark.parametrize("ground", [0, 255])
def test_a_grey_that_means_transparent_shows_the_background(ground: int) -> None:
    picture = drawn()
    data = encoded(picture, transparency=int(picture[1, 2]))
    assert (pixels_of(data, background=ground) == np.where(picture == picture[1, 2], ground, picture)).all()


def test_a_black_and_white_picture_has_the_values_0_and_255() -> None:
    picture = drawn() > 127
    image = Image.fromarray(picture)
    assert image.mode == "1"
    assert (pixels_of(encoded(image)) == 255 * picture).all()
    assert (pixels_of(encoded(image), channels=3) == 255 * picture[..., None]).all()


@pytest.mark.parametrize("depth", [2, 4])
def test_few_greys_span_the_whole_range(depth: int) -> None:
    most = 2**depth - 1
    values = np.arange(8) % (most + 1)
    row = int("".join(f"{value:0{depth}b}" for value in values), 2).to_bytes(depth, "big")
    found = pixels_of(raw_png(8, 1, depth, 0, [row]), width=8, height=1)
    assert (found[0] == values * (255 // most)).all()


def test_sixteen_bits_of_grey_are_rounded_to_eight() -> None:
    values = np.array([0, 1, 128, 129, 257, 30_000, 65_000, 65_535], np.uint16)
    data = encoded(Image.fromarray(values[None]))
    assert open_picture(data, max_pixels=LIMIT).image.mode.startswith("I")
    assert (pixels_of(data, width=8, height=1)[0] == (values >> 8)).all()
    assert (pixels_of(data, width=8, height=1, channels=3)[0] == (values >> 8)[:, None]).all()


@pytest.mark.parametrize("ground", [0, 255])
def test_a_sixteen_bit_grey_that_means_transparent_shows_the_background(ground: int) -> None:
    values = np.array([0, 30_000, 65_535, 30_000, 30_001], np.uint16)
    key = chunk(b"tRNS", (30_000).to_bytes(2, "big"))
    data = raw_png(5, 1, 16, 0, [values.astype(">u2").tobytes()], chunks=key)
    seen = np.where(values == 30_000, ground, (values >> 8))
    assert (pixels_of(data, width=5, height=1, background=ground)[0] == seen).all()


def test_sixteen_bits_of_colour_are_reduced_to_eight() -> None:
    values = np.array([[0, 30_000, 65_535], [257, 514, 40_000]], np.uint16)
    data = raw_png(2, 1, 16, 2, [values.astype(">u2").tobytes()])
    near(pixels_of(data, width=2, height=1, channels=3)[0], values / 257, by=1)


def test_sixteen_bits_with_transparency_are_laid_on_the_background() -> None:
    values = np.array([[65_535, 65_535], [65_535, 0], [20_000, 65_535]], np.uint16)
    data = raw_png(3, 1, 16, 4, [values.astype(">u2").tobytes()])
    near(pixels_of(data, width=3, height=1, background=50)[0], np.array([255, 50, 20_000 / 257]), by=1)


def test_a_grey_jpeg_is_what_was_drawn() -> None:
    near(pixels_of(encoded(blocks(), "JPEG"), width=96, height=64), blocks(), by=2)


def test_a_colour_jpeg_is_what_was_drawn() -> None:
    data = encoded(blocks(3), "JPEG")
    near(pixels_of(data, width=96, height=64, channels=3), blocks(3), by=4)
    near(pixels_of(data, width=96, height=64), grey_of(blocks(3)), by=4)


def test_a_progressive_jpeg_is_what_was_drawn() -> None:
    near(pixels_of(encoded(blocks(), "JPEG", progressive=True), width=96, height=64), blocks(), by=2)


def test_a_jpeg_in_print_colours_shows_what_would_be_printed() -> None:
    inks = blocks(4)
    data = encoded(Image.frombytes("CMYK", (96, 64), inks.tobytes()), "JPEG")
    assert open_picture(data, max_pixels=LIMIT).image.mode == "CMYK"
    cover = inks.astype(np.float64) / 255
    shown = 255 * (1 - cover[..., :3]) * (1 - cover[..., 3:])
    near(pixels_of(data, width=96, height=64, channels=3), shown, by=5)


def test_a_lossy_webp_is_near_what_was_drawn() -> None:
    grey = blocks()
    data = encoded(np.stack([grey] * 3, -1), "WEBP", lossless=False, quality=100)
    near(pixels_of(data, width=96, height=64), grey, by=8)


# Turned cameras

STORED: dict[int, Callable[[Array], Array]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.T,
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright.T[::-1, ::-1],
    8: lambda upright: np.rot90(upright, -1),
}
"""How a picture is stored that a viewer turns upright, by its EXIF orientation."""


def turned(orientation: int, picture: Pixels) -> tuple[Image.Image, Image.Exif]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return Image.fromarray(np.ascontiguousarray(STORED[orientation](picture))), exif


@pytest.mark.parametrize("orientation", STORED)
def test_a_png_is_turned_upright_by_its_exif_orientation(orientation: int) -> None:
    image, exif = turned(orientation, drawn())
    assert (pixels_of(encoded(image, exif=exif)) == drawn()).all()


@pytest.mark.parametrize("orientation", STORED)
def test_a_webp_is_turned_upright_by_its_exif_orientation(orientation: int) -> None:
    image, exif = turned(orientation, drawn())
    assert (pixels_of(encoded(image.convert("RGB"), "WEBP", exif=exif)) == drawn()).all()


@pytest.mark.parametrize("orientation", STORED)
def test_a_jpeg_is_turned_upright_by_its_exif_orientation(orientation: int) -> None:
    image, exif = turned(orientation, blocks())
    near(pixels_of(encoded(image, "JPEG", exif=exif), width=96, height=64), blocks(), by=2)


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_an_orientation_that_means_nothing_leaves_the_picture_as_it_is(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (pixels_of(encoded(drawn(), exif=exif)) == drawn()).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_exif_that_is_rubbish_leaves_the_picture_as_it_is(kind: str) -> None:
    picture = np.full((4, 6, 3), 200, np.uint8)
    data = encoded(picture, kind, exif=b"Exif\0\0" + b"II*\0\xff\xff\xff\xff" + b"rubbish")
    with warnings.catch_warnings(action="ignore"):  # Pillow's, of which the client learns nothing
        near(pixels_of(data), np.full((4, 6), 200.0), by=1)


# Bringing to size


def kernel(name: str, at: Array) -> Array:
    """What a resampling filter weighs a pixel at a distance of `at` by."""
    at = np.abs(at)
    if name == "bilinear":
        return np.maximum(0, 1 - at)
    if name == "bicubic":
        inner = 1.5 * at**3 - 2.5 * at**2 + 1
        outer = -0.5 * at**3 + 2.5 * at**2 - 4 * at + 2
        return np.where(at < 1, inner, np.where(at < 2, outer, 0))
    return np.where(at < 3, np.sinc(at) * np.sinc(at / 3), 0)


def resized(picture: Array, width: int, height: int, name: str) -> Array:
    """Bring (height, width) to size as the books have it, with no rounding."""

    def factors(given: int, wanted: int) -> Array:
        scale = given / wanted
        centres = (np.arange(wanted)[:, None] + 0.5) * scale
        weights = kernel(name, (np.arange(given) + 0.5 - centres) / max(scale, 1))
        normal: Array = weights / weights.sum(axis=1, keepdims=True)
        return normal

    return np.clip(factors(picture.shape[0], height) @ picture @ factors(picture.shape[1], width).T, 0, 255)


@pytest.mark.parametrize("resample", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("width", "height"), [(6, 4), (12, 8), (18, 4), (5, 9), (3, 2), (40, 1)])
def test_a_stretched_picture_is_filtered_as_the_manifest_says(resample: str, width: int, height: int) -> None:
    soft = drawn(width, height) // 4 + 96  # so that nothing is cut off at 0 or 255 between the axes
    near(pixels_of(encoded(soft), resample=resample), resized(soft, WIDTH, HEIGHT, resample), by=1.5)


def test_the_nearest_pixel_is_taken_where_the_manifest_says_so() -> None:
    picture = drawn(3, 2)
    assert (pixels_of(encoded(picture), resample="nearest") == picture.repeat(2, 0).repeat(2, 1)).all()


def test_a_cropped_picture_is_its_middle() -> None:
    wide, high = drawn(14, 4), drawn(6, 10)
    assert (pixels_of(encoded(wide), fit="crop") == wide[:, 4:10]).all()
    assert (pixels_of(encoded(high), fit="crop") == high[3:7]).all()


def test_a_cropped_picture_is_brought_to_size_by_its_shorter_side() -> None:
    picture = drawn(28, 8)
    near(pixels_of(encoded(picture), fit="crop")[:, 2:4], resized(picture, 14, 4, "bilinear")[:, 6:8], by=1)


@pytest.mark.parametrize("ground", [0, 99, 255])
def test_a_padded_picture_is_whole_and_in_the_middle_of_the_background(ground: int) -> None:
    narrow, low = drawn(2, 4), drawn(6, 2)
    expected = np.full((4, 6), ground)
    expected[:, 2:4] = narrow
    assert (pixels_of(encoded(narrow), fit="pad", background=ground) == expected).all()
    expected = np.full((4, 6), ground)
    expected[1:3] = low
    assert (pixels_of(encoded(low), fit="pad", background=ground) == expected).all()


def test_a_padded_colour_picture_has_its_background_in_every_channel() -> None:
    found = pixels_of(encoded(drawn(2, 4, 3)), fit="pad", background=99, channels=3)
    assert (found[:, [0, 1, 4, 5]] == 99).all()
    assert (found[:, 2:4] == drawn(2, 4, 3)).all()


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize(("width", "height"), [(1, 5000), (5000, 1), (1, 1)])
def test_the_thinnest_pictures_are_brought_to_size(fit: str, width: int, height: int) -> None:
    picture = np.full((height, width), 200, np.uint8)
    found = pixels_of(encoded(picture), fit=fit)
    assert found.shape == (HEIGHT, WIDTH)
    assert (found == 200).any()


# Inversion is asked for, never guessed


def test_brightness_is_turned_round_only_where_the_manifest_or_the_request_says_so() -> None:
    picture = drawn()
    data = encoded(picture)
    assert (pixels_of(data) == picture).all()
    assert (pixels_of(data, invert=True) == 255 - picture).all()
    assert (pixels_of(data, invert=False) == picture).all()
    inverting = how(invert=True)
    for asked, expected in ((None, 255 - picture), (True, 255 - picture), (False, picture)):
        found = decode_pixels(open_picture(data, max_pixels=LIMIT), inverting, invert=asked)
        assert (found[0] == expected).all()


@pytest.mark.parametrize("ground", [0, 80, 255])
@pytest.mark.parametrize("invert", [False, True])
def test_the_background_is_meant_as_the_network_sees_it_whether_inverted_or_not(ground: int, invert: bool) -> None:
    nothing = np.zeros((4, 6, 4), np.uint8)
    assert (pixels_of(encoded(nothing), invert=invert, background=ground) == ground).all()
    assert (pixels_of(encoded(nothing), invert=invert, background=ground, channels=3) == ground).all()
    narrow = pixels_of(encoded(drawn(2, 4)), invert=invert, background=ground, fit="pad")
    assert (narrow[:, [0, 1, 4, 5]] == ground).all()


def test_what_is_half_transparent_is_inverted_with_what_shines_through_it() -> None:
    picture = drawn(channels=4)
    found = pixels_of(encoded(picture), invert=True, background=50, channels=3)
    near(found, laid_on(50, 255.0 - picture[..., :3], picture[..., 3]), by=1)


# Numbers for the network


@pytest.mark.parametrize(("mean", "std"), [([0.0], [1.0]), ([0.2863], [0.3532]), ([-1.5], [0.01]), ([0.5], [100.0])])
def test_grey_becomes_value_less_mean_by_deviation(mean: list[float], std: list[float]) -> None:
    found = decode(open_picture(encoded(drawn()), max_pixels=LIMIT), how(mean=mean, std=std))
    np.testing.assert_allclose(found[0, 0], (drawn() / 255.0 - mean[0]) / std[0], rtol=1e-5, atol=2e-6 / std[0])


def test_every_channel_has_a_mean_and_a_deviation_of_its_own() -> None:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    found = decode(open_picture(encoded(drawn(channels=3)), max_pixels=LIMIT), how(channels=3, mean=mean, std=std))
    assert found.shape == (1, 3, HEIGHT, WIDTH)
    np.testing.assert_allclose(found[0].transpose(1, 2, 0), (drawn(channels=3) / 255.0 - mean) / std, atol=1e-5)


def test_a_batch_is_normalised_as_each_of_its_pictures_is() -> None:
    pictures = np.stack([drawn(seed=seed)[None] for seed in range(5)])
    together = normalise(pictures, how(mean=[0.3], std=[0.7]))
    apart = [normalise(picture[None], how(mean=[0.3], std=[0.7]))[0] for picture in pictures]
    assert (together == np.stack(apart)).all()


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]


@settings(max_examples=60)
@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    mode=st.sampled_from(MODES),
    wanted=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    fit=st.sampled_from(["stretch", "crop", "pad"]),
    resample=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
    channels=st.sampled_from([1, 3]),
    invert=st.sampled_from([None, True, False]),
)
def test_whatever_is_sent_the_network_gets_one_row_of_finite_numbers_in_one_piece(
    width: int,
    height: int,
    mode: str,
    wanted: tuple[int, int],
    fit: str,
    resample: str,
    channels: int,
    invert: bool | None,
) -> None:
    grey = drawn(width, height)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    picture = open_picture(encoded(image), max_pixels=LIMIT)
    expected = how(width=wanted[0], height=wanted[1], fit=fit, resample=resample, channels=channels)
    found = decode(picture, expected, invert=invert)
    assert found.shape == (1, channels, wanted[1], wanted[0])
    assert found.dtype == np.float32
    assert found.flags["C_CONTIGUOUS"]
    assert ((found >= -1e-6) & (found <= 1 + 1e-6)).all()


@given(value=st.integers(0, 255), width=st.integers(1, 60), height=st.integers(1, 60), invert=st.booleans())
def test_an_even_picture_on_a_background_like_it_stays_even(value: int, width: int, height: int, invert: bool) -> None:
    data = encoded(np.full((height, width), value, np.uint8))
    seen = 255 - value if invert else value
    for fit in ("stretch", "crop", "pad"):
        assert (pixels_of(data, invert=invert, fit=fit, background=seen) == seen).all()


# What is refused


def animation(kind: str) -> bytes:
    frames = [Image.fromarray(drawn(seed=seed, channels=3)) for seed in range(3)]
    stream = BytesIO()
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animated_picture_is_refused(kind: str) -> None:
    with pytest.raises(BadInput, match=r"animated \(3 frames\)"):
        open_picture(animation(kind), max_pixels=LIMIT)


def test_a_jpeg_with_further_views_is_seen_as_its_first_one() -> None:
    first = blocks()
    data = encoded(Image.fromarray(first), "MPO", save_all=True, append_images=[Image.fromarray(255 - first)])
    near(pixels_of(data, width=96, height=64), first, by=12)


def test_no_bytes_are_no_picture() -> None:
    with pytest.raises(BadInput, match="empty"):
        open_picture(b"", max_pixels=LIMIT)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO", "PPM", "TGA", "JPEG2000", "PDF", "EPS"])
def test_a_picture_of_another_format_is_refused_with_those_that_are_taken(kind: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="allowed: PNG, JPEG, WEBP"):
        open_picture(encoded(drawn(32, 32, 3), kind), max_pixels=LIMIT)


@pytest.mark.parametrize(
    "data", [b"\0", b"hello", b"<svg/>", b"{}", b"\x89PNG", b"\xff\xd8", b"RIFF\0\0\0\0WEBP", bytes(1000)]
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(BadInput):
        decode(open_picture(data, max_pixels=LIMIT), how())


@given(data=st.binary(min_size=1, max_size=200))
def test_random_bytes_are_refused_as_no_picture(data: bytes) -> None:
    with pytest.raises(UnsupportedMediaType, match="no image"):
        open_picture(data, max_pixels=LIMIT)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_picture_cut_off_amid_its_pixels_is_refused(kind: str, share: float) -> None:
    data = encoded(drawn(64, 64, 3), kind)
    with pytest.raises(BadInput, match=r"broken or truncated|no image"):
        decode(open_picture(data[: int(share * len(data))], max_pixels=LIMIT), how())


def test_a_picture_with_one_pixel_too_many_is_refused_by_its_header_with_the_limit() -> None:
    for_all = encoded(drawn(40, 25))
    assert open_picture(for_all, max_pixels=1000).pixels == 1000
    with pytest.raises(TooLarge, match=r"40 x 25 = 1000 pixels; the limit is 999 \(INFERD_MAX_PIXELS\)"):
        open_picture(for_all, max_pixels=999)


@pytest.mark.parametrize("side", [6_000, 10_000, 60_000, 2**31 - 1])
def test_a_header_that_claims_a_huge_picture_is_refused_before_a_pixel_is_looked_for(side: int) -> None:
    no_pixels_at_all = raw_png(side, side, 8, 2)
    with pytest.raises(TooLarge, match=r"the limit is 32000000 \(INFERD_MAX_PIXELS\)"):
        open_picture(no_pixels_at_all, max_pixels=32_000_000)


def test_the_header_alone_is_read_when_a_picture_is_opened() -> None:
    no_pixels_at_all = raw_png(6, 4, 8, 0)
    picture = open_picture(no_pixels_at_all, max_pixels=LIMIT)
    assert picture.pixels == 24
    with pytest.raises(BadInput, match="broken or truncated"):
        decode(picture, how())


SAMPLES = {
    "png": encoded(drawn(20, 10, 3)),
    "png-16": encoded(Image.fromarray(drawn(20, 10).astype(np.uint16) * 257)),
    "png-palette": encoded(palette_picture()[0], transparency=bytes([0, 85, 170, 255])),
    "png-exif": encoded(*turned(6, drawn(20, 10))[:1], exif=turned(6, drawn(20, 10))[1]),
    "png-animated": animation("PNG"),
    "jpeg": encoded(drawn(20, 10, 3), "JPEG", quality=50),
    "jpeg-exif": encoded(*turned(8, drawn(20, 10))[:1], "JPEG", exif=turned(8, drawn(20, 10))[1]),
    "jpeg-cmyk": encoded(Image.frombytes("CMYK", (20, 10), drawn(20, 10, 4).tobytes()), "JPEG"),
    "webp": encoded(drawn(20, 10, 3), "WEBP"),
    "webp-lossy": encoded(drawn(20, 10, 3), "WEBP", lossless=False, quality=50),
    "webp-exif": encoded(*turned(5, drawn(20, 10))[:1], "WEBP", exif=turned(5, drawn(20, 10))[1]),
    "webp-animated": animation("WEBP"),
}


@pytest.mark.parametrize("sample", SAMPLES)
@settings(max_examples=60)
@given(data=st.data())
def test_however_a_picture_is_damaged_it_is_seen_or_refused(sample: str, data: st.DataObject) -> None:
    content = bytearray(SAMPLES[sample])
    for _ in range(data.draw(st.integers(1, 5))):
        # Most of what can go wrong is in the headers.
        last = data.draw(st.sampled_from([min(64, len(content) - 1), len(content) - 1]))
        content[data.draw(st.integers(0, last))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.sampled_from([len(content), data.draw(st.integers(1, len(content)))]))]
    with warnings.catch_warnings(action="ignore"), suppress(InferdError):
        assert decode(open_picture(bytes(content), max_pixels=LIMIT), how()).shape == (1, 1, HEIGHT, WIDTH)
