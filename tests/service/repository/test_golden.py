from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.manifest import read_manifest
from service.repository.bundle import LoadOptions, load_bundle
from service.repository.golden import Golden, GoldenMismatch, _compare, restored, stored
from service.repository.scan import BundleFolder
from service.runtime.session import OnnxSession
from service.settings import Settings
from tests.bundles import edit, golden_inputs, make_bundle, read_golden, sign, write_golden
from tests.image_bundles import make_image_bundle
from tests.translation_bundles import make_translation_bundle

FRAMEWORK, RUNTIME = "framework/model/logits", "runtime/fp32/model/logits"


def replay(bundle: Path, provider: str = "CPUExecutionProvider") -> None:
    """Replay the float32 variant; another provider is one that ONNX Runtime might have on another machine."""
    manifest = read_manifest(bundle)
    variant = manifest.variants["fp32"]
    session = OnnxSession(bundle, variant.graphs["model"], providers=("CPUExecutionProvider",), threads=1)
    session.provider = provider
    assert manifest.golden
    Golden(bundle, manifest.golden).replay("fp32", variant, "model", session)


def change(bundle: Path, key: str, by: NDArray[Any] | float) -> None:
    arrays = read_golden(bundle)
    arrays[key] = arrays[key] + np.float32(by)
    write_golden(bundle, arrays)


def allow(bundle: Path, origin: str, difference: float) -> None:
    edit(bundle, "variants", "fp32", "tolerance", origin, to=difference)


def test_a_model_that_answers_as_it_did_passes(models: Path) -> None:
    replay(make_bundle(models))


@pytest.mark.parametrize(("origin", "key"), [("framework", FRAMEWORK), ("runtime", RUNTIME)])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_difference_passes_up_to_its_tolerance_and_no_further(models: Path, origin: str, key: str, sign: int) -> None:
    bundle = make_bundle(models)
    change(bundle, key, sign * 0.125)
    allow(bundle, origin, 0.126)
    replay(bundle)
    allow(bundle, origin, 0.124)
    with pytest.raises(GoldenMismatch, match=r"differs by 0\.125, allowed is 0\.124"):
        replay(bundle)


def test_another_class_first_is_a_mismatch_though_every_number_is_near_enough(models: Path) -> None:
    bundle = make_bundle(models)
    allow(bundle, "framework", 1.0)
    second = np.argsort(read_golden(bundle)[FRAMEWORK][0])[-2]
    turned = np.zeros((len(golden_inputs()), 3))
    turned[0] = -0.9
    turned[0, second] = 0.9
    change(bundle, FRAMEWORK, turned)
    with pytest.raises(GoldenMismatch, match="puts another class first"):
        replay(bundle)


def test_a_class_that_led_by_less_than_the_tolerance_may_be_overtaken(models: Path) -> None:
    bundle = make_bundle(models)
    allow(bundle, "framework", 2.0)
    first = read_golden(bundle)[FRAMEWORK][0]
    second = int(np.argsort(first)[-2])
    overtaking = np.zeros((len(golden_inputs()), 3))
    overtaking[0, second] = first.max() - first[second] + 0.5
    change(bundle, FRAMEWORK, overtaking)
    replay(bundle)


def test_on_another_device_only_the_frameworks_answers_are_held_against_it(models: Path) -> None:
    bundle = make_bundle(models)
    change(bundle, RUNTIME, 0.5)
    replay(bundle, provider="CUDAExecutionProvider")
    with pytest.raises(GoldenMismatch, match="from ONNX Runtime's"):
        replay(bundle)
    change(bundle, FRAMEWORK, 0.5)
    with pytest.raises(GoldenMismatch, match="from PyTorch's"):
        replay(bundle, provider="CUDAExecutionProvider")


def test_numbers_that_never_were_any_must_be_none_again_but_only_where_the_graph_said_so_itself(models: Path) -> None:
    bundle = make_bundle(models)
    arrays = read_golden(bundle)
    arrays[RUNTIME][0, 0] = np.nan
    write_golden(bundle, arrays)
    with pytest.raises(GoldenMismatch, match="differs by nan"):
        replay(bundle)


@pytest.mark.parametrize("whole", [np.int64(2**62), np.uint64(2**63)])
def test_whole_numbers_that_no_float_can_tell_apart_are_told_apart(whole: Any) -> None:
    numbers = np.array([whole, whole])
    assert _compare(numbers, numbers.copy(), 0.5, nan_is_nan=True) is None
    assert _compare(numbers, numbers + type(whole)(1), 0.5, nan_is_nan=True) == "differs by 1, allowed is 0.5"


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ([np.nan, 1], [np.nan, 1], True),
        ([np.nan, 1], [1, np.nan], False),
        ([np.inf, -np.inf], [np.inf, -np.inf], True),
        ([np.inf], [-np.inf], False),
        ([np.inf], [1], False),
        ([1], [np.inf], False),
        ([], [], True),
        (1.0, 1.05, True),
        (1.0, 1.15, False),
    ],
)
def test_what_is_no_number_equals_only_itself(found: object, expected: object, same: bool) -> None:
    one, other = np.array(found, np.float32), np.array(expected, np.float32)
    assert (_compare(one, other, 0.1, nan_is_nan=True) is None) is same
    if np.isnan(one).any():
        assert _compare(one, other, 0.1, nan_is_nan=False) == "differs by nan, allowed is 0.1"


