"""What models are for: one module a task, and the table of them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from service.manifest import Manifest
from service.tasks.base import Task, TaskLimits
from service.tasks.image_classification import ImageClassification
from service.tasks.tensors import Tensors

TASKS: Mapping[str, Callable[[Path, Manifest, TaskLimits], Task[Any]]] = {
    "image-classification": ImageClassification,
    "tensors": Tensors,
}
"""By the task's name in a manifest: what makes it from a bundle's folder, its manifest and the limits of a request."""
