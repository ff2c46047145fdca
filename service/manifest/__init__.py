"""The contract between training and service: what `manifest.json` in a bundle folder says.

A bundle is the folder `models/<name>/<version>/`. Its manifest names every other file with size and sha256, the graphs
with their tensors, what happens to an input before the graph and to an output after it, and how good the model is and
where it comes from. The folder gives the name and the version; the manifest does not repeat them.

Models are frozen and refuse unknown keys. `schema_version` is looked at before anything else. Version 2 added models
that are served as their graph (task `tensors`), of which less is known; of all others it asks what version 1 asked.
Version 3 added graphs that are run once a token (`step`) and text that is read character by character; version 4 steps
that pick their candidates and look at a context, tokenizers, and translation; version 5 images that are drawn, and
texts that are read as n-grams; version 6 `not_finite`.
"""

from service.manifest.contract import Batching, FileEntry, Manifest, Provenance, Quality, Source
from service.manifest.files import check_plain, read_file
from service.manifest.graphs import Candidates, Datatype, Graph, StatePair, Step, Tensor, Tolerance, Variant
from service.manifest.ground import (
    BATCH,
    GOLDEN_FILE,
    LABELS_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    NAME_PATTERN,
    SCHEMA_VERSION,
    TENSORS,
)
from service.manifest.processing import (
    CharacterPreprocessing,
    ClassificationPostprocessing,
    ImagePreprocessing,
    ImagesPostprocessing,
    NgramPreprocessing,
    Postprocessing,
    Preprocessing,
    TokenizerPreprocessing,
    TranslationPostprocessing,
)
from service.manifest.reading import file_entry, json_schema, read_manifest, verify_files

__all__ = [
    "BATCH",
    "GOLDEN_FILE",
    "LABELS_FILE",
    "MANIFEST_FILE",
    "MODEL_FILE",
    "NAME_PATTERN",
    "SCHEMA_VERSION",
    "TENSORS",
    "Batching",
    "Candidates",
    "CharacterPreprocessing",
    "ClassificationPostprocessing",
    "Datatype",
    "FileEntry",
    "Graph",
    "ImagePreprocessing",
    "ImagesPostprocessing",
    "Manifest",
    "NgramPreprocessing",
    "Postprocessing",
    "Preprocessing",
    "Provenance",
    "Quality",
    "Source",
    "StatePair",
    "Step",
    "Tensor",
    "TokenizerPreprocessing",
    "Tolerance",
    "TranslationPostprocessing",
    "Variant",
    "check_plain",
    "file_entry",
    "json_schema",
    "read_file",
    "read_manifest",
    "verify_files",
]
