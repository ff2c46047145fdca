"""Every setting of the server: one field each, read from the environment as `INFERD_<FIELD>`.

docs/operations.md lists them all; a test fails where one is missing there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

ENV_PREFIX = "INFERD_"


class Settings(BaseSettings):
    """The server's settings, frozen once read."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port of HTTP; 0 takes a free one.")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="A port of its own for `/metrics`; unset, it is served beside everything else.",
    )
    models: Path = Field(Path("models"), description="Folder of the models: `<name>/<version>/`.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where graphs run. `auto` takes a GPU where ONNX Runtime offers one; `cuda` insists on it."
    )
    tensorrt: bool = Field(False, description="On a GPU, let TensorRT compile what it can; the rest runs on CUDA.")
    threads: int = Field(
        0, ge=0, le=256, description="ONNX Runtime's threads a model; 0 = the CPU quota of this process, at most 8."
    )
    max_body_bytes: int = Field(16 * 2**20, ge=1, description="Largest request body.")
    max_pixels: int = Field(
        16_777_216, ge=1, le=170_000_000, description="Largest picture, width times height, checked before decoding."
    )
    max_batch_rows: int = Field(
        64, ge=1, le=4096, description="Largest batch in rows; a model's manifest may ask for less."
    )
    max_queue_s: float = Field(
        1.0,
        gt=0,
        description="Longest predicted wait in a model's queue, in seconds; past it requests are refused (429).",
    )
    max_queue_rows: int = Field(
        4096, ge=1, description="Most rows that wait in a model's queue, whatever they would take."
    )
    drain_delay_s: float = Field(
        0.0, ge=0, description="After SIGTERM, how long requests are still admitted while readiness is off."
    )
    drain_timeout_s: float = Field(
        30.0, ge=0, description="After that, how long accepted requests may take before the process ends without them."
    )
    access_log: bool = Field(False, description="Log every request, not only those that fail by the server's fault.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level logged.")
