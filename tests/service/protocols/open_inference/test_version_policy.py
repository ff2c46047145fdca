"""What a load call asks for."""

from __future__ import annotations

import json

import pytest

from service.errors import BadInput, Unsupported
from service.protocols.open_inference.version_policy import policy_of
from service.repository.control import VersionPolicy


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ({"version_policy": None}, None),
        ({"version_policy": {"all": {}}}, VersionPolicy()),
        ({"version_policy": {"latest": {}}}, VersionPolicy(latest=1)),
        ({"version_policy": {"latest": {"num_versions": 2}}}, VersionPolicy(latest=2)),
        ({"version_policy": {"specific": {"versions": [3, 1]}}}, VersionPolicy(specific=(3, 1))),
        ({"name": "m", "backend": "onnxruntime", "platform": "onnxruntime_onnx"}, None),
    ],
)
def test_a_config_tells_which_versions_to_serve(config: dict[str, object], expected: VersionPolicy | None) -> None:
    assert policy_of("m", {"config": json.dumps(config)}) == expected


def test_without_a_config_the_server_decides() -> None:
    assert policy_of("m", {}) is None
    assert policy_of("m", {"config": None}) is None


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (7, "config must be a text of JSON"),
        ({}, "config must be a text of JSON"),
        ("", "config must be the text of a JSON object"),
        ("[]", "config must be the text of a JSON object"),
        ("{", "config must be the text of a JSON object"),
        ('{"a":' + "[" * 100_000, "config must be the text of a JSON object"),
        ('{"version_policy": {}}', "must be one of all, latest, specific"),
        ('{"version_policy": {"all": {}, "latest": {}}}', "must be one of all, latest, specific"),
        ('{"version_policy": []}', "can't be understood"),
        ('{"version_policy": {"newest": {}}}', "newest"),
        ('{"version_policy": {"all": {"a": 1}}}', "can't be understood"),
        ('{"version_policy": {"latest": {"num_versions": 0}}}', ">= 1"),
        ('{"version_policy": {"latest": {"num_versions": "2"}}}', "Expected `int`, got `str`"),
        ('{"version_policy": {"specific": {}}}', "versions"),
        ('{"version_policy": {"specific": {"versions": []}}}', "length >= 1"),
        ('{"version_policy": {"specific": {"versions": [0]}}}', ">= 1"),
        ('{"version_policy": {"specific": {"versions": [1.5]}}}', "Expected `int`"),
        (json.dumps({"version_policy": {"specific": {"versions": [1] * 1001}}}), "length <= 1000"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(config: object, said: str) -> None:
    with pytest.raises(BadInput, match=f"^load: .*{said}") as refused:
        policy_of("m", {"config": config})
    assert not isinstance(refused.value, Unsupported)


@pytest.mark.parametrize(
    "parameters",
    [
        {"file:1/model.onnx": "AAAA"},
        {"config": "{}", "other": 1},
        {"config": '{"max_batch_size": 4}'},
        {"config": '{"name": "other"}'},
        {"config": '{"backend": "pytorch"}'},
        {"config": '{"version_policy": {"all": {}}, "instance_group": []}'},
    ],
)
def test_nothing_else_can_be_changed_at_load(parameters: dict[str, object]) -> None:
    with pytest.raises(Unsupported, match=r"^load"):
        policy_of("m", parameters)
