"""The models of OpenAI's dialect: those that generate text or draw pictures. They are listed, described and found."""

from __future__ import annotations

from typing import TypeVar

from fastapi import APIRouter
from starlette.responses import Response

from service.errors import BadInput, NotFound
from service.protocols.requests import json_response
from service.repository.image_model import ImageModel
from service.repository.model import Model
from service.repository.repository import Repository
from service.repository.text_model import TextModel

ModelT = TypeVar("ModelT", bound=Model)

_ABILITIES: dict[type[Model], str] = {TextModel: "generates no text", ImageModel: "draws no pictures"}
"""What a call needs of a model, and what is said of one that has it not."""


def router(repository: Repository) -> APIRouter:
    """The routes that tell of models."""
    routes = APIRouter()

    async def models() -> Response:
        """List the models that generate text or draw pictures."""
        names = sorted({entry.name for entry in repository.entries() if entry.state == "READY"})
        served = [repository.get(name) for name in names if repository.versions(name)]
        known = [_describe(model) for model in served if isinstance(model, tuple(_ABILITIES))]
        return json_response({"object": "list", "data": known})

    async def model_by_id(model: str) -> Response:
        """Describe one model."""
        return json_response(_describe(find(repository, model, *_ABILITIES)))

    routes.add_api_route("/models", models, response_model=None)
    routes.add_api_route("/models/{model}", model_by_id, response_model=None)
    return routes


def find(repository: Repository, name: object, *kinds: type[ModelT]) -> ModelT:
    """Look up the model that a request names.

    Args:
        repository: of all models.
        name: as it came.
        kinds: that it may be of.

    Raises:
        BadInput: it is no name.
        NotFound: there is no such model, or it is of another kind.
        NotReady: it can't answer now.
    """
    if not isinstance(name, str):
        raise BadInput("model must be the name of a model", parameter="model")
    try:
        served = repository.get(name)
    except NotFound as error:
        error.parameter = "model"
        raise
    if not isinstance(served, kinds):
        # Where it is asked for its text, the list has no such model; and the client would try again after a 5xx.
        lacks = " and ".join(_ABILITIES[kind] for kind in kinds)
        raise NotFound(f"model {name!r} {lacks}: POST /predict/{name} asks it", parameter="model")
    return served


def _describe(model: Model) -> dict[str, object]:
    return {"id": model.name, "object": "model", "created": model.created, "owned_by": "inferd"}
