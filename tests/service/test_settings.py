from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from service.settings import ENV_PREFIX, Settings

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
VALUES: dict[str, tuple[str, object]] = {
    "host": ("0.0.0.0", "0.0.0.0"),
    "port": ("9000", 9000),
    "grpc_port": ("9002", 9002),
    "metrics_port": ("9001", 9001),
    "workers": ("3", 3),
    "models": ("/srv/models", Path("/srv/models")),
    "model_control": ("explicit", "explicit"),
    "load_at_start": ("a,b", "a,b"),
    "version_policy": ("latest", "latest"),
    "poll_s": ("0.5", 0.5),
    "load_timeout_s": ("60", 60.0),
    "load_memory_bytes": ("1000000000", 1_000_000_000),
    "max_run_s": ("2.5", 2.5),
    "let_go_timeout_s": ("0", 0.0),
    "admin_key": ("secret", SecretStr("secret")),
    "api_keys_file": ("/srv/keys.jsonl", Path("/srv/keys.jsonl")),
    "predict_access": ("key", "key"),
    "metrics_access": ("open", "open"),
    "cors_origins": ("https://a.example, http://localhost:3000", "https://a.example,http://localhost:3000"),
    "tls_cert_file": ("/srv/tls.crt", Path("/srv/tls.crt")),
    "tls_key_file": ("/srv/tls.key", Path("/srv/tls.key")),
    "tls_client_ca_file": ("/srv/ca.crt", Path("/srv/ca.crt")),
    "device": ("cuda", "cuda"),
    "tensorrt": ("true", True),
    "threads": ("3", 3),
    "profile": ("/srv/profiles.json", Path("/srv/profiles.json")),
    "profile_cache": ("/srv/profiles", Path("/srv/profiles")),
    "max_body_bytes": ("1000", 1000),
    "max_inflight_bytes": ("5000", 5000),
    "max_connections": ("10", 10),
    "max_head_bytes": ("2048", 2048),
    "max_url_bytes": ("100", 100),
    "head_timeout_s": ("0.5", 0.5),
    "body_timeout_s": ("5", 5.0),
    "send_timeout_s": ("7", 7.0),
    "max_pixels": ("2000", 2000),
    "max_prompt_tokens": ("100", 100),
    "max_new_tokens": ("50", 50),
    "max_text_characters": ("50", 50),
    "max_batch_rows": ("16", 16),
    "max_queue_s": ("0.25", 0.25),
    "max_queue_rows": ("100", 100),
    "drain_delay_s": ("5", 5.0),
    "drain_timeout_s": ("7.5", 7.5),
    "playground": ("off", "off"),
    "access_log": ("1", True),
    "log_level": ("debug", "debug"),
    "tracing": ("otlp", "otlp"),
}
BAD_VALUES = {
    "port": ["-1", "65536", "http", ""],
    "grpc_port": ["-1", "65536", "http"],
    "metrics_port": ["-1", "65536", "http"],
    "workers": ["0", "-1", "65", "many", ""],
    "model_control": ["always", ""],
    "version_policy": ["newest"],
    "poll_s": ["0", "-1", "soon"],
    "load_timeout_s": ["0"],
    "load_memory_bytes": ["-1", "1G"],
    "max_run_s": ["0"],
    "let_go_timeout_s": ["-1"],
    "admin_key": ["two words", "schl\u00fcssel", "a\nb"],
    "predict_access": ["closed", ""],
    "metrics_access": ["public", ""],
    "cors_origins": ["a.example", "https://a.example/", "https://a.example/page", "*,https://a.example", "https://*.a"],
    "device": ["gpu", "CUDA", ""],
    "tensorrt": ["perhaps"],
    "threads": ["-1", "257", "1.5"],
    "max_body_bytes": ["0", "16MB"],
    "max_inflight_bytes": ["0"],
    "max_connections": ["0", "many"],
    "max_head_bytes": ["100"],
    "max_url_bytes": ["10"],
    "head_timeout_s": ["0"],
    "body_timeout_s": ["0"],
    "send_timeout_s": ["0"],
    "max_pixels": ["0", "many", "200000000"],
    "max_prompt_tokens": ["0", "many"],
    "max_new_tokens": ["0"],
    "max_text_characters": ["0"],
    "max_batch_rows": ["0", "5000"],
    "max_queue_s": ["0", "-1", "soon"],
    "max_queue_rows": ["0"],
    "drain_delay_s": ["-1"],
    "drain_timeout_s": ["-1"],
    "playground": ["yes", ""],
    "access_log": ["perhaps"],
    "log_level": ["loud"],
    "tracing": ["on", ""],
}


