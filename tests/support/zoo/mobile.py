"""Mobile and modern convolutional families, and networks on other inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.zoo.exhibit import CLASSES

Layer = Callable[[], nn.Module]


def conv_norm(cin: int, cout: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: Layer | None = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(cout)]
    return nn.Sequential(*layers, *([act()] if act else []))


def mobilenet_v1() -> nn.Module:
    def separable(cin: int, cout: int, stride: int) -> nn.Sequential:
        return nn.Sequential(conv_norm(cin, cin, 3, stride, cin), conv_norm(cin, cout, 1))

    body = [conv_norm(3, 8, 3, 2), separable(8, 16, 1), separable(16, 24, 2), separable(24, 24, 1)]
    return nn.Sequential(*body, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(24, CLASSES))


class SqueezeExcite(nn.Module):
    """torchvision's: two 1x1 convolutions on the pooled channels."""

    def __init__(self, channels: int, squeezed: int, act: Layer, gate: Layer) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.act, self.gate = act(), gate()

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.fc2(self.act(self.fc1(self.avgpool(x))))) * x


class LinearExcite(nn.Module):
    """The Linear form: pooled by mean, viewed back to an image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(channels, 4, bias=False), nn.ReLU(), nn.Linear(4, channels, bias=False), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        return x * self.fc(F.adaptive_avg_pool2d(x, 1).view(b, c)).view(b, c, 1, 1).expand_as(x)


class Inverted(nn.Module):
    def __init__(
        self,
        cin: int,
        cout: int,
        stride: int,
        act: Layer,
        excite: Callable[[int], nn.Module] | None = None,
        kernel: int = 3,
    ) -> None:
        super().__init__()
        wide = cin * 3
        layers = [conv_norm(cin, wide, 1, act=act), conv_norm(wide, wide, kernel, stride, wide, act=act)]
        self.conv = nn.Sequential(*layers, *([excite(wide)] if excite else []), conv_norm(wide, cout, 1, act=None))
        self.residual = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNet(nn.Module):
    def __init__(self, act: Layer, excite: Callable[[int], nn.Module] | None = None) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_norm(3, 8, 3, 2, act=act),
            Inverted(8, 8, 1, act, excite),
            Inverted(8, 12, 2, act, excite, kernel=5),
            Inverted(12, 12, 1, act, None),
            conv_norm(12, 32, 1, act=act),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(32, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(batch, channels, height, width)


class ShuffleUnit(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        half = cout // 2
        self.left = nn.Sequential(conv_norm(cin, cin, 3, stride, cin, act=None), conv_norm(cin, half, 1)) if stride > 1 else nn.Identity()
        inner = cin if stride > 1 else half
        self.right = nn.Sequential(conv_norm(inner, half, 1), conv_norm(half, half, 3, stride, half, act=None), conv_norm(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            left, right = x.chunk(2, dim=1)
            out = torch.cat((left, self.right(right)), dim=1)
        else:
            out = torch.cat((self.left(x), self.right(x)), dim=1)
        return channel_shuffle(out, 2)


class ShuffleNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, 8, 3, 2), nn.MaxPool2d(3, 2, 1))
        self.stages = nn.Sequential(ShuffleUnit(8, 16, 2), ShuffleUnit(16, 16, 1), ShuffleUnit(16, 24, 2), ShuffleUnit(24, 24, 1))
        self.fc = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stages(self.stem(x)).mean([2, 3]))


class RegBlock(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.proj = conv_norm(cin, cout, 1, stride, act=None) if cin != cout or stride != 1 else None
        self.f = nn.Sequential(
            conv_norm(cin, cout, 1),
            conv_norm(cout, cout, 3, stride, cout // 4),
            SqueezeExcite(cout, 4, nn.ReLU, nn.Sigmoid),
            conv_norm(cout, cout, 1, act=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu((self.proj(x) if self.proj is not None else x) + self.f(x), inplace=True)


class LayerNorm2d(nn.LayerNorm):
    """torchvision's: the last axis, between two permutations."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class ChannelNorm(nn.Module):
    """The arithmetic form, over channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        x = (x - u) / torch.sqrt(s + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class VarianceNorm(ChannelNorm):
    """timm's: torch.var and a reciprocal root."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, unbiased=False, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + 1e-6) * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class ConvNextBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.up = nn.Linear(dim, 3 * dim)
        self.down = nn.Linear(3 * dim, dim)
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        out = self.gamma * self.down(F.gelu(self.up(out)))
        return x + out.permute(0, 3, 1, 2)


