"""Architectures by name, for weights in a safetensors file: the second way to bring a model, without any code of the user's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify.errors import InputError, Problem

Shape = tuple[int, ...]
_SHOWN = 4


def build(name: str, input_shape: Shape, classes: int) -> nn.Module:
    """The architecture of that name with fresh weights, in eval mode: (batch, *input_shape) -> (batch, classes).

    Raises:
        InputError: no such architecture, or it does not take such inputs.
    """
    if name not in ARCHITECTURES:
        raise InputError(
            Problem(field="architecture", detail=f"there is none named {name!r}", mend=f"use one of {', '.join(ARCHITECTURES)}")
        )
    if classes < 2:
        raise InputError(Problem(field="classes", detail=f"{classes} is too few", mend="give the number of classes, at least 2"))
    if name != "mlp" and len(input_shape) != 3:
        detail = f"{name} takes images, not inputs of shape {list(input_shape)}"
        raise InputError(Problem(field="input_shape", detail=detail, mend="give channels, height, width: 3,32,32"))
    return ARCHITECTURES[name](input_shape, classes).eval()


def load(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put weights into a module; every name and shape must fit.

    Raises:
        InputError: the first names that are missing, unknown or of another shape.
    """
    own = module.state_dict()
    counters = {
        name for name in own if name.endswith("num_batches_tracked")
    }  # older files leave these out; nothing reads them in eval mode
    problems = {
        "lacks": sorted(set(own) - set(weights) - counters),
        "has the unknown": sorted(set(weights) - set(own)),
        "has another shape for": sorted(k for k in set(own) & set(weights) if own[k].shape != weights[k].shape),
        "has another kind of number for": sorted(
            k for k in set(own) & set(weights) if own[k].is_floating_point() != weights[k].is_floating_point()
        ),
    }
    for what, names in problems.items():
        if names:
            shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
            mend = "use the architecture that the weights were trained with"
            raise InputError(Problem(field="weights", detail=f"the file {what} {shown}", mend=mend))
    module.load_state_dict(dict(weights), strict=False)


def _mlp(input_shape: Shape, classes: int, hidden: tuple[int, ...] = (256, 256)) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise((math.prod(input_shape), *hidden)):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], classes))


def _lenet(input_shape: Shape, classes: int) -> nn.Module:
    channels, height, width = input_shape
    side = (height // 2 // 2) * (width // 2 // 2)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * side, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )


class BasicBlock(nn.Module):
    """Two convolutions beside a skip path, which is a strided 1x1 convolution where the size changes (He et al. 2015)."""

    def __init__(self, channels: int, made: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, made, 3, stride, 1, bias=False), nn.BatchNorm2d(made)
        self.conv2, self.bn2 = nn.Conv2d(made, made, 3, 1, 1, bias=False), nn.BatchNorm2d(made)
        same = stride == 1 and channels == made
        self.downsample = nn.Identity() if same else nn.Sequential(nn.Conv2d(channels, made, 1, stride, bias=False), nn.BatchNorm2d(made))

    def forward(self, x: Tensor) -> Tensor:  # x: (batch, channels, height, width)
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        added: Tensor = F.relu(inner + self.downsample(x))
        return added


class WideBlock(nn.Module):
    """Normalisation before each convolution (Zagoruyko and Komodakis 2016)."""

    def __init__(self, channels: int, made: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, made, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(made), nn.Conv2d(made, made, 3, 1, 1, bias=False)
        self.shortcut = nn.Identity() if stride == 1 and channels == made else nn.Conv2d(channels, made, 1, stride, bias=False)
        self.same = stride == 1 and channels == made

    def forward(self, x: Tensor) -> Tensor:  # x: (batch, channels, height, width)
        ready = F.relu(self.bn1(x))
        inner = self.conv2(F.relu(self.bn2(self.conv1(ready))))
        added: Tensor = inner + (x if self.same else self.shortcut(ready))
        return added


class ResNet(nn.Module):
    """A stem, stages of blocks each at half the size of the one before, the mean over all positions, and a linear head."""

    def __init__(self, channels: int, classes: int, block: type[nn.Module], widths: tuple[int, ...], depth: int, stem: int) -> None:
        super().__init__()
        self.wide = block is WideBlock
        self.conv1 = nn.Conv2d(channels, stem, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[-1] if self.wide else stem)
        stages = []
        for stage, (fan_in, fan_out) in enumerate(pairwise((stem, *widths))):
            first = block(fan_in, fan_out, 2 if stage else 1)
            stages.append(nn.Sequential(first, *(block(fan_out, fan_out, 1) for _ in range(depth - 1))))
        self.layers = nn.Sequential(*stages)
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:  # x: (batch, channels, height, width)
        x = self.conv1(x)
        x = F.relu(self.bn1(self.layers(x))) if self.wide else self.layers(F.relu(self.bn1(x)))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def _resnet(input_shape: Shape, classes: int, widths: tuple[int, ...], depth: int, block: type[nn.Module] = BasicBlock) -> nn.Module:
    stem = 16 if block is WideBlock else widths[0]
    return ResNet(input_shape[0], classes, block, widths, depth, stem)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:  # x: (batch, tokens, width)
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        mixed: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, width))
        return mixed


class Encoder(nn.Module):
    """Attention and a two-layer network, each normalised before and added to what it read."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:  # x: (batch, tokens, width)
        x = x + self.attn(self.norm1(x))
        added: Tensor = x + self.mlp(self.norm2(x))
        return added


class ViT(nn.Module):
    """Patches, a class token, learned positions, encoders (Dosovitskiy et al. 2021)."""

    def __init__(self, input_shape: Shape, classes: int, patch: int = 4, width: int = 192, depth: int = 6, heads: int = 3) -> None:
        super().__init__()
        channels, height, rest = input_shape
        if height % patch or rest % patch:
            detail = f"{height} x {rest} is not divided by the patch size {patch}"
            raise InputError(Problem(field="input_shape", detail=detail, mend=f"use sides that are multiples of {patch}"))
        self.patch_embed = nn.Conv2d(channels, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (height // patch) * (rest // patch), width))
        self.blocks = nn.Sequential(*(Encoder(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:  # x: (batch, channels, height, width)
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1) + self.pos_embed
        logits: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return logits


_CIFAR = (16, 32, 64)

ARCHITECTURES: dict[str, Callable[[Shape, int], nn.Module]] = {
    "mlp": _mlp,
    "lenet": _lenet,
    "resnet18": partial(_resnet, widths=(64, 128, 256, 512), depth=2),
    "resnet20": partial(_resnet, widths=_CIFAR, depth=3),
    "resnet56": partial(_resnet, widths=_CIFAR, depth=9),
    "resnet110": partial(_resnet, widths=_CIFAR, depth=18),
    "wide-resnet-16-4": partial(_resnet, widths=(64, 128, 256), depth=2, block=WideBlock),
    "wide-resnet-28-10": partial(_resnet, widths=(160, 320, 640), depth=4, block=WideBlock),
    "vit-tiny": ViT,
}
