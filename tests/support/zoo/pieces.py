"""One layer or idiom each between a convolution and a linear head: activations, reductions, padding, slicing, layouts, heads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tests.support.zoo.exhibit import CLASSES, COLOUR, Around, Exhibit

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


# Every piece sees 8 channels of 16 x 16.
ACTIVATIONS: dict[str, Callable[[], Piece]] = {
    "elu": lambda: nn.ELU(0.7),
    "selu": nn.SELU,
    "celu": lambda: nn.CELU(1.3),
    "prelu": nn.PReLU,
    "prelu-channels": lambda: nn.PReLU(8),
    "rrelu": nn.RReLU,
    "leaky-relu": lambda: nn.LeakyReLU(0.2),
    "threshold": lambda: nn.Threshold(0.1, -0.2),
    "softplus": nn.Softplus,
    "softplus-beta": lambda: nn.Softplus(beta=2.0),
    "softsign": nn.Softsign,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "gelu": nn.GELU,
    "gelu-tanh": lambda: nn.GELU(approximate="tanh"),
    "gelu-quick": lambda: lambda x: x * torch.sigmoid(1.702 * x),
    "relu6": nn.ReLU6,
    "hardtanh": lambda: nn.Hardtanh(-0.5, 0.8),
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "clamp-min": lambda: partial(torch.clamp, min=-0.3),
    "clamp-max": lambda: partial(torch.clamp, max=0.4),
    "clamp-both": lambda: lambda x: x.clamp(-0.5, 0.5),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "log-sigmoid": nn.LogSigmoid,
    "tanhshrink": nn.Tanhshrink,
    "hardshrink": nn.Hardshrink,
    "softshrink": nn.Softshrink,
    "abs": lambda: torch.abs,
    "sin": lambda: torch.sin,
    "cos": lambda: torch.cos,
    "exp": lambda: lambda x: torch.exp(-0.5 * x * x),
    "log": lambda: lambda x: torch.log(1 + x.abs()),
    "square": lambda: torch.square,
    "cube": lambda: lambda x: x**3,
    "root": lambda: lambda x: torch.sqrt(x * x + 1),
    "reciprocal": lambda: lambda x: torch.reciprocal(x * x + 1) + 1 / (2 + x.abs()),
    "erf": lambda: torch.erf,
    "atan": lambda: torch.atan,
    "negative": lambda: lambda x: 0.3 - x,
    "glu": lambda: nn.GLU(1),
    "maxout": lambda: lambda x: x.view(x.size(0), 4, 2, 16, 16).max(dim=2)[0],
    "where-mask": Where,
    "where-positive": lambda: lambda x: torch.where(x > 0, x, torch.expm1(x)),
    "sign-mask": lambda: lambda x: x * (x > 0.1),
    "maximum": lambda: lambda x: torch.maximum(x, 0.5 * x.flip(1)),
    "minimum": lambda: lambda x: torch.minimum(x, x.transpose(2, 3)),
    "swish-beta": Swish,
    "scaled": lambda: lambda x: F.relu(x) + 0.1 * torch.tanh(x),
    "concatenated": lambda: lambda x: torch.cat([F.relu(x), F.relu(-x)], 1),
    "softmax-channels": nn.Softmax2d,
    "square-of-sum": lambda: lambda x: x.sum(1, keepdim=True) ** 2 + x,
}

REDUCTIONS: dict[str, Callable[[], Piece]] = {
    "mean-kept": lambda: lambda x: x.mean((2, 3), keepdim=True),
    "mean-one": lambda: lambda x: x.mean(-1),
    "mean-view": lambda: lambda x: x.view(x.size(0), x.size(1), -1).mean(2),
    "sum": lambda: lambda x: x.sum(dim=(1, 3)),
    "sum-kept": lambda: lambda x: x * x.sum(dim=1, keepdim=True),
    "amax": lambda: lambda x: x.amax((2, 3)),
    "max-axis": lambda: lambda x: torch.max(x, dim=3).values,
    "amin-kept": lambda: lambda x: x - x.amin(1, keepdim=True),
    "norm-two": lambda: lambda x: x.norm(dim=1),
    "norm-kept": lambda: lambda x: x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 0.1),
    "norm-one": lambda: lambda x: x.norm(p=1, dim=(2, 3)),
    "logsumexp": lambda: lambda x: torch.logsumexp(x, dim=1),
    "logsumexp-kept": lambda: lambda x: x - torch.logsumexp(x, dim=(2, 3), keepdim=True),
    "prod": lambda: lambda x: torch.prod(x[:, :3], dim=1),
    "cumsum": lambda: lambda x: torch.cumsum(x, dim=2),
    "variance": lambda: lambda x: x.var(dim=(2, 3)),
    "std": lambda: lambda x: (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 0.1),
    "global-max": lambda: nn.AdaptiveMaxPool2d(1),
    "global-max-pool": lambda: lambda x: F.max_pool2d(x, x.shape[2:]),
    "adaptive-average": lambda: nn.AdaptiveAvgPool2d((4, 2)),
    "adaptive-average-row": lambda: nn.AdaptiveAvgPool2d((None, 1)),
    "adaptive-max": lambda: nn.AdaptiveMaxPool2d(4),
    "adaptive-average-uneven": lambda: nn.AdaptiveAvgPool2d((5, 3)),
    "average-ceil": lambda: nn.AvgPool2d(3, stride=2, ceil_mode=True),
    "average-ceil-padded": lambda: nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True),
    "average-divisor-uneven": lambda: nn.AvgPool2d((2, 3), stride=(2, 1), padding=(1, 0)),
    "max-dilated": lambda: nn.MaxPool2d(3, stride=1, padding=1, dilation=2),
    "power-average": lambda: nn.LPPool2d(2, 3, stride=2),
    "generalised-mean": lambda: lambda x: x.clamp(min=1e-3).pow(3).mean((2, 3)).pow(1 / 3),
    "attention-pool": lambda: lambda x: (x.flatten(2).softmax(-1) * x.flatten(2)).sum(-1),
    "bilinear-pool": lambda: lambda x: torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)) / 256,
    "top-values": lambda: lambda x: x.flatten(2).topk(3, dim=-1).values,
}

SHAPES: dict[str, Callable[[], Piece]] = {
    "pad-zero": lambda: nn.ZeroPad2d((1, 2, 3, 0)),
    "pad-constant": lambda: nn.ConstantPad2d(1, 0.7),
    "pad-reflect": lambda: nn.ReflectionPad2d((2, 1, 0, 3)),
    "pad-replicate": lambda: nn.ReplicationPad2d(2),
    "pad-asymmetric": lambda: lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 2, 1),
    "pad-channels": lambda: lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)),
    "pad-circular": lambda: lambda x: F.pad(x, (1, 2, 2, 1), mode="circular"),
    "pad-crop": lambda: lambda x: F.pad(x, (-2, -1, -1, -3)),
    "conv-circular": lambda: nn.Conv2d(8, 6, 3, padding=1, padding_mode="circular"),
    "conv-reflect": lambda: nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect"),
    "conv-same": lambda: nn.Conv2d(8, 6, 4, padding="same"),
    "conv-dilated": lambda: nn.Conv2d(8, 6, 3, padding=(2, 3), dilation=(2, 3), stride=(1, 2)),
    "conv-transposed-dilated": lambda: nn.ConvTranspose2d(8, 4, 3, stride=2, dilation=2, padding=2),
    "slice-steps": lambda: lambda x: x[:, 1::3, ::2, 3:-2:4],
    "slice-ellipsis": lambda: lambda x: x[..., -3:],
    "slice-one": lambda: lambda x: x[:, 2] + x[:, -1],
    "flip": lambda: lambda x: x + torch.flip(x, dims=[2, 3]),
    "roll": lambda: lambda x: torch.roll(x, 3, 1),
    "index-select": Selected,
    "index-list": lambda: lambda x: x[:, [5, 0, 3]],
    "index-two-axes": lambda: lambda x: x[:, [1, 2, 3], [4, 5, 6]],
    "triangle": Triangle,
    "gather-constant": lambda: lambda x: torch.take_along_dim(x, torch.tensor([3, 1]).view(1, 1, 1, 2), dim=3),
    "narrow": lambda: lambda x: x.narrow(1, 2, 5),
    "split": lambda: lambda x: torch.cat(x.split([3, 4, 1], dim=1)[::-1], 1),
    "split-even": lambda: lambda x: torch.split(x, 2, dim=1)[1] * torch.split(x, 2, dim=1)[3],
    "chunk": lambda: lambda x: x.chunk(3, dim=2)[2],
    "stack": lambda: lambda x: torch.stack([x[:, :4], x[:, 4:]], dim=2).sum(1),
    "unbind": lambda: lambda x: sum(part * (i + 1) for i, part in enumerate(x.unbind(1))),
    "repeat": lambda: lambda x: x.mean(1, keepdim=True).repeat(1, 3, 1, 2),
    "repeat-interleave": lambda: lambda x: x.repeat_interleave(2, dim=1),
    "tile": lambda: lambda x: torch.tile(x[:, :2], (1, 2, 1, 1)),
    "expand": lambda: lambda x: x.amax(3, keepdim=True).expand(-1, -1, -1, 5),
    "expand-as": lambda: lambda x: x[:, :1].expand_as(x) * x,
    "broadcast-to": lambda: lambda x: torch.broadcast_to(x[:, :1], (x.shape[0], 4, 16, 16)),
    "unflatten": lambda: nn.Sequential(nn.Flatten(), nn.Unflatten(1, (16, 16, 8))),
    "squeeze": lambda: lambda x: x.mean(2, keepdim=True).squeeze(2).unsqueeze(-1).squeeze(-1),
    "swap": lambda: lambda x: x.swapaxes(1, 3).movedim(3, 2) * 2,
    "patches": lambda: lambda x: x.unfold(2, 4, 4).unfold(3, 4, 4).amax((-1, -2)),
    "unfold": lambda: nn.Unfold(3, stride=2, padding=1),
    "fold": lambda: nn.Sequential(nn.Unfold(2, stride=2), nn.Fold((16, 16), 2, stride=2)),
    "pixel-shuffle": lambda: nn.PixelShuffle(2),
    "pixel-unshuffle": lambda: nn.PixelUnshuffle(4),
    "channel-shuffle": lambda: nn.ChannelShuffle(4),
    "nearest-size": lambda: lambda x: F.interpolate(x, size=(24, 8)),
    "bilinear-size": lambda: lambda x: F.interpolate(x, size=(10, 20), mode="bilinear", align_corners=False),
    "bilinear-down": lambda: lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=True),
    "bilinear-antialiased": lambda: lambda x: F.interpolate(x, size=(8, 8), mode="bilinear", antialias=True),
    "bicubic": lambda: lambda x: F.interpolate(x, scale_factor=1.5, mode="bicubic", align_corners=False),
    "nearest-like": lambda: lambda x: F.interpolate(F.avg_pool2d(x, 2), size=x.shape[-2:]) + x,
    "grid-sample": GridSample,
    "meshgrid": Coordinates,
    "local-response": lambda: nn.LocalResponseNorm(3, alpha=0.3),
    "normalise": lambda: partial(F.normalize, dim=1),
    "rms-norm": lambda: nn.RMSNorm([16, 16]),
    "layer-norm-functional": lambda: lambda x: F.layer_norm(x, x.shape[1:]),
    "global-response-norm": GlobalResponse,
}

LINEARS: dict[str, Callable[[], Piece]] = {
    "weight-norm": lambda: parametrizations.weight_norm(nn.Conv2d(8, 6, 3)),
    "spectral-norm": lambda: parametrizations.spectral_norm(nn.Conv2d(8, 6, 3)),
    "orthogonal-rows": lambda: nn.Sequential(nn.Flatten(2), parametrizations.weight_norm(nn.Linear(256, 12))),
    "einsum-linear": lambda: Parametric(lambda x, w: torch.einsum("bchw,wd->bdch", x, w), (16, 3)),
    "einsum-outer": lambda: Parametric(lambda x, w: torch.einsum("bchw,ce,he->bew", x, w[:8], w), (16, 3)),
    "matmul-left": lambda: Parametric(lambda x, w: w @ x, (5, 16)),
    "matmul-stacked": lambda: Parametric(lambda x, w: x @ w, (8, 16, 4)),
    "linear-functional": lambda: Parametric(F.linear, (7, 16)),
    "tensordot": lambda: Parametric(lambda x, w: torch.tensordot(x, w, dims=([1], [0])), (8, 5)),
    "bmm": lambda: lambda x: torch.bmm(x[:, 0], x[:, 1]) * 0.2,
    "baddbmm": lambda: lambda x: torch.baddbmm(x[:, 0], x[:, 1], x[:, 2], beta=0.5, alpha=0.1),
    "addmm": lambda: Parametric(lambda x, w: torch.addmm(w[0], x.flatten(1), w, beta=0.3), (2048, 6)),
    "outer": lambda: lambda x: x.mean((2, 3))[:, :, None] * x.amax((2, 3))[:, None, :],
    "residual-scaled": Scaled,
    "gate": Gate,
    "spatial-attention": SpatialAttention,
    "recurrent-by-hand": Recurrent,
    "gru": lambda: Recurring(nn.GRU),
    "lstm": lambda: Recurring(nn.LSTM),
    "bilinear-layer": Pairing,
}

HEADS: dict[str, Callable[[], nn.Module]] = {
    "softmax-end": lambda: headed(nn.Softmax(dim=1)),
    "softmax-last-axis-end": lambda: headed(nn.Softmax(dim=-1)),
    "log-softmax-end": lambda: headed(nn.LogSoftmax(dim=1)),
    "cosine": Cosine,
    "prototypes": Prototypes,
    "distances": Distances,
    "ensemble": Ensemble,
    "wrapped": Wrapped,
    "flip-averaged": Ten,
    "grey-scale": GreyScale,
    "double-inside": DoubleInside,
}


def _around(piece: Callable[[], Piece]) -> nn.Module:
    return Around(piece())


PIECES: tuple[Exhibit, ...] = (
    *(
        Exhibit(name, partial(_around, piece), COLOUR)
        for group in (ACTIVATIONS, REDUCTIONS, SHAPES, LINEARS)
        for name, piece in group.items()
    ),
    *(Exhibit(name, build, COLOUR) for name, build in HEADS.items()),
)
