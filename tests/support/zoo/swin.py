"""Attention in shifted windows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.support.zoo.exhibit import CLASSES

DIM, HEADS, TOKENS = 24, 3, 16


def window_partition(x: Tensor, size: int) -> Tensor:
    B, H, W, C = x.shape
    x = x.view(B, H // size, size, W // size, size, C)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size, size, C)


def window_reverse(windows: Tensor, size: int, H: int, W: int) -> Tensor:
    C = windows.shape[-1]
    x = windows.view(-1, H // size, W // size, size, size, C)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, H, W, C)


def window_reverse_counting(windows: Tensor, size: int, H: int, W: int) -> Tensor:
    """The first published form; its `int` fixes the batch of the trace in the file."""
    B = int(windows.shape[0] / (H * W / size / size))
    x = windows.view(B, H // size, W // size, size, size, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(B, H, W, -1)


class WindowAttention(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros((2 * size - 1) ** 2, HEADS))
        grid = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).flatten(1)
        offsets = (grid[:, :, None] - grid[:, None, :]).permute(1, 2, 0) + size - 1
        self.register_buffer("index", offsets[:, :, 0] * (2 * size - 1) + offsets[:, :, 1])
        self.qkv = nn.Linear(DIM, 3 * DIM)
        self.proj = nn.Linear(DIM, DIM)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        B_, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B_, N, 3, HEADS, C // HEADS).permute(2, 0, 3, 1, 4)
        attn = q * 0.35 @ k.transpose(-2, -1)
        bias = self.table[self.index.view(-1)].view(N, N, -1).permute(2, 0, 1).contiguous()
        attn = attn + bias.unsqueeze(0)
        if mask is not None:
            windows = mask.shape[0]
            attn = attn.view(B_ // windows, windows, HEADS, N, N) + mask.unsqueeze(1).unsqueeze(0)
            attn = attn.view(-1, HEADS, N, N)
        return self.proj((attn.softmax(-1) @ v).transpose(1, 2).reshape(B_, N, C))


class SwinBlock(nn.Module):
    def __init__(self, side: int, size: int, shift: int, reverse: Callable[[Tensor, int, int, int], Tensor]) -> None:
        super().__init__()
        self.size, self.shift, self.reverse = size, shift, reverse
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.attn = WindowAttention(size)
        self.mlp = nn.Sequential(nn.Linear(DIM, 48), nn.GELU(), nn.Linear(48, DIM))
        mask = None
        if shift:
            regions = torch.zeros(1, side, side, 1)
            cuts = (slice(0, -size), slice(-size, -shift), slice(-shift, None))
            for number, (rows, columns) in enumerate((r, c) for r in cuts for c in cuts):
                regions[:, rows, columns] = number
            flat = window_partition(regions, size).view(-1, size * size)
            mask = torch.where(flat[:, None] == flat[:, :, None], 0.0, -100.0)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        _, H, W, C = x.shape
        shortcut = x
        x = self.norm1(x)
        if self.shift:
            x = torch.roll(x, shifts=(-self.shift, -self.shift), dims=(1, 2))
        windows = window_partition(x, self.size).view(-1, self.size * self.size, C)
        windows = self.attn(windows, self.mask).view(-1, self.size, self.size, C)
        x = self.reverse(windows, self.size, H, W)
        if self.shift:
            x = torch.roll(x, shifts=(self.shift, self.shift), dims=(1, 2))
        x = shortcut + x
        return x + self.mlp(self.norm2(x))


class Swin(nn.Module):
    def __init__(self, reverse: Callable[[Tensor, int, int, int], Tensor] = window_reverse) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, DIM, 4, stride=4)
        self.first, self.second = SwinBlock(8, 4, 0, reverse), SwinBlock(8, 4, 2, reverse)
        self.reduction = nn.Linear(4 * DIM, DIM, bias=False)
        self.merge_norm = nn.LayerNorm(4 * DIM)
        self.third = SwinBlock(4, 4, 0, reverse)
        self.norm = nn.LayerNorm(DIM)
        self.head = nn.Linear(DIM, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(self.embed(x).permute(0, 2, 3, 1)))
        corners = [x[:, 0::2, 0::2, :], x[:, 1::2, 0::2, :], x[:, 0::2, 1::2, :], x[:, 1::2, 1::2, :]]
        x = self.third(self.reduction(self.merge_norm(torch.cat(corners, -1))))
        return self.head(self.norm(x).mean(dim=(1, 2)))
