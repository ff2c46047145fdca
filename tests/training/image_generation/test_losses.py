from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from training.image_generation.losses import changed, discriminator_loss, generator_loss, gradient_penalty


def _draw(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_hinge_loss_wants_answers_beyond_one() -> None:
    real, drawn = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    assert float(discriminator_loss(real, drawn, "projection")) == pytest.approx((0 + 0.5 + 2) / 3 + (0 + 1 + 2) / 3)
    assert float(generator_loss(drawn, "projection")) == pytest.approx(2 / 3)


def test_cross_entropy_is_that_of_real_and_drawn() -> None:
    real, drawn = torch.tensor([0.7]), torch.tensor([-0.3])
    expected = -math.log(1 / (1 + math.exp(-0.7))) - math.log(1 - 1 / (1 + math.exp(0.3)))
    assert float(discriminator_loss(real, drawn, "dcgan")) == pytest.approx(expected)
    assert float(generator_loss(drawn, "dcgan")) == pytest.approx(-math.log(1 / (1 + math.exp(0.3))))


@pytest.mark.parametrize("recipe", ["projection", "dcgan"])
def test_discriminator_and_generator_pull_an_answer_in_opposite_directions(recipe: str) -> None:
    answer = torch.tensor([0.2, -0.4], requires_grad=True)
    (down,) = torch.autograd.grad(discriminator_loss(torch.zeros(2), answer, recipe), answer)  # type: ignore[arg-type]
    (up,) = torch.autograd.grad(generator_loss(answer, recipe), answer)  # type: ignore[arg-type]
    assert bool((down > 0).all())
    assert bool((up < 0).all())
    (real,) = torch.autograd.grad(discriminator_loss(answer, torch.zeros(2), recipe), answer)  # type: ignore[arg-type]
    assert bool((real < 0).all())


class Linear(nn.Module):
    """Answers the sum of pixels times `weight`, and times the condition's only number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        """Map (N, C, H, W) and (N, 1) to (N,)."""
        return self.weight * condition[:, 0] * image.sum((1, 2, 3))


def test_the_penalty_is_the_squared_gradient_of_each_answer_and_is_learnt_from() -> None:
    network = Linear()
    penalty = gradient_penalty(network, torch.randn(2, 1, 2, 2), torch.tensor([[1.0], [2.0]]))
    assert float(penalty.detach()) == pytest.approx((4 * 9 + 4 * 36) / 2)
    penalty.backward()
    assert float(network.weight.grad or 0) == pytest.approx(2 * 3 * (4 + 16) / 2)


def test_nothing_asked_for_changes_nothing() -> None:
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(changed(images, 0, 0, _draw()), images)


def test_images_are_shifted_each_on_its_own_and_what_comes_in_is_zero() -> None:
    images = torch.zeros(200, 2, 8, 8)
    images[:, :, 4, 4] = 1
    found = changed(images, 0.25, 0, _draw())
    assert bool((found.sum((2, 3)) == 1).all())
    assert torch.equal(found[:, 0], found[:, 1])
    places = {tuple(place) for place in found[:, 0].nonzero()[:, 1:].tolist()}
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}


def test_a_square_is_cut_out_of_each_image() -> None:
    found = changed(torch.ones(200, 3, 8, 8), 0, 0.5, _draw())
    assert bool(((found == 0).sum((2, 3)) == 16).all())
    assert torch.equal(found[:, 0], found[:, 2])
    assert len({tuple(image.flatten().tolist()) for image in found[:, 0]}) == 25


def test_changes_are_those_of_their_generator_and_let_gradients_pass() -> None:
    images = torch.randn(4, 1, 8, 8, requires_grad=True)
    first, again, other = (changed(images, 0.2, 0.3, _draw(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    (gradient,) = torch.autograd.grad(first.sum(), images)
    assert set(gradient.unique().tolist()) == {0.0, 1.0}
