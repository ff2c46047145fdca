from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from training.core.config import read_config
from training.core.export import export_onnx, open_session
from training.image_generation.model import (
    ConditionalNorm,
    Discriminator,
    Generator,
    ModelConfig,
    count_parameters,
    doublings,
)
from training.image_generation.train import Config

COMMITTED = Path(__file__).parents[3] / "training" / "image_generation"
SMALL = ModelConfig(latent=6, generator=4, discriminator=4, widest=8)
PLAIN = ModelConfig(recipe="dcgan", conditional=False, latent=6, generator=4, discriminator=4, widest=8)


def _inputs(rows: int, classes: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 6, generator=draw), torch.rand(rows, classes, generator=draw)


def _learnt(config: ModelConfig, size: int, channels: int, classes: int) -> Generator:
    """A generator whose normalisation is no longer that of new weights."""
    torch.manual_seed(4)
    network = Generator(config, size=size, channels=channels, classes=classes)
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(0.2 * torch.randn_like(weights))
        for _ in range(3):
            network(*_inputs(16, classes))
    return network.eval()


@pytest.mark.parametrize(("size", "count"), [(10, 1), (16, 1), (28, 2), (32, 2), (40, 3), (48, 3), (56, 3), (64, 3)])
def test_a_size_is_a_small_image_doubled(size: int, count: int) -> None:
    assert doublings(size) == count
    assert size // 2**count * 2**count == size


@pytest.mark.parametrize("size", [0, 1, 7, 8, 27, 30, 36, 44, 72, 80, 128])
def test_a_size_that_cannot_be_drawn_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"images of {size} x {size} can't be drawn"):
        doublings(size)


@pytest.mark.parametrize(("config", "classes"), [(SMALL, 3), (SMALL, 1), (PLAIN, 1)], ids=["classes", "none", "dcgan"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 32, 40, 64])
def test_both_networks_fit_images_of_any_size_offered(
    config: ModelConfig, classes: int, channels: int, size: int
) -> None:
    latent, condition = _inputs(2, classes)
    image = Generator(config, size=size, channels=channels, classes=classes)(latent, condition)
    assert image.shape == (2, channels, size, size)
    assert float(image.detach().abs().max()) <= 1
    answer = Discriminator(config, size=size, channels=channels, classes=classes)(image, condition)
    assert answer.shape == (2,)
    answer.sum().backward()


def test_a_plain_gan_has_no_condition() -> None:
    with pytest.raises(ValidationError, match="dcgan has no condition"):
        ModelConfig(recipe="dcgan")


@pytest.mark.parametrize("name", ["config", "dcgan"])
def test_the_committed_generators_are_within_the_parameters_allowed(name: str) -> None:
    config = read_config(Config, COMMITTED / f"{name}.toml")
    classes = 10 if config.model.conditional else 1
    assert count_parameters(Generator(config.model, size=28, channels=1, classes=classes)) <= 2_000_000


# What a generator promises


@pytest.mark.parametrize("classes", [1, 3])
def test_a_row_does_not_depend_on_its_neighbours(classes: int) -> None:
    network = _learnt(SMALL, 12, 3, classes)
    latent, condition = _inputs(5, classes)
    with torch.no_grad():
        together = network(latent, condition)
        for row in range(5):
            alone = network(latent[row : row + 1], condition[row : row + 1])
            torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-6)


def test_what_is_drawn_depends_on_latent_and_condition() -> None:
    network = _learnt(SMALL, 12, 1, 3)
    latent, _ = _inputs(2, 3)
    conditions = torch.eye(3)
    with torch.no_grad():
        of_class = network(latent[:1].expand(3, -1), conditions)
        of_latent = network(latent, conditions[:1].expand(2, -1))
    assert float((of_class[0] - of_class[1]).abs().max()) > 0.01
    assert float((of_latent[0] - of_latent[1]).abs().max()) > 0.01


def test_in_evaluation_a_normalisation_is_a_fixed_scale_and_shift_of_the_class() -> None:
    torch.manual_seed(2)
    norm = ConditionalNorm(4, 3)
    nn.init.normal_(norm.scale.weight)
    nn.init.normal_(norm.shift.weight)
    norm(torch.randn(8, 4, 5, 5) * 3 + 1, torch.eye(3)[torch.arange(8) % 3])
    norm.eval()
    image, condition = torch.randn(2, 4, 5, 5), torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    scale = condition @ norm.scale.weight.T / (norm.norm.running_var + norm.norm.eps).sqrt()
    shift = condition @ norm.shift.weight.T - scale * norm.norm.running_mean
    torch.testing.assert_close(norm(image, condition), image * scale[:, :, None, None] + shift[:, :, None, None])


@pytest.mark.filterwarnings("ignore:# The axis name. batch will not be used:UserWarning")
def test_a_generator_becomes_a_graph_that_draws_the_same_at_other_batch_sizes(tmp_path: Path) -> None:
    network = _learnt(SMALL, 12, 1, 3)
    path = tmp_path / "generator.onnx"
    names = ("latent", "condition")
    export_onnx(network, dict(zip(names, _inputs(2, 3), strict=True)), ["image"], path)
    session = open_session(path, threads=1)
    for rows in (1, 3, 7):
        inputs = _inputs(rows, 3, seed=rows)
        feed = {name: one.numpy() for name, one in zip(names, inputs, strict=True)}
        (image,) = session.run(["image"], feed)
        with torch.no_grad():
            np.testing.assert_allclose(image, network(*inputs).numpy(), rtol=1e-4, atol=1e-5)


# What a discriminator promises


def test_every_layer_of_the_discriminator_comes_to_the_spectral_norm_one() -> None:
    torch.manual_seed(3)
    network = Discriminator(SMALL, size=12, channels=3, classes=3)
    image, condition = torch.randn(4, 3, 12, 12), torch.eye(3)[[0, 1, 2, 0]]
    with torch.no_grad():
        for weights in network.parameters():
            weights.mul_(50)
        for _ in range(60):
            network(image, condition)
    layers = [module for module in network.eval().modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == 4
    for layer in layers:
        norm = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
        assert float(norm) == pytest.approx(1, abs=0.02)


def test_the_class_decides_with_the_features_of_the_image() -> None:
    torch.manual_seed(3)
    network = Discriminator(SMALL, size=12, channels=3, classes=3).eval()
    image, condition = torch.randn(1, 3, 12, 12), torch.eye(3)
    with torch.no_grad():
        answers = network(image.expand(3, -1, -1, -1), condition)
        features = network.features(image).sum((2, 3))[0]
        plain = float(network.answer(features))
        torch.testing.assert_close(answers, plain + network.projection(condition) @ features)
    assert len(set(answers.tolist())) == 3


def test_a_plain_discriminator_does_not_look_at_the_class_and_has_no_spectral_norm() -> None:
    torch.manual_seed(3)
    network = Discriminator(PLAIN, size=12, channels=1, classes=1).eval()
    image = torch.randn(2, 1, 12, 12)
    with torch.no_grad():
        assert torch.equal(network(image, torch.ones(2, 1)), network(image, torch.zeros(2, 1)))
    assert not any("parametrizations" in name for name in network.state_dict())
