"""The part of values.schema.json that the server's own settings decide, printed from them; `.venv/serve` runs it."""

from __future__ import annotations

import json
from typing import Any, Final

from service.settings import Settings

DECIDED_ELSEWHERE: Final = frozenset(
    [
        "host",
        "port",
        "grpc_port",
        "metrics_port",
        "metrics_access",
        "models",
        "admin_key",
        "api_keys_file",
        "tls_cert_file",
        "tls_key_file",
        "tls_client_ca_file",
        "profile_cache",
        "drain_delay_s",
        "drain_timeout_s",
    ]
)
"""What other values say, or the chart itself; twice said it could only be said wrongly."""

_KEPT: Final = ("type", "enum", "const", "minimum", "maximum", "exclusiveMinimum", "anyOf")


def main() -> None:
    """Print the properties of `settings`."""
    described = Settings.model_json_schema()["properties"]
    print(json.dumps({name: _plain(one) for name, one in described.items() if name not in DECIDED_ELSEWHERE}))


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """What a value may be. None can't be said in an environment; `on` and `off` come as booleans out of YAML."""
    kept = {key: schema[key] for key in _KEPT if key in schema}
    if "anyOf" in kept:
        options = [_plain(one) for one in kept["anyOf"] if one["type"] != "null"]
        kept = options[0] if len(options) == 1 else {"anyOf": options}
    if {"on", "off"} & set(kept.get("enum", ())):
        return {"anyOf": [kept, {"type": "boolean"}]}
    return kept


if __name__ == "__main__":
    main()
