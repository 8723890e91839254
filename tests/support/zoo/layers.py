"""Layers that torch has no module for, as people write them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.zoo.exhibit import CLASSES

Piece = Callable[[Tensor], Tensor]


class Where(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.arange(256).view(16, 16) % 3 == 0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(self.mask, x, 0.1 * x).masked_fill(~self.mask.T, 0.25)


class Swish(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


class Selected(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("index", torch.tensor([6, 1, 1, 4]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.index_select(x, 1, self.index)


class Triangle(nn.Module):
    """The upper triangle of a Gram matrix, as factorisation machines take it."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        gram = flat @ flat.transpose(1, 2) / 256
        rows, columns = torch.triu_indices(8, 8)
        return gram[:, rows, columns]


class GridSample(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        axis = torch.linspace(-0.9, 0.8, 7)
        self.register_buffer("grid", torch.stack(torch.meshgrid(axis, axis**3, indexing="ij"), -1)[None])

    def forward(self, x: Tensor) -> Tensor:
        return F.grid_sample(x, self.grid.expand(x.shape[0], -1, -1, -1), align_corners=False)


class Coordinates(nn.Module):
    """CoordConv: two channels of positions computed at run time."""

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        rows = torch.linspace(-1, 1, h).view(1, 1, h, 1).expand(b, 1, h, w)
        columns = torch.arange(w, dtype=x.dtype).div(w).view(1, 1, 1, w).expand(b, 1, h, w)
        return torch.cat([x, rows, columns], dim=1)


class GlobalResponse(nn.Module):
    """ConvNeXt v2's GRN."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 8, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        gx = torch.norm(x, p=2, dim=(2, 3), keepdim=True)
        nx = gx / (gx.mean(dim=1, keepdim=True) + 1e-6)
        return self.gamma * (x * nx) + self.beta + x


class Parametric(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight)


class Scaled(nn.Module):
    """SkipInit, ReZero: a learned scalar on the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(()))
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.alpha.tanh() * self.conv(F.relu(x)), alpha=0.7)


class Gate(nn.Module):
    """A squeeze-excite of ECA: a one-dimensional convolution over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.adaptive_avg_pool2d(x, 1)
        y = self.conv(y.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * y.sigmoid().expand_as(x)


class SpatialAttention(nn.Module):
    """CBAM's: mean and maximum over channels, a convolution, a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.mean(x, dim=1, keepdim=True)
        peak, _ = torch.max(x, dim=1, keepdim=True)
        return x * torch.sigmoid(self.conv(torch.cat([mean, peak], dim=1)))


class Recurrent(nn.Module):
    """A recurrence unrolled in Python over the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(128 + 12, 12)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(x.size(0), 12)
        for row in range(4):
            state = torch.tanh(self.cell(torch.cat([x[:, :, row].flatten(1), state], 1)))
        return state


class Recurring(nn.Module):
    def __init__(self, kind: type[nn.GRU | nn.LSTM]) -> None:
        super().__init__()
        self.layer = kind(8, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.mean(3).transpose(1, 2))[0][:, -1]


class Pairing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Bilinear(8, 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.mean((2, 3)), x.amax((2, 3)))


class Cosine(nn.Module):
    """Logits are scaled cosines of unit features with unit class vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.weight = nn.Parameter(torch.zeros(CLASSES, 128))

    def forward(self, x: Tensor) -> Tensor:
        return 16.0 * F.linear(F.normalize(self.body(x)), F.normalize(self.weight))


class Prototypes(Cosine):
    """Logits are negated squared distances to class vectors."""

    def forward(self, x: Tensor) -> Tensor:
        return -(self.body(x).unsqueeze(1) - self.weight.unsqueeze(0)).pow(2).sum(-1)


class Distances(Cosine):
    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(self.body(x), self.weight)


class Ensemble(nn.Module):
    """The mean of the probabilities of three members, then its logarithm."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList([headed(nn.Identity()) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([F.softmax(member(x), 1) for member in self.members]).mean(0).log()


class Wrapped(nn.Module):
    """What a serving wrapper puts around a model: casts, clones, a scale to bytes and back, a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.model = headed(nn.Identity())
        self.temperature = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone().float().contiguous() * 255.0
        x = x.sub(127.5).div_(127.5).to(torch.float32)
        return self.model(x) / (self.temperature.abs() + 0.5)


class Ten(nn.Module):
    """Ten crops or two flips, averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.model = headed(nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return (self.model(x) + self.model(x.flip(-1))) / 2


class GreyScale(nn.Module):
    """Luma weights, then a resize, as preprocessing inside the file."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("luma", torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1))
        self.head = nn.Linear(256, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = (x * self.luma).sum(1, keepdim=True)
        y = F.interpolate(y, size=(16, 16), mode="bilinear", align_corners=False)
        return self.head(y.flatten(start_dim=1))


class DoubleInside(nn.Module):
    """Float64 in the middle of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.model = headed(nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x.double() * 0.5 + 0.1).float())


def headed(last: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(392, 20), nn.ReLU(), nn.Linear(20, CLASSES), last
    )
