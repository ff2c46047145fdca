"""The CIFAR ResNets (He et al. 2015, arXiv:1512.03385, section 4.2), with the published CIFAR-10 weights to start from.

Depth is 6n+2: three stages of n residual blocks with 16, 32 and 64 channels, identity shortcuts throughout ("option A":
a stage's first block takes every second pixel and fills the new channels with zeros), so that nearly every parameter
sits in a 3x3 convolution.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.core.config import ConfigModel
from training.core.data import RemoteFile, fetch

_WEIGHTS = "https://raw.githubusercontent.com/akamaster/pytorch_resnet_cifar10/master/pretrained_models/"
_PUBLISHED = {
    20: ("resnet20-12fca82f.th", "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8"),
    32: ("resnet32-d509ac18.th", "d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850"),
    44: ("resnet44-014dd654.th", "014dd6541728a1c700b1642ab640e211dc6eb8ed507d70697458dc8f8a0ae2e4"),
    56: ("resnet56-4bfd9763.th", "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367"),
}

STAGES = ("stem", "stage1", "stage2", "stage3", "head")
"""The parts of the network from input to output: what can be frozen or given a learning rate of its own."""


class ModelConfig(ConfigModel):
    """Which network, and what it starts from."""

    depth: Literal[20, 32, 44, 56]
    initial_weights: Literal["cifar10", "random"] = "cifar10"
    freeze: tuple[Literal["stem", "stage1", "stage2", "stage3"], ...] = ()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around an identity shortcut; a stride of 2 halves the image."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.new_channels = channels - channels_in

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels_in, H, W) to (N, channels, H / stride, W / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride != 1:
            half = self.new_channels // 2
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.new_channels - half))
        return functional.relu(x + y)


class ResNet(nn.Module):
    """A CIFAR ResNet.

    Args:
        depth: 6n+2 layers.
        channels: of the input image, 1 or 3.
        classes: number of outputs.
    """

    def __init__(self, depth: int, channels: int, classes: int) -> None:
        super().__init__()
        self.frozen: tuple[str, ...] = ()
        blocks = (depth - 2) // 6
        self.stem = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.stage1 = _stage(16, 16, 1, blocks)
        self.stage2 = _stage(16, 32, 2, blocks)
        self.stage3 = _stage(32, 64, 2, blocks)
        self.head = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def freeze(self, stages: Iterable[str]) -> None:
        """Keep the weights and the normalisation statistics of `stages` as they are, also in training mode."""
        self.frozen = tuple(stages)
        for name in self.frozen:
            getattr(self, name).requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Switch all stages but the frozen ones to training mode."""
        super().train(mode)
        for name in self.frozen:
            getattr(self, name).eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Map normalised images (N, channels, H, W), float32, to logits (N, classes)."""
        x = self.stage3(self.stage2(self.stage1(self.stem(image))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def _stage(channels_in: int, channels: int, stride: int, blocks: int) -> nn.Sequential:
    first = ResidualBlock(channels_in, channels, stride)
    return nn.Sequential(first, *(ResidualBlock(channels, channels, 1) for _ in range(blocks - 1)))


def published_weights(depth: int) -> RemoteFile:
    """The file of CIFAR-10 weights for `depth` (BSD 2-clause, see THIRD_PARTY.md)."""
    name, sha256 = _PUBLISHED[depth]
    return RemoteFile("cifar10_resnets", name, _WEIGHTS + name, f"sha256:{sha256}")


def build_model(config: ModelConfig, *, channels: int, classes: int) -> ResNet:
    """Make the network of `config` for images of `channels` and that many `classes`, its frozen stages frozen."""
    model = ResNet(config.depth, channels, classes)
    if config.initial_weights == "cifar10":
        load_cifar10_weights(model, config.depth)
    model.freeze(config.freeze)
    return model


def load_cifar10_weights(model: ResNet, depth: int) -> None:
    """Copy the published weights into `model`, all but the head, whose classes are others.

    A network for grey images gets the sum of the first convolution's weights over red, green and blue: it answers a
    grey image as the published network answers that image with three equal channels.
    """
    checkpoint = torch.load(fetch(published_weights(depth)), map_location="cpu", weights_only=True)
    weights = {_our_name(name): value for name, value in checkpoint["state_dict"].items()}
    weights = {name: value for name, value in weights.items() if not name.startswith("head.")}
    if model.stem[0].in_channels == 1:
        weights["stem.0.weight"] = weights["stem.0.weight"].sum(dim=1, keepdim=True)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or [name for name in missing if not name.startswith(("head.",)) and "num_batches" not in name]:
        raise ValueError(f"the published weights do not fit: missing {missing}, unexpected {unexpected}")


def _our_name(published: str) -> str:
    name = published.removeprefix("module.")
    for theirs, ours in (("conv1.", "stem.0."), ("bn1.", "stem.1."), ("linear.", "head.")):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name.replace("layer", "stage", 1)
