"""KServe's types as JSON schemas, read off the classes that its Python package has of them.

A class says by what name each field goes, of which type it is, and (by an error that its setter raises) whether it must
be there. Types of Kubernetes' core come from kubernetes-validate. Unknown fields are refused; a cluster drops them.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
from functools import cache
from pathlib import Path
from typing import Any, Final

import kubernetes_validate

Schema = dict[str, Any]

KUBERNETES: Final = "1.37"
_PLAIN: Final = {"str": "string", "int": "integer", "bool": "boolean", "float": "number"}


@cache
def schema_of(wheel: Path, name: str) -> Schema:
    """The schema of the class called `name`, with all that it refers to.

    Raises:
        KeyError: the package has no such class.
    """
    classes: dict[str, ast.ClassDef] = {}
    with zipfile.ZipFile(wheel) as package:
        for path in package.namelist():
            if path.startswith("kserve/models/") and path.endswith(".py"):
                for node in ast.parse(package.read(path)).body:
                    if isinstance(node, ast.ClassDef):
                        classes[node.name] = node
    core = _core()
    definitions = dict(core)
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one not in definitions:
            definitions[one] = _object(classes[one], classes, core, waiting)
    return {"$ref": f"#/definitions/{name}", "definitions": definitions}


def _core() -> dict[str, Schema]:
    folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    (strict,) = folder.glob(f"v{KUBERNETES}.*-local-strict")
    text = (strict / "_definitions.json").read_text(encoding="utf-8")
    for reference in ("_definitions.json#/$defs/", "#/$defs/"):
        text = text.replace(f'"{reference}', '"#/definitions/')
    definitions: dict[str, Schema] = json.loads(text)["$defs"]
    return definitions


def _object(
    node: ast.ClassDef, classes: dict[str, ast.ClassDef], core: dict[str, Schema], waiting: list[str]
) -> Schema:
    said: dict[str, dict[str, str]] = {
        target.id: ast.literal_eval(statement.value)
        for statement in node.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name) and target.id in ("openapi_types", "attribute_map")
    }
    required = re.findall(r"Invalid value for `(\w+)`, must not be `None`", ast.unparse(node))

    def typed(text: str) -> Schema:
        if text in _PLAIN:
            return {"type": _PLAIN[text]}
        if inner := re.fullmatch(r"list\[(.+)\]", text):
            return {"type": "array", "items": typed(inner[1])}
        if inner := re.fullmatch(r"dict\(str, (.+)\)", text):
            return {"type": "object", "additionalProperties": typed(inner[1])}
        if text in classes:
            waiting.append(text)
            return {"$ref": f"#/definitions/{text}"}
        plain = text.removeprefix("V1")
        for key in (f"io.k8s.api.core.v1.{plain}", f"io.k8s.apimachinery.pkg.apis.meta.v1.{plain}"):
            if key in core:
                return {"$ref": f"#/definitions/{key}"}
        return {}  # of some other project: it is not looked into

    names = said["attribute_map"]
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {names[field]: typed(text) for field, text in said["openapi_types"].items()},
        "required": sorted({names[field] for field in required}),
    }