def convnext(norm: Callable[[int], nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=4),
        norm(8),
        ConvNextBlock(8),
        norm(8),
        nn.Conv2d(8, 16, 2, stride=2),
        ConvNextBlock(16),
        nn.AdaptiveAvgPool2d(1),
        norm(16),
        nn.Flatten(1),
        nn.Linear(16, CLASSES),
    )


def normed(norm: Callable[[int], nn.Module]) -> nn.Module:
    body = [nn.Conv2d(3, 8, 3, 2, 1), norm(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), norm(16), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, CLASSES))


class Residual(nn.Module):
    def __init__(self, body: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.body, self.scale = body, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * self.scale + x


def convmixer() -> nn.Module:
    blocks = []
    for _ in range(2):
        depthwise = Residual(nn.Sequential(nn.Conv2d(12, 12, 5, groups=12, padding="same"), nn.GELU(), nn.BatchNorm2d(12)))
        blocks.append(nn.Sequential(depthwise, nn.Conv2d(12, 12, 1), nn.GELU(), nn.BatchNorm2d(12)))
    stem = [nn.Conv2d(3, 12, 4, stride=4), nn.GELU(), nn.BatchNorm2d(12)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(12, CLASSES))


def signal() -> nn.Module:
    """One-dimensional convolutions on (channels, length)."""
    return nn.Sequential(
        nn.Conv1d(2, 8, 7, stride=2, padding=3),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(8, 12, 3, dilation=2, padding=2),
        nn.LeakyReLU(0.1),
        nn.AvgPool1d(2),
        nn.AdaptiveMaxPool1d(4),
        nn.Flatten(),
        nn.Linear(48, CLASSES),
    )


class Volume(nn.Module):
    """Three-dimensional convolutions on (channels, depth, height, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2), nn.AdaptiveAvgPool3d(1))
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).flatten(1))


class ChannelsLast(nn.Module):
    """Takes (height, width, channels), as files that came from TensorFlow do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_norm(3, 8, 3, 2), nn.MaxPool2d(2), conv_norm(8, 8, 3, 2))
        self.fc = nn.Linear(8 * 16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).reshape(x.shape[0], -1))


class UNet(nn.Module):
    def __init__(self, up: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.a = conv_norm(3, 6)
        self.b = conv_norm(6, 8)
        self.middle = conv_norm(8, 8)
        self.up2, self.up1 = up(), up()
        self.c = conv_norm(16, 8)
        self.d = conv_norm(14, 8)
        self.out = nn.Conv2d(8, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(F.max_pool2d(a, 2))
        m = self.middle(F.max_pool2d(b, 2))
        c = self.c(torch.cat([self.up2(m), b], 1))
        d = self.d(torch.cat([self.up1(c), a], 1))
        return self.out(d).mean(dim=(2, 3)) * 10.0


class Normalised(nn.Module):
    """(x - mean) / std in front, with buffers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4914, 0.4822, 0.4465])[None, :, None, None])
        self.register_buffer("std", torch.tensor([0.2471, 0.2435, 0.2616])[None, :, None, None])
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner((x - self.mean) / self.std)


def relu6_excite(channels: int) -> nn.Module:
    return SqueezeExcite(channels, 4, nn.ReLU, nn.Hardsigmoid)


def silu_excite(channels: int) -> nn.Module:
    return SqueezeExcite(channels, 4, nn.SiLU, nn.Sigmoid)
