"""Convolutional families, written the way torchvision and timm write them, at toy widths."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.zoo.exhibit import CLASSES, GREY, Exhibit
from tests.support.zoo.mobile import (
    ChannelNorm,
    ChannelsLast,
    LayerNorm2d,
    LinearExcite,
    MobileNet,
    Normalised,
    RegBlock,
    ShuffleNet,
    UNet,
    VarianceNorm,
    Volume,
    conv_norm,
    convmixer,
    convnext,
    mobilenet_v1,
    normed,
    relu6_excite,
    signal,
    silu_excite,
)

Layer = Callable[[], nn.Module]


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES)
    )


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 60)
        self.fc2 = nn.Linear(60, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = F.avg_pool2d(torch.tanh(self.conv2(x)), (2, 2))
        x = x.view(-1, self.num_flat_features(x))
        return self.fc2(torch.sigmoid(self.fc1(x)))

    def num_flat_features(self, x: Tensor) -> int:
        features = 1
        for size in x.size()[1:]:
            features *= size
        return features


class VGG(nn.Module):
    def __init__(self, plan: tuple[int | str, ...], pooled: tuple[int, int], norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for step in plan:
            if isinstance(step, str):
                layers.append(nn.MaxPool2d(2, 2))
                continue
            layers += [nn.Conv2d(channels, step, 3, padding=1), *([nn.BatchNorm2d(step)] if norm else []), nn.ReLU(True)]
            channels = step
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(pooled)
        width = channels * pooled[0] * pooled[1]
        self.classifier = nn.Sequential(nn.Linear(width, 48), nn.ReLU(True), nn.Dropout(0.5), nn.Linear(48, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class AlexNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 12, 5, stride=1, padding=2),
            nn.ReLU(inplace=True),
            nn.LocalResponseNorm(5, alpha=0.05, beta=0.75, k=2.0),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(12, 16, 5, padding=2, groups=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
        )
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(16 * 9, 32), nn.ReLU(inplace=True), nn.Linear(32, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.classifier(x.view(x.size(0), 16 * 3 * 3))


class Basic(nn.Module):
    expansion = 1

    def __init__(self, cin: int, width: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = conv_norm(cin, width, 1, stride, act=None) if stride != 1 or cin != width else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, cin: int, width: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        cout = width * self.expansion
        self.body = nn.Sequential(conv_norm(cin, width, 1), conv_norm(width, width, 3, stride, groups), conv_norm(width, cout, 1, act=None))
        self.downsample = conv_norm(cin, cout, 1, stride, act=None) if stride != 1 or cin != cout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.downsample(x))


class ResNet(nn.Module):
    def __init__(self, block: type[Basic | Bottleneck], widths: tuple[int, ...], groups: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        blocks, channels = [], 8
        for stage, width in enumerate(widths):
            for position in range(2):
                blocks.append(block(channels, width, 2 if stage and position == 0 else 1, groups))
                channels = width * block.expansion
        self.layers = nn.Sequential(*blocks)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(self.layers(x)), 1))


class PreactBlock(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(cin)
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.drop = nn.Dropout(0.3)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.equal = cin == cout and stride == 1
        self.shortcut = None if self.equal else nn.Conv2d(cin, cout, 1, stride, 0, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        return torch.add(shortcut, self.conv2(self.drop(F.relu(self.bn2(self.conv1(out))))))


class PreactResNet(nn.Module):
    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        steps = pairwise(widths)
        self.blocks = nn.Sequential(*(PreactBlock(a, b, 1 if i == 0 else 2) for i, (a, b) in enumerate(steps)))
        self.bn = nn.BatchNorm2d(widths[-1])
        self.fc = nn.Linear(widths[-1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.blocks(self.conv1(x))))
        x = F.avg_pool2d(x, 8)
        return self.fc(x.view(x.size(0), -1))


class Fire(nn.Module):
    def __init__(self, cin: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(cin, squeeze, 1)
        self.one = nn.Conv2d(squeeze, expand, 1)
        self.three = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1)


def squeezenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, stride=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        Fire(12, 6, 8),
        Fire(16, 6, 10),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        Fire(20, 8, 12),
        nn.Dropout(0.5),
        nn.Conv2d(24, CLASSES, 1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
    )


class DenseLayer(nn.Module):
    def __init__(self, cin: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(cin),
            nn.ReLU(),
            nn.Conv2d(cin, 2 * growth, 1, bias=False),
            nn.BatchNorm2d(2 * growth),
            nn.ReLU(),
            nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.body(torch.cat(features, 1))


class DenseBlock(nn.Module):
    def __init__(self, cin: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([DenseLayer(cin + i * growth, growth) for i in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            DenseBlock(8, 4, 3),
            nn.BatchNorm2d(20),
            nn.ReLU(),
            nn.Conv2d(20, 10, 1, bias=False),
            nn.AvgPool2d(2, 2),
            DenseBlock(10, 4, 3),
            nn.BatchNorm2d(22),
        )
        self.classifier = nn.Linear(22, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out = F.adaptive_avg_pool2d(F.relu(self.features(x)), (1, 1))
        return self.classifier(torch.flatten(out, 1))


class Inception(nn.Module):
    def __init__(self, cin: int, counted: bool) -> None:
        super().__init__()
        self.one = conv_norm(cin, 6, 1)
        self.three = nn.Sequential(conv_norm(cin, 4, 1), conv_norm(4, 8, 3))
        self.skewed = nn.Sequential(nn.Conv2d(cin, 4, (1, 5), padding=(0, 2)), nn.Conv2d(4, 6, (5, 1), padding=(2, 0)), nn.ReLU())
        self.peak = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True), conv_norm(cin, 4, 1))
        self.pool = nn.Sequential(nn.AvgPool2d(3, 1, padding=1, count_include_pad=counted), nn.Conv2d(cin, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in (self.one, self.three, self.skewed, self.peak, self.pool)], dim=1)


class GoogLeNet(nn.Module):
    def __init__(self, counted: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, 8, 7, 2), nn.MaxPool2d(3, stride=2, ceil_mode=True))
        self.a = Inception(8, counted)
        self.peak = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.b = Inception(28, counted)
        self.mean = nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=False, count_include_pad=counted)
        self.fc = nn.Linear(28, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        channels = [torch.unsqueeze(x[:, i], 1) * (0.229 / 0.5) + (0.485 - 0.5 + 0.02 * i) / 0.5 for i in range(3)]
        x = self.mean(self.b(self.peak(self.a(self.stem(torch.cat(channels, 1))))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


PLAN: tuple[int | str, ...] = (8, "M", 16, "M", 16, 16, "M")

CLASSIC: tuple[Exhibit, ...] = (
    Exhibit("mlp", mlp, GREY),
    Exhibit("lenet", LeNet, GREY),
    Exhibit("vgg", partial(VGG, PLAN, (1, 1), True)),
    Exhibit("vgg-without-norm", partial(VGG, PLAN, (2, 2), False)),
    Exhibit("vgg-pool-seven", partial(VGG, (4, "M", 4), (7, 7), False), (3, 28, 28)),
    Exhibit("vgg-pool-seven-from-one", partial(VGG, (4, "M", 8, "M", 4, "M", "M", "M"), (7, 7), False)),
    Exhibit("alexnet", AlexNet),
    Exhibit("resnet-basic", partial(ResNet, Basic, (8, 16, 24))),
    Exhibit("resnet-bottleneck", partial(ResNet, Bottleneck, (4, 8))),
    Exhibit("resnext", partial(ResNet, Bottleneck, (8, 8), 4)),
    Exhibit("preact-resnet", partial(PreactResNet, (8, 12, 16, 24))),
    Exhibit("wide-resnet", partial(PreactResNet, (8, 32, 48, 64))),
    Exhibit("normalised-resnet", lambda: Normalised(ResNet(Basic, (8, 16)))),
    Exhibit("squeezenet", squeezenet),
    Exhibit("densenet", DenseNet),
    Exhibit("googlenet", partial(GoogLeNet, True)),
    Exhibit("googlenet-uncounted", partial(GoogLeNet, False)),
    Exhibit("mobilenet-v1", mobilenet_v1),
    Exhibit("mobilenet-v2", partial(MobileNet, nn.ReLU6)),
    Exhibit("mobilenet-v3", partial(MobileNet, nn.Hardswish, relu6_excite)),
    Exhibit("senet-linear", partial(MobileNet, nn.ReLU, LinearExcite)),
    Exhibit("efficientnet", partial(MobileNet, nn.SiLU, silu_excite)),
    Exhibit("shufflenet", ShuffleNet),
    Exhibit(
        "regnet",
        lambda: nn.Sequential(
            conv_norm(3, 8, 3, 2), RegBlock(8, 16, 2), RegBlock(16, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES)
        ),
    ),
    Exhibit("convnext", partial(convnext, LayerNorm2d)),
    Exhibit("convnext-arithmetic", partial(convnext, ChannelNorm)),
    Exhibit("convnext-variance", partial(convnext, VarianceNorm)),
    Exhibit("group-norm", partial(normed, lambda c: nn.GroupNorm(4, c))),
    Exhibit("group-norm-plain", partial(normed, lambda c: nn.GroupNorm(2, c, affine=False))),
    Exhibit("instance-norm", partial(normed, lambda c: nn.InstanceNorm2d(c, affine=True))),
    Exhibit("instance-norm-plain", partial(normed, nn.InstanceNorm2d)),
    Exhibit("batch-norm-plain", partial(normed, lambda c: nn.BatchNorm2d(c, affine=False))),
    Exhibit("layer-norm-image", lambda: nn.Sequential(nn.LayerNorm([3, 32, 32]), *normed(nn.BatchNorm2d))),
    Exhibit("convmixer", convmixer),
    Exhibit("conv1d", signal, (2, 64)),
    Exhibit("conv3d", Volume, (1, 8, 12, 12)),
    Exhibit("channels-last-input", ChannelsLast, (32, 32, 3)),
    Exhibit("unet-transposed", partial(UNet, lambda: nn.ConvTranspose2d(8, 8, 2, stride=2))),
    Exhibit("unet-transposed-padded", partial(UNet, lambda: nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1, groups=2))),
    Exhibit("unet-nearest", partial(UNet, lambda: nn.Upsample(scale_factor=2))),
    Exhibit("unet-bilinear", partial(UNet, lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))),
    Exhibit("unet-bilinear-corners", partial(UNet, lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True))),
)