@pytest.mark.parametrize("text", ["", "h\u00e9", "ends with nothing\x00", "\x00", "a\x00b"])
def test_texts_are_kept_and_compared(text: str) -> None:
    texts = np.array([text, "longer than that"], object)
    kept = stored(texts)
    assert kept.dtype.kind == "U"
    assert restored(kept, "BYTES").dtype == object
    assert restored(kept, "BYTES").tolist() == [text.rstrip("\x00"), "longer than that"]
    assert _compare(texts, restored(kept, "BYTES"), 1.0, nan_is_nan=True) is None
    assert _compare(texts, np.array(["b", "longer than that"], object), 1.0, nan_is_nan=True) == "has other texts"


# Candidates


LOGPROBS, TOKENS = (f"runtime/fp32/decoder/{name}" for name in ("logprobs", "tokens"))


def replay_decoder(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    variant = manifest.variants["fp32"]
    session = OnnxSession(bundle, variant.graphs["decoder"], providers=("CPUExecutionProvider",), threads=1)
    Golden(bundle, "golden.npz").replay("fp32", variant, "decoder", session)


def exchange(bundle: Path, first: int, second: int) -> float:
    """Have two candidates of the first row change places; return by how much the other was less likely."""
    arrays = read_golden(bundle)
    for key in (LOGPROBS, TOKENS):
        arrays[key][0, [first, second]] = arrays[key][0, [second, first]]
    write_golden(bundle, arrays)
    return float(arrays[LOGPROBS][0, second] - arrays[LOGPROBS][0, first])


def test_in_what_order_candidates_come_does_not_matter_while_each_is_as_likely(models: Path) -> None:
    bundle = make_translation_bundle(models)
    replay_decoder(bundle)
    assert exchange(bundle, 3, 4) > 0
    replay_decoder(bundle)


def test_a_candidate_that_is_more_or_less_likely_is_a_mismatch(models: Path) -> None:
    bundle = make_translation_bundle(models)
    arrays = read_golden(bundle)
    arrays[LOGPROBS][1, 2] += np.float32(0.125)
    write_golden(bundle, arrays)
    with pytest.raises(GoldenMismatch, match=r"output 'logprobs' differs by 0\.125, allowed is 0\.0001"):
        replay_decoder(bundle)


def test_another_token_may_come_last_where_it_might_have_before(models: Path) -> None:
    bundle = make_translation_bundle(models)
    arrays = read_golden(bundle)
    unused = min(set(range(3, 100)) - set(arrays[TOKENS][0].tolist()))
    arrays[TOKENS][0, -1] = unused
    write_golden(bundle, arrays)
    replay_decoder(bundle)
    arrays[TOKENS][0, 0] = unused
    write_golden(bundle, arrays)
    with pytest.raises(GoldenMismatch, match="output 'logprobs' differs by"):
        replay_decoder(bundle)


# Rounded numbers


BYTES = "runtime/fp32/generator/image"


def redrawn(bundle: Path, changed: int, by: int) -> None:
    """Change so many of the 120 golden bytes, and load the bundle."""
    arrays = read_golden(bundle)
    image = arrays[BYTES].reshape(-1)
    image[:changed] += np.where(image[:changed] > 100, -by, by).astype(np.uint8)
    write_golden(bundle, {**arrays, BYTES: image.reshape(arrays[BYTES].shape)})
    sign(bundle)
    load_bundle(BundleFolder(bundle.parent.name, int(bundle.name), bundle), LoadOptions.of(Settings(threads=1)))


def test_few_bytes_of_a_drawn_image_may_be_rounded_the_other_way(models: Path) -> None:
    redrawn(make_image_bundle(models), changed=1, by=1)


@pytest.mark.parametrize(("changed", "by"), [(2, 1), (120, 1), (1, 2)])
def test_more_of_them_or_others_than_neighbours_are_a_mismatch(models: Path, changed: int, by: int) -> None:
    with pytest.raises(GoldenMismatch, match=rf"output 'image' differs by {by}, allowed is 0\.0001"):
        redrawn(make_image_bundle(models), changed, by)


def test_whole_numbers_that_were_not_rounded_have_no_neighbours() -> None:
    numbers = np.arange(200, dtype=np.uint8)
    other = numbers.copy()
    other[0] = 1
    assert _compare(other, numbers, 0.5, nan_is_nan=True) == "differs by 1, allowed is 0.5"
    assert _compare(other, numbers, 0.5, nan_is_nan=True, rounded=True) is None
