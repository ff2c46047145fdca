"""The chart as Helm's own engine renders it, and what its files say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import helm_python
import yaml

ROOT: Final = Path(__file__).resolve().parents[3]
CHART: Final = ROOT / "helm" / "inferd"
NAMESPACE: Final = "ml"
RELEASE: Final = "inferd"

Values = Mapping[str, Any]
Object = dict[str, Any]


def ci_values() -> dict[str, Values]:
    """What the files under ci/ say, by their names; `default` says nothing."""
    files = sorted((CHART / "ci").glob("*-values.yaml"))
    named = {file.name.removesuffix("-values.yaml"): yaml.safe_load(file.read_text(encoding="utf-8")) for file in files}
    return {"default": {}, **named}


def render(values: Values | None = None, *, release: str = RELEASE) -> list[Object]:
    """Every object of a release.

    Raises:
        helm_python.HelmError: the values are refused; the message says which and why.
    """
    return [one for text in files(values, release=release).values() for one in yaml.safe_load_all(text) if one]


def notes(values: Values | None = None) -> str:
    """What is told after an installation."""
    with helm_python.Chart.load(CHART) as chart:
        rendered = chart.render(dict(values or {}), name=RELEASE, namespace=NAMESPACE)
    return next(text for path, text in rendered.items() if path.endswith("NOTES.txt"))


def files(values: Values | None = None, *, release: str = RELEASE) -> dict[str, str]:
    """The text of every manifest of a release, by the path of its template."""
    with helm_python.Chart.load(CHART) as chart:
        rendered = chart.render(dict(values or {}), name=release, namespace=NAMESPACE)
    return {path: text for path, text in rendered.items() if path.endswith(".yaml") and text.strip()}


def pick(objects: list[Object], kind: str, name: str = "") -> Object:
    """The one object of a kind (and a name)."""
    (found,) = [one for one in objects if one["kind"] == kind and name in ("", one["metadata"]["name"])]
    return found


def server(objects: list[Object]) -> Object:
    """The container that serves."""
    (container,) = pick(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return container


def settings(objects: list[Object]) -> dict[str, str]:
    """What the ConfigMap puts into the server's environment."""
    data: dict[str, str] = pick(objects, "ConfigMap", RELEASE)["data"]
    return data


@cache
def defaults() -> Values:
    """What values.yaml says."""
    values: Values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return values


@cache
def schema() -> Values:
    """What values.schema.json says."""
    described: Values = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return described


def leaves(described: Values | None = None, values: Any = None, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every value that can be set: its path, what it means, and its default."""
    described, values = (schema(), defaults()) if described is None else (described, values)
    for name, one in described["properties"].items():
        at = f"{path}.{name}".lstrip(".")
        if at == "global":
            continue  # Helm's own
        if "description" in one:
            yield at, one["description"], values[name]
        else:
            yield from leaves(one, values[name], at)


def values_table() -> str:
    """The table of README.md."""
    rows = [
        f"| `{path}` | {f'`{json.dumps(default)}`' if default not in ('', None) else ''} | {meaning} |"
        for path, meaning, default in leaves()
    ]
    return "\n".join(["| value | default | meaning |", "|---|---|---|", *rows])
