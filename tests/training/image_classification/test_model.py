from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.core.data import fetch
from training.core.loop import FitConfig, fit
from training.core.run import Run
from training.image_classification.model import (
    STAGES,
    ModelConfig,
    ResidualBlock,
    ResNet,
    build_model,
    load_cifar10_weights,
    published_weights,
)

DEPTHS = (20, 32, 44, 56)


def _images(rows: int, channels: int, height: int = 32, width: int = 32) -> Tensor:
    return torch.randn(rows, channels, height, width, generator=torch.Generator().manual_seed(4))


# The network


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_a_network_has_the_parameters_that_its_authors_count(depth: int, millions: float) -> None:
    count = sum(parameter.numel() for parameter in ResNet(depth, 3, 10).parameters())
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_network_has_as_many_layers_with_weights_as_it_is_deep(depth: int) -> None:
    layers = [module for module in ResNet(depth, 1, 10).modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


@pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 2), (3, 101)])
@pytest.mark.parametrize("size", [(32, 32), (28, 28), (15, 21)], ids=str)
def test_a_network_takes_images_of_any_size_to_one_output_a_class(
    size: tuple[int, int], channels: int, classes: int
) -> None:
    outputs = ResNet(20, channels, classes)(_images(2, channels, *size))
    assert outputs.shape == (2, classes)
    assert bool(outputs.isfinite().all())


def test_the_parts_of_a_network_are_its_stages_in_their_order() -> None:
    assert tuple(name for name, _ in ResNet(20, 3, 10).named_children()) == STAGES


def _without_convolutions(channels_in: int, channels: int, stride: int) -> ResidualBlock:
    block = ResidualBlock(channels_in, channels, stride).eval()
    for convolution in (block.conv1, block.conv2):
        nn.init.zeros_(convolution.weight)
    return block


def test_a_block_without_convolutions_hands_on_what_is_positive() -> None:
    images = _images(2, 16, 8, 8)
    assert torch.equal(_without_convolutions(16, 16, 1)(images), images.relu())


@pytest.mark.parametrize("size", [(8, 8), (7, 9)], ids=str)
def test_a_shortcut_takes_every_second_pixel_and_fills_new_channels_with_zeros(size: tuple[int, int]) -> None:
    images = _images(2, 16, *size)
    found = _without_convolutions(16, 32, 2)(images)
    assert torch.equal(found[:, 8:24], images[:, :, ::2, ::2].relu())
    assert not found[:, :8].any()
    assert not found[:, 24:].any()


def test_initial_weights_keep_the_scale_of_what_passes_through() -> None:
    torch.manual_seed(3)
    model = ResNet(56, 3, 10)
    with torch.no_grad():
        outputs = model(_images(32, 3))
    assert 0.1 < float(outputs.std()) < 10


# Freezing


