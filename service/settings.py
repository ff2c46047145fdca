"""Every setting of the server: one field each, read from the environment as `INFERD_<FIELD>`.

docs/operations.md lists them all; a test fails where one is missing there.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

ENV_PREFIX = "INFERD_"


def _unset(value: object) -> object:
    """An empty variable stands for none at all: an environment has no other way to say so."""
    return None if value == "" else value


def _as_in_a_header(value: object) -> object:
    """Strip what a file or an editor left around a key; one that no header could carry would never be the right one."""
    if not isinstance(value, str):
        return value
    key = value.strip()
    if not all("!" <= sign <= "~" for sign in key):
        raise ValueError("must be of visible ASCII characters, as it comes in a header")
    return key or None


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s,*]+")


def _as_origins(value: object) -> object:
    """Check addresses of pages as browsers send them; one that is written otherwise would never be the right one."""
    if not isinstance(value, str):
        return value
    origins = [one.strip() for one in value.split(",") if one.strip()]
    if origins != ["*"] and not all(map(_ORIGIN.fullmatch, origins)):
        raise ValueError("must be like https://app.example.com,http://localhost:3000 (without paths), or * alone")
    return ",".join(origins) or None


OptionalPath = Annotated[Path | None, BeforeValidator(_unset)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """The server's settings, frozen once read."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port of HTTP; 0 takes a free one.")
    grpc_port: Annotated[Port | None, BeforeValidator(_unset)] = Field(
        8001, description="TCP port of gRPC; 0 takes a free one, empty means none."
    )
    metrics_port: Annotated[Port | None, BeforeValidator(_unset)] = Field(
        None, description="A port of its own for `/metrics`; unset, it is served beside everything else."
    )
    workers: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = Field(
        "auto", description="Processes that answer; `auto` = one a core and what memory allows, at most 8, on a GPU 1."
    )
    models: Path = Field(Path("models"), description="Folder of the models: `<name>/<version>/`.")
    model_control: Literal["none", "poll", "explicit"] = Field(
        "none",
        description="What changes the models that serve: `none` nothing, `poll` the folder itself, `explicit` the "
        "calls to load and unload, which need the admin key.",
    )
    load_at_start: str = Field(
        "*", description="With `explicit`: the models to load at start, by name and separated by commas; `*` = all."
    )
    version_policy: Literal["all", "latest"] = Field(
        "all", description="Which versions of a model serve: `all`, or the `latest` alone."
    )
    poll_s: float = Field(5.0, gt=0, description="With `poll`: how often the folder is looked at, in seconds.")
    load_timeout_s: float = Field(300.0, gt=0, description="Longest time that loading a version may take.")
    load_memory_bytes: int = Field(
        0,
        ge=0,
        description="On CPU, memory that trying a version may take before it serves; 0 = half of what there is, but "
        "at least 1 GiB.",
    )
    let_go_timeout_s: float = Field(
        30.0, ge=0, description="How long a version that was replaced may go on with requests that it had begun."
    )
    admin_key: Annotated[SecretStr | None, BeforeValidator(_as_in_a_header)] = Field(
        None, description="A key that opens everything, control too, which is closed without a key."
    )
    api_keys_file: OptionalPath = Field(
        None, description="File of the keys that open the server, a line each; it is read again when it changes."
    )
    predict_access: Literal["auto", "open", "key"] = Field(
        "auto", description="Who may ask models: `open` everybody, `key` who has one, `auto` = `key` with a keys file."
    )
    metrics_access: Literal["auto", "open", "key"] = Field(
        "auto",
        description="Who may read `/metrics`: likewise, and `auto` = `open` without a keys file on a loopback address.",
    )
    cors_origins: Annotated[str | None, BeforeValidator(_as_origins)] = Field(
        None, description="Origins of web pages that may call from a browser, separated by commas; `*` = all."
    )
    tls_cert_file: OptionalPath = Field(
        None, description="Certificate, PEM, with those that vouch for it: HTTP and gRPC are encrypted."
    )
    tls_key_file: OptionalPath = Field(None, description="Its private key, PEM, not encrypted.")
    tls_client_ca_file: OptionalPath = Field(
        None, description="Certificates, PEM, that vouch for clients, which then need one of theirs."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where graphs run. `auto` takes a GPU where ONNX Runtime offers one; `cuda` insists on it."
    )
    tensorrt: bool = Field(False, description="On a GPU, let TensorRT compile what it can; the rest runs on CUDA.")
    threads: int = Field(
        0,
        ge=0,
        le=256,
        description="ONNX Runtime's threads a model; 0 = a worker's share of the CPU quota, the whole of it for a "
        "model whose runs are long, at most 8.",
    )
    profile: Literal["auto", "off"] | Path = Field(
        "auto",
        description="How long runs take, which decides of batches and waiting: `auto` measures it, `off` takes it as "
        'unknown, a JSON file says it: `{"model": {"graph": [[rows, seconds], ...]}}`, the rest is measured.',
    )
    profile_cache: Annotated[Path | None, BeforeValidator(_unset)] = Field(
        Path("~/.cache/inferd/profiles"),
        description="Folder in which what was measured is kept for the next start; empty means that it is not.",
    )
    max_body_bytes: int = Field(16 * 2**20, ge=1, description="Largest request body.")
    max_inflight_bytes: int = Field(
        256 * 2**20,
        ge=1,
        description="Most bytes of all requests' bodies that are read or answered at once; past it requests are "
        "refused (429). As much may wait of answers that their clients don't read; past it those are cut off.",
    )
    max_connections: int = Field(
        4096, ge=1, description="Most connections of HTTP at once; of gRPC there may be as many."
    )
    max_head_bytes: int = Field(32 * 2**10, ge=1024, description="Longest line and headers of a request, together.")
    max_url_bytes: int = Field(8 * 2**10, ge=64, description="Longest target (path and query) of a request.")
    head_timeout_s: float = Field(10.0, gt=0, description="Longest time for the line and headers of a request.")
    body_timeout_s: float = Field(
        60.0, gt=0, description="Longest time for the body of a request, from there on; of gRPC for a call's message."
    )
    send_timeout_s: float = Field(
        30.0, gt=0, description="How long an answer may wait for a client that doesn't read it."
    )
    max_pixels: int = Field(
        16_777_216,
        ge=1,
        le=170_000_000,
        description="Largest picture, width times height, checked before decoding; or all that a request has drawn.",
    )
    max_prompt_tokens: int = Field(16_384, ge=1, description="Longest prompt of a text generation, in tokens.")
    max_new_tokens: int = Field(4096, ge=1, description="Most tokens that a text generation may ask for.")
    max_text_characters: int = Field(10_000, ge=1, description="Longest text that is translated or says what to draw.")
    max_batch_rows: int = Field(
        64,
        ge=1,
        le=4096,
        description="Largest batch in rows, or number of texts that grow at once; a model's manifest may ask for less.",
    )
    max_queue_s: float = Field(
        1.0,
        gt=0,
        description="Longest predicted wait in a model's queue, in seconds; past it requests are refused (429).",
    )
    max_queue_rows: int = Field(
        4096, ge=1, description="Most rows that wait in a model's queue, whatever they would take."
    )
    max_run_s: float = Field(
        60.0, gt=0, description="Longest that a model may run at a time, in seconds; then it fails."
    )
    drain_delay_s: float = Field(
        0.0, ge=0, description="After SIGTERM, how long requests are still admitted while readiness is off."
    )
    drain_timeout_s: float = Field(
        30.0, ge=0, description="After that, how long accepted requests may take before the process ends without them."
    )
    playground: Literal["on", "off"] = Field("on", description="The page at `/` on which people try the models.")
    access_log: bool = Field(False, description="Log every request, not only those that fail by the server's fault.")
    tracing: Literal["off", "otlp"] = Field(
        "off", description="Spans of every request: `otlp` sends them to an OpenTelemetry collector, see `OTEL_*`."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level logged.")

    @property
    def origins(self) -> list[str]:
        """Those of `cors_origins`."""
        return self.cors_origins.split(",") if self.cors_origins else []

    @property
    def processes(self) -> int:
        """How many processes share the machine; `auto` has been counted where there are several."""
        return 1 if self.workers == "auto" else self.workers

    def to_json(self) -> bytes:
        """Write every setting, the secret ones too, for a process of our own; not for a command line or a log."""
        key = self.admin_key.get_secret_value() if self.admin_key else None
        return json.dumps(self.model_dump(mode="json") | {"admin_key": key}).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Settings:
        """Read what `to_json` wrote; the environment has no say."""
        return cls(**json.loads(content))
