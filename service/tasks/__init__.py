"""What models are for: one module a task, and the table of them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from service.manifest import Manifest
from service.tasks.base import Task, TaskLimits
from service.tasks.image_classification import ImageClassification
from service.tasks.image_generation import ImageGeneration
from service.tasks.tensors import Tensors
from service.tasks.text_generation import TextGeneration
from service.tasks.translation import Translation

AnyTask: TypeAlias = Task[Any] | ImageGeneration | TextGeneration | Translation
"""Either one run answers a request, or one after its texts were read, or its answer grows token by token."""

TASKS: Mapping[str, Callable[[Path, Manifest, TaskLimits], AnyTask]] = {
    "image-classification": ImageClassification,
    "tensors": Tensors,
    "text-generation": TextGeneration,
    "text-to-image": ImageGeneration,
    "translation": Translation,
    "unconditional-image-generation": ImageGeneration,
}
"""By the task's name in a manifest: what makes it from a bundle's folder, its manifest and the limits of a request."""
