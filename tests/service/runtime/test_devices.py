from __future__ import annotations

from typing import Literal

import pytest

from service.runtime.devices import choose_providers

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
OTHER = "AzureExecutionProvider"


@pytest.mark.parametrize(
    ("device", "tensorrt", "available", "chosen"),
    [
        ("auto", False, (CPU,), (CPU,)),
        ("auto", False, (OTHER, CPU), (CPU,)),
        ("auto", True, (CPU,), (CPU,)),
        ("auto", False, (CUDA, CPU), (CUDA, CPU)),
        ("auto", False, (TENSORRT, CUDA, CPU), (CUDA, CPU)),
        ("auto", True, (TENSORRT, CUDA, CPU), (TENSORRT, CUDA, CPU)),
        ("auto", True, (CUDA, CPU), (CUDA, CPU)),
        ("cpu", False, (TENSORRT, CUDA, CPU), (CPU,)),
        ("cpu", True, (TENSORRT, CUDA, CPU), (CPU,)),
        ("cuda", False, (CUDA, CPU), (CUDA, CPU)),
        ("cuda", False, (TENSORRT, CUDA, CPU), (CUDA, CPU)),
        ("cuda", True, (TENSORRT, CUDA, CPU), (TENSORRT, CUDA, CPU)),
    ],
)
def test_the_providers_asked_for_follow_from_the_device_and_from_what_there_is(
    device: Literal["auto", "cpu", "cuda"], tensorrt: bool, available: tuple[str, ...], chosen: tuple[str, ...]
) -> None:
    assert choose_providers(device, tensorrt=tensorrt, available=available) == chosen


@pytest.mark.parametrize("tensorrt", [False, True])
def test_cuda_that_is_not_there_is_an_error_that_says_what_to_install(tensorrt: bool) -> None:
    with pytest.raises(ValueError, match=r"INFERD_DEVICE=cuda, but .* only CPUExecutionProvider; .*inferd\[gpu\]"):
        choose_providers("cuda", tensorrt=tensorrt, available=(CPU,))


def test_the_installed_runtime_can_always_compute_on_the_processor() -> None:
    assert choose_providers("cpu") == (CPU,)
    assert choose_providers("auto")[-1] == CPU