def documented() -> dict[str, str]:
    """Read the table of settings: each variable with its default."""
    rows = re.findall(r"^\| `(INFERD_\w+)` \| ([^|]+) \|", OPERATIONS.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: default.strip().strip("`") for name, default in rows}


def test_every_setting_is_documented_and_nothing_else_is() -> None:
    assert set(documented()) == {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_default_of_a_setting_is_the_one_in_the_documentation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    default = documented()[f"{ENV_PREFIX}{name.upper()}"]
    monkeypatch.delenv(f"{ENV_PREFIX}PROFILE_CACHE")  # what the tests' environment says of it
    usual = getattr(Settings(), name)
    if default == "unset":
        assert usual is None
        return
    monkeypatch.setenv(f"{ENV_PREFIX}{name.upper()}", default)
    assert getattr(Settings(), name) == usual


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_every_setting_is_tried_here() -> None:
    assert VALUES.keys() == Settings.model_fields.keys()


@pytest.mark.parametrize("name", VALUES)
def test_a_setting_is_read_from_its_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, value = VALUES[name]
    assert getattr(Settings(), name) != value
    monkeypatch.setenv(f"{ENV_PREFIX}{name.upper()}", text)
    assert getattr(Settings(), name) == value


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD_VALUES.items() for text in texts])
def test_a_bad_value_is_refused_by_its_name(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{ENV_PREFIX}{name.upper()}", text)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert {problem["loc"][0] for problem in caught.value.errors()} == {name}


OPTIONAL = ["api_keys_file", "cors_origins", "tls_cert_file", "tls_key_file", "tls_client_ca_file"]


@pytest.mark.parametrize("name", ["grpc_port", "metrics_port", "admin_key", *OPTIONAL])
def test_an_empty_variable_stands_for_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{ENV_PREFIX}{name.upper()}", "")
    assert getattr(Settings(), name) is None


def test_settings_reach_another_process_whole_and_the_key_is_in_no_text_of_them() -> None:
    settings = Settings(admin_key=SecretStr("top-secret"), grpc_port=None, workers=2, models=Path("/srv"))
    assert Settings.from_json(settings.to_json()) == settings
    assert "top-secret" not in f"{settings} {settings!r} {settings.model_dump_json()}"
    assert Settings.from_json(Settings().to_json()) == Settings()


def test_what_is_given_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERD_PORT", "9000")
    assert Settings(port=9001).port == 9001


def test_settings_do_not_change_once_they_are_read() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_the_server_listens_on_this_machine_alone_unless_told_otherwise() -> None:
    assert (Settings().host, Settings().port) == ("127.0.0.1", 8000)


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_empty_admin_key_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERD_ADMIN_KEY", text)
    assert Settings().admin_key is None


def test_an_admin_key_from_a_file_may_end_as_files_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERD_ADMIN_KEY", "s3cret=\n")
    key = Settings().admin_key
    assert key
    assert key.get_secret_value() == "s3cret="


@pytest.mark.parametrize("key", [None, "s3cret"])
def test_settings_go_to_another_process_as_they_are(key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (text, _) in VALUES.items():
        monkeypatch.setenv(f"{ENV_PREFIX}{name.upper()}", text)
    given = Settings(admin_key=key, grpc_port=None, max_queue_s=float("inf"))
    for name in VALUES:
        monkeypatch.delenv(f"{ENV_PREFIX}{name.upper()}")
    arrived = Settings.from_json(given.to_json())
    assert arrived == given
    assert {name: getattr(arrived, name) for name in VALUES} == {
        **{name: value for name, (_, value) in VALUES.items()},
        "admin_key": SecretStr(key) if key else None,
        "grpc_port": None,
        "max_queue_s": float("inf"),
    }


def test_settings_from_another_process_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(f"{ENV_PREFIX}PROFILE_CACHE")
    content = Settings().to_json()
    for name, (text, _) in VALUES.items():
        monkeypatch.setenv(f"{ENV_PREFIX}{name.upper()}", text)
    arrived = Settings.from_json(content)
    assert {name: getattr(arrived, name) for name in VALUES} == {
        name: field.default for name, field in Settings.model_fields.items()
    }
