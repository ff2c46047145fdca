"""What all of the contract is made of: frozen models that refuse unknown keys, and names that stay in their folder."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

SCHEMA_VERSION: Final = 6
MANIFEST_FILE = "manifest.json"
GOLDEN_FILE = "golden.npz"
MODEL_FILE = "model.onnx"
LABELS_FILE = "labels.json"
TENSORS: Final = "tensors"
"""The task of a model that is served as its graph, with nothing before or after it."""
BATCH: Final = "batch"
"""What the batch axis is called, the first of each tensor."""
NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,63}"
"""What a model's name (its folder's name) looks like."""

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")


def _inside_the_folder(name: str) -> str:
    if not _FILE_NAME.fullmatch(name):
        raise ValueError("a file is named by a path inside the bundle folder: letters, digits, '.', '_', '-', one '/'")
    return name


FileName = Annotated[str, AfterValidator(_inside_the_folder)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=0)]
Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]


class Contract(BaseModel):
    """A part of `manifest.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