@pytest.mark.parametrize("frozen", [(), ("stem",), ("stem", "stage1", "stage2", "stage3"), ("stage2",)], ids=str)
def test_frozen_stages_keep_weights_and_statistics_in_training(tmp_path: Path, frozen: tuple[str, ...]) -> None:
    torch.manual_seed(2)
    model = build_model(
        ModelConfig.model_validate({"depth": 20, "initial_weights": "random", "freeze": frozen}), channels=1, classes=3
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = FitConfig(
        epochs=1, learning_rate=0.1, warmup_epochs=0, schedule="constant", weight_decay=0.1, ema_decay=0.5
    )
    images = _images(3 * 4, 1, 8, 8)
    run = Run(tmp_path, config)
    fit(
        model,
        batches=lambda epoch, skip: iter(images.split(4)[skip:]),
        steps_per_epoch=3,
        loss=lambda network, batch: functional.cross_entropy(network(batch), torch.tensor([0, 1, 2, 0])),
        evaluate=lambda network: {"score": network.eval()(images).mean().item()},
        select="score",
        config=config,
        run=run,
    )
    averaged = ResNet(20, 1, 3)
    run.load_best(averaged)
    for after in (model.state_dict(), averaged.state_dict()):
        same = {name for name, value in after.items() if torch.equal(value, before[name])}
        of_frozen = {name for name in after if name.partition(".")[0] in frozen}
        assert same == of_frozen


def test_a_frozen_stage_stays_in_evaluation_mode_and_the_others_follow() -> None:
    model = ResNet(20, 3, 10)
    model.freeze(("stem", "stage1"))
    model.train()
    modes = {name: {module.training for module in getattr(model, name).modules()} for name in STAGES}
    assert modes == {"stem": {False}, "stage1": {False}, "stage2": {True}, "stage3": {True}, "head": {True}}
    assert {module.training for module in model.eval().modules()} == {False}


def test_the_head_cannot_be_frozen() -> None:
    with pytest.raises(ValueError, match="freeze"):
        ModelConfig.model_validate({"depth": 20, "freeze": ["head"]})


# The published weights


def _published_answer(weights: Mapping[str, Tensor], images: Tensor, depth: int) -> Tensor:
    """The published network, by the names its authors gave, written down once more: logits for CIFAR-10."""

    def normalised(x: Tensor, name: str) -> Tensor:
        weight, bias, mean, var = (
            weights[f"module.{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return functional.batch_norm(x, mean, var, weight, bias)

    x = functional.conv2d(images, weights["module.conv1.weight"], padding=1)
    x = normalised(x, "bn1").relu()
    for layer in (1, 2, 3):
        for block in range((depth - 2) // 6):
            name = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            y = functional.conv2d(x, weights[f"module.{name}.conv1.weight"], stride=stride, padding=1)
            y = normalised(y, f"{name}.bn1").relu()
            y = normalised(functional.conv2d(y, weights[f"module.{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if stride == 2:
                quarter = y.shape[1] // 4
                x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
            x = (x + y).relu()
    return functional.linear(x.mean((2, 3)), weights["module.linear.weight"], weights["module.linear.bias"])


@pytest.fixture
def published(cifar10_resnets: Path, request: pytest.FixtureRequest) -> Mapping[str, Tensor]:
    """The weights of the depth that a test is about, as they are published."""
    path = fetch(published_weights(request.getfixturevalue("depth")))
    assert path.parent == cifar10_resnets
    weights: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return weights


@pytest.mark.data
@pytest.mark.parametrize("depth", DEPTHS)
def test_published_weights_answer_as_the_published_network_does(depth: int, published: Mapping[str, Tensor]) -> None:
    model = ResNet(depth, 3, 10).eval()
    load_cifar10_weights(model, depth)
    # The head is not taken over, its classes being others; here they are the same ones.
    model.head.load_state_dict({"weight": published["module.linear.weight"], "bias": published["module.linear.bias"]})
    images = _images(4, 3)
    with torch.no_grad():
        torch.testing.assert_close(model(images), _published_answer(published, images, depth), rtol=1e-4, atol=1e-4)


@pytest.mark.data
@pytest.mark.parametrize("depth", [20, 56])
def test_a_grey_network_answers_a_grey_image_as_the_published_one_answers_it_in_colour(
    depth: int, published: Mapping[str, Tensor]
) -> None:
    torch.manual_seed(1)
    grey = build_model(ModelConfig.model_validate({"depth": depth}), channels=1, classes=10).eval()
    grey.head.load_state_dict({"weight": published["module.linear.weight"], "bias": published["module.linear.bias"]})
    image = _images(4, 1, 28, 28)
    with torch.no_grad():
        in_colour = _published_answer(published, image.expand(-1, 3, -1, -1), depth)
        torch.testing.assert_close(grey(image), in_colour, rtol=1e-4, atol=1e-4)


@pytest.mark.data
def test_the_head_starts_at_random_whatever_the_number_of_classes(cifar10_resnets: Path) -> None:
    assert cifar10_resnets.is_dir()
    torch.manual_seed(1)
    first = build_model(ModelConfig(depth=20), channels=3, classes=10)
    second = build_model(ModelConfig(depth=20), channels=3, classes=10)
    assert not torch.equal(first.head.weight, second.head.weight)
    assert torch.equal(first.stage3[2].conv2.weight, second.stage3[2].conv2.weight)


@pytest.mark.data
def test_weights_of_another_depth_are_refused(cifar10_resnets: Path) -> None:
    assert cifar10_resnets.is_dir()
    with pytest.raises(ValueError, match="do not fit"):
        load_cifar10_weights(ResNet(20, 3, 10), 32)


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_file_of_published_weights_is_named_by_its_digest(depth: int) -> None:
    file = published_weights(depth)
    algorithm, _, digest = file.digest.partition(":")
    assert algorithm == "sha256"
    # The authors name a file by the first eight digits of its sha256.
    assert file.name == f"resnet{depth}-{digest[:8]}.th"
    assert file.url.endswith(f"/{file.name}")
    assert file.url.startswith("https://")
