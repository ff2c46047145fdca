"""Which execution providers graphs run on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import onnxruntime as ort

Device = Literal["auto", "cpu", "cuda"]

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


def runtime_version() -> str:
    """The version of the installed ONNX Runtime."""
    version: str = ort.__version__
    return version


def available_providers() -> list[str]:
    """The execution providers that the installed ONNX Runtime was built with."""
    available: list[str] = ort.get_available_providers()
    return available


def choose_providers(
    device: Device, *, tensorrt: bool = False, available: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The execution providers to ask ONNX Runtime for, the preferred one first.

    Args:
        device: `auto` takes a GPU where the installed ONNX Runtime was built for one.
        tensorrt: whether TensorRT comes before CUDA.
        available: what there is to choose from; by default what the installed ONNX Runtime was built with.

    Raises:
        ValueError: `cuda` was asked for and the installed ONNX Runtime was built without it.
    """
    if available is None:
        available = available_providers()
    if device == "cuda" and CUDA not in available:
        raise ValueError(
            f"INFERD_DEVICE=cuda, but the installed ONNX Runtime offers only {', '.join(available)}; "
            "install inferd[gpu] in place of inferd[cpu]"
        )
    if device == "cpu" or CUDA not in available:
        return (CPU,)
    first = (TENSORRT,) if tensorrt and TENSORRT in available else ()
    return (*first, CUDA, CPU)
