"""Which versions a load call asks for: the part of Triton's model configuration that can be given at load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from service.errors import BadInput, Unsupported
from service.protocols.open_inference.config import BACKEND, PLATFORM
from service.protocols.open_inference.tensors import shown
from service.repository.control import VersionPolicy

_MOST_VERSIONS = 1000

_Version = Annotated[int, msgspec.Meta(ge=1)]


class _All(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _Latest(msgspec.Struct, forbid_unknown_fields=True):
    num_versions: _Version = 1


class _Specific(msgspec.Struct, forbid_unknown_fields=True):
    versions: Annotated[list[_Version], msgspec.Meta(min_length=1, max_length=_MOST_VERSIONS)]


class _Policy(msgspec.Struct, forbid_unknown_fields=True):
    all: _All | None = None
    latest: _Latest | None = None
    specific: _Specific | None = None


_CONFIG = msgspec.json.Decoder(dict[str, Any])


def policy_of(name: str, parameters: Mapping[str, object]) -> VersionPolicy | None:
    """Read the parameters of a load call.

    Args:
        name: of the model.
        parameters: `config` alone is known: the text of a JSON object with `version_policy`. What names the model or
            the runtime may stand beside it if it is true, as Triton's clients have to say it.

    Returns:
        The policy asked for; None = as the server is set.

    Raises:
        Unsupported: something else shall be different from what lies in the model's folder.
        BadInput: `config` is no such text.
    """
    if others := [key for key in parameters if key != "config"]:
        raise Unsupported(f"load takes the parameter config alone, and no files; given: {shown(others)}")
    config = parameters.get("config")
    if config is None:
        return None
    if not isinstance(config, str):
        raise BadInput("load: config must be a text of JSON")
    try:
        fields = _CONFIG.decode(config)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"load: config must be the text of a JSON object: {error}") from error
    given = fields.pop("version_policy", None)
    facts = {"name": name, "backend": BACKEND, "platform": PLATFORM}
    if others := [key for key, value in fields.items() if key not in facts or value != facts[key]]:
        raise Unsupported(
            f"load: version_policy is all of config that can be given; the rest is what the model's folder says, but "
            f"for {shown(others)} something else is given"
        )
    return None if given is None else _policy(given)


def _policy(given: object) -> VersionPolicy:
    try:
        policy = msgspec.convert(given, _Policy)
    except (msgspec.ValidationError, RecursionError) as error:
        raise BadInput(f"load: version_policy can't be understood: {error}") from error
    chosen = [one for one in (policy.all, policy.latest, policy.specific) if one is not None]
    if len(chosen) != 1:
        raise BadInput("load: version_policy must be one of all, latest, specific")
    if policy.latest is not None:
        return VersionPolicy(latest=policy.latest.num_versions)
    if policy.specific is not None:
        return VersionPolicy(specific=tuple(policy.specific.versions))
    return VersionPolicy()
