from __future__ import annotations

from pathlib import Path
from typing import Any

import helm_python
import pytest

from tests.deploy.chart.conftest import described_settings
from tests.deploy.chart.rendering import CHART, Values, defaults, leaves, render, schema, values_table


def test_the_readme_has_the_table_of_all_values() -> None:
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    expected = values_table()
    assert readme.endswith(f"\n{expected}\n"), f"README.md should end with this table:\n{expected}"


def test_every_value_has_a_default_and_says_what_it_means() -> None:
    def compare(described: Values, values: Values, path: str) -> None:
        assert set(described["properties"]) - {"global"} == set(values), path
        assert described["additionalProperties"] is False, path
        for name, one in described["properties"].items():
            if "description" not in one:
                compare(one, values[name], f"{path}.{name}")

    compare(schema(), defaults(), "")
    for path, meaning, _ in leaves():
        assert len(meaning) >= 4, path


def test_settings_are_those_of_the_server(serve_python: Path) -> None:
    described = schema()["properties"]["settings"]
    assert described["properties"] == described_settings(serve_python)
    assert described["additionalProperties"] is False


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"replica": 3}, "at '': additional properties 'replica' not allowed"),
        ({"settings": {"max_que_s": 1}}, "at '/settings': additional properties 'max_que_s' not allowed"),
        ({"settings": {"port": 80}}, "at '/settings': additional properties 'port' not allowed"),
        ({"settings": {"workers": "many"}}, "at '/settings/workers': value must be 'auto'"),
        ({"settings": {"max_queue_s": 0}}, "at '/settings/max_queue_s'"),
        ({"image": {"pullPolicy": "Sometimes"}}, "at '/image/pullPolicy': value must be one of 'Always'"),
        ({"image": {"digest": "sha256:abc"}}, "at '/image/digest'"),
        ({"drain": {"delaySeconds": "5"}}, "at '/drain/delaySeconds': got string, want integer"),
        ({"probes": {"readiness": {"period": 1}}}, "at '/probes/readiness': additional properties 'period'"),
        ({"models": {"source": "s3"}}, "at '/models/source': value must be one of 'image', 'pvc', 'init', 'ociImage'"),
        ({"apiKeys": {"lines": [{"name": "a"}]}}, "at '/apiKeys/lines/0': missing properties 'sha256', 'scopes'"),
        ({"rollingUpdate": {"maxSurge": "some"}}, "at '/rollingUpdate/maxSurge'"),
        ({"ingress": {"enabled": True, "hosts": []}}, "at '/ingress/hosts': minItems"),
        ({"serviceMonitor": {"interval": "often"}}, "at '/serviceMonitor/interval'"),
        ({"models": {"source": "pvc"}}, "models.pvc.existingClaim must name the claim"),
        ({"models": {"source": "init"}}, "models.init.image must name the image"),
        ({"models": {"source": "ociImage"}}, "models.ociImage.reference must name the image"),
        ({"autoscaling": {"enabled": True}, "keda": {"enabled": True}}, "two autoscalers of one Deployment"),
        ({"keda": {"enabled": True}}, "keda.enabled reads the recording rule of prometheusRule.enabled"),
        ({"httpRoute": {"enabled": True}}, "httpRoute.enabled needs httpRoute.parentRefs"),
        ({"adminKey": {"value": "k", "existingSecret": "s"}}, "adminKey.value and adminKey.existingSecret are both"),
        ({"settings": {"model_control": "explicit"}}, "nobody could load a model: give adminKey"),
    ],
)
def test_values_that_make_no_sense_are_refused_in_words(values: dict[str, Any], message: str) -> None:
    with pytest.raises(helm_python.HelmError) as refused:
        render(values)
    assert message in str(refused.value)
