"""What compose.yaml has of the chart.

`python -m tests.deploy.chart.compose` writes deploy/prometheus/alerts.yml anew.
"""

from __future__ import annotations

from typing import Any, Final

import helm_python
import yaml

from tests.deploy.chart.rendering import CHART, ROOT

ALERTS: Final = ROOT / "deploy" / "prometheus" / "alerts.yml"
NAMESPACE: Final = "compose"
SERVICE: Final = "inferd"
_HEAD = "# The chart's own, for a release called inferd; made by `python -m tests.deploy.chart.compose`.\n"


def rules() -> dict[str, Any]:
    """The groups of rules that the chart has by itself, for what compose.yaml runs."""
    with helm_python.Chart.load(CHART) as chart:
        rendered = chart.render({"prometheusRule": {"enabled": True}}, name=SERVICE, namespace=NAMESPACE)
    (text,) = (text for path, text in rendered.items() if path.endswith("/prometheusrule.yaml"))
    spec: dict[str, Any] = yaml.safe_load(text)["spec"]
    return spec


def written() -> str:
    """What `ALERTS` should have."""
    return _HEAD + yaml.safe_dump(rules(), sort_keys=False, width=1000)


if __name__ == "__main__":
    ALERTS.write_text(written(), encoding="utf-8")
