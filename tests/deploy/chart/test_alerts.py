"""The rules as promtool plays them, minute by minute: each alert fires where it should, when it should, and alone."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from tests.deploy.chart.processes import needs
from tests.deploy.chart.rendering import defaults, pick, render

MODEL: Final = {"model": "en-de", "version": "1"}


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    """A series of the release's in promtool's words: a value a minute."""
    every = {"namespace": "ml", "service": "inferd", "pod": "a", **labels}
    return {
        "series": f"{name}{{{','.join(f'{key}={json.dumps(one)}' for key, one in every.items())}}}",
        "values": values,
    }


READY: Final = series("inferd_ready", "1x60")
ANSWERED: Final = series("inferd_requests_total", "0+600x60", protocol="predict", code="200")
ASKED: Final = series("inferd_request_duration_seconds_count", "0+600x60", **MODEL)


def seconds(le_2: int, le_8: int) -> list[dict[str, str]]:
    """A histogram: so many more requests a minute that took up to 2 and up to 8 seconds."""
    grown = {"2": le_2, "8": le_8, "+Inf": le_8}
    return [series("inferd_request_duration_seconds_bucket", f"0+{n}x60", le=le, **MODEL) for le, n in grown.items()]


def bad(code: str, a_minute: int, protocol: str = "predict") -> dict[str, str]:
    return series("inferd_requests_total", f"0+{a_minute}x60", protocol=protocol, code=code)


CASES: Final[dict[str, tuple[list[dict[str, str]], dict[str, int]]]] = {
    "all is well": ([READY, ANSWERED, ASKED, *seconds(600, 600), series("up", "1x60")], {}),
    "nobody has asked yet": ([READY, series("inferd_requests_total", "0x60", protocol="predict", code="200")], {}),
    "none is ready": ([series("inferd_ready", "0x60")], {"InferdUnavailable": 1, "InferdNotReady": 5}),
    "none is there": ([series("up", "0x60")], {"InferdUnavailable": 1, "InferdDown": 5}),
    "another release is ready": (
        [series("inferd_ready", "1x60", service="canary-inferd")],
        {"InferdUnavailable": 1},
    ),
    "one of two is not ready": ([READY, series("inferd_ready", "0x60", pod="b")], {"InferdNotReady": 5}),
    "one loads for four minutes": ([READY, series("inferd_ready", "0x4 1x56", pod="b")], {}),
    "one of two is gone": ([READY, series("up", "1x60"), series("up", "0x60", pod="b")], {"InferdDown": 5}),
    "two in a hundred fail": ([READY, ANSWERED, bad("500", 13)], {"InferdErrorRate": 6}),
    "one in two hundred fails": ([READY, ANSWERED, bad("500", 3)], {}),
    "gRPC fails": ([READY, ANSWERED, bad("INTERNAL", 13, "grpc")], {"InferdErrorRate": 6}),
    "callers are wrong": ([READY, ANSWERED, bad("400", 300), bad("429", 300), bad("504", 300)], {}),
    "probes of a pod that loads": ([READY, ANSWERED, bad("503", 300, "health")], {}),
    "three in a hundred take 8 s": ([READY, *seconds(582, 600)], {"InferdLatencyP99": 11}),
    "one in two hundred takes 8 s": ([READY, *seconds(597, 600)], {}),
    "two in a hundred are refused": (
        [READY, ASKED, series("inferd_request_failures_total", "0+12x60", reason="overloaded", **MODEL)],
        {"InferdSaturated": 6},
    ),
    "a deadline is missed": (
        [READY, ASKED, series("inferd_request_failures_total", "0+300x60", reason="deadline", **MODEL)],
        {},
    ),
    "a worker died": ([READY, series("inferd_worker_restarts_total", "0x29 1x30")], {"InferdWorkerRestarts": 30}),
    "a model is quarantined": ([READY, series("inferd_quarantined_models", "1x60")], {"InferdModelQuarantined": 1}),
}
"""What is read, and in which minute which alerts begin to fire."""


def rules(**changes: Any) -> dict[str, Any]:
    spec: dict[str, Any] = pick(render({"prometheusRule": {"enabled": True, **changes}}), "PrometheusRule")["spec"]
    return spec


def promtool(folder: Path, command: str, file: str, content: object) -> str:
    needs("promtool")
    (folder / file).write_text(json.dumps(content), encoding="utf-8")
    done = subprocess.run(
        ["promtool", command, "rules", file], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_finds_nothing_wrong(tmp_path: Path) -> None:
    assert "9 rules found" in promtool(tmp_path, "check", "rules.json", rules())


def played(folder: Path, given: list[dict[str, str]], firing: dict[int, list[str]]) -> None:
    """Have promtool play series, and see that in each of these minutes exactly these alerts fire."""
    (folder / "rules.json").write_text(json.dumps(rules()), encoding="utf-8")
    expected = [
        {
            "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
            "eval_time": f"{minute}m",
            "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in names],
        }
        for minute, names in firing.items()
    ]
    case = {"interval": "1m", "input_series": given, "promql_expr_test": expected}
    promtool(folder, "test", "test.json", {"rule_files": ["rules.json"], "evaluation_interval": "1m", "tests": [case]})


@pytest.mark.parametrize("name", CASES)
def test_alerts_fire_when_they_should_and_alone(name: str, tmp_path: Path) -> None:
    given, begin = CASES[name]
    minutes = {0, 40, *(minute - 1 for minute in begin.values()), *begin.values()}
    if "InferdWorkerRestarts" in begin:
        minutes -= {40}  # it is told for a quarter of an hour, and is over by itself then
        minutes |= {44, 50}
    firing = {
        minute: [alert for alert, since in begin.items() if since <= minute and (since != 30 or minute < 45)]
        for minute in sorted(minutes)
    }
    played(tmp_path, given, firing)


def test_every_alert_has_a_case_and_can_be_turned_off() -> None:
    alerts = {rule["alert"] for group in rules()["groups"] for rule in group["rules"] if "alert" in rule}
    assert alerts == {alert for _, begin in CASES.values() for alert in begin}
    off = rules(alerts={name: {"enabled": False} for name in defaults()["prometheusRule"]["alerts"]})
    assert [rule["record"] for group in off["groups"] for rule in group["rules"]] == ["inferd:queue_depth:sum"]


def test_the_queue_is_that_of_all_replicas_and_models_on_average(tmp_path: Path) -> None:
    (tmp_path / "rules.json").write_text(json.dumps(rules()), encoding="utf-8")
    case = {
        "interval": "30s",
        "input_series": [
            series("inferd_queue_depth", "4 8x20", **MODEL),
            series("inferd_queue_depth", "2x20", pod="b", **MODEL),
            series("inferd_queue_depth", "1x20", model="shakespeare", version="1"),
            series("inferd_queue_depth", "99x20", service="canary-inferd", **MODEL),
        ],
        "promql_expr_test": [
            {
                "expr": "inferd:queue_depth:sum",
                "eval_time": at,
                "exp_samples": [{"labels": 'inferd:queue_depth:sum{namespace="ml",service="inferd"}', "value": value}],
            }
            for at, value in (("30s", 6 + 2 + 1), ("5m", 8 + 2 + 1))
        ],
    }
    promtool(
        tmp_path, "test", "test.json", {"rule_files": ["rules.json"], "evaluation_interval": "30s", "tests": [case]}
    )
