"""Attention and mixer families, in the several ways in which people write attention."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.zoo.exhibit import CLASSES, Exhibit
from tests.support.zoo.swin import Swin, window_reverse_counting

DIM, HEADS, TOKENS = 24, 3, 16


class PatchEmbed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, DIM, 8, stride=8)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class TimmAttention(nn.Module):
    """One qkv projection, reshaped, permuted and unbound; softmax by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = (DIM // HEADS) ** -0.5
        self.qkv = nn.Linear(DIM, DIM * 3)
        self.attn_drop = nn.Dropout(0.1)
        self.proj = nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, HEADS, C // HEADS).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        out = self.attend(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(B, N, C))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        attn = (q * self.scale) @ k.transpose(-2, -1)
        return self.attn_drop(attn.softmax(dim=-1)) @ v


class IndexedAttention(TimmAttention):
    """The older form: qkv[0], qkv[1], qkv[2], and the scale after the product."""

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, HEADS, C // HEADS).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = torch.softmax(torch.matmul(q, k.transpose(-1, -2)) / 8**0.5, dim=-1)
        return self.proj(torch.matmul(attn, v).permute(0, 2, 1, 3).contiguous().view(B, N, C))


class FusedAttention(TimmAttention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class MaskedAttention(TimmAttention):
    """scaled_dot_product_attention with a constant additive mask."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.linspace(-1, 1, (TOKENS + 1) ** 2).view(1, 1, TOKENS + 1, TOKENS + 1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)


class CausalAttention(TimmAttention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = torch.ones(TOKENS + 1, TOKENS + 1).tril() == 0
        attn = (q @ k.transpose(-2, -1)).masked_fill(mask, float("-inf"))
        return attn.softmax(-1) @ v


class EinsumAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(DIM, DIM, bias=False) for _ in range(3))
        self.out = nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (layer(x).view(b, n, HEADS, -1) for layer in (self.q, self.k, self.v))
        attn = torch.einsum("bihd,bjhd->bhij", q, k) * 0.3
        out = torch.einsum("bhij,bjhd->bihd", attn.softmax(-1), v)
        return self.out(out.reshape(b, n, -1))


class CosineAttention(TimmAttention):
    """Swin v2's: unit queries and keys, a learned clamped temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.ones(HEADS, 1, 1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        attn = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        scale = torch.clamp(self.logit_scale, max=4.6052).exp()
        return (attn * scale).softmax(-1) @ v


class RotaryAttention(TimmAttention):
    """Queries and keys rotated by constant angles."""

    def __init__(self) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(TOKENS + 1.0), 0.5 ** torch.arange(4.0)).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat((-right, left), dim=-1) * self.sin

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().attend(self.rotate(q), self.rotate(k), v)


class TorchAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(DIM, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.mha(x, x, x, need_weights=False)[0]


class WeightedAttention(TorchAttention):
    """need_weights=True takes the other path through torch, by baddbmm and softmax."""

    def forward(self, x: Tensor) -> Tensor:
        out, weights = self.mha(x, x, x)
        return out + weights.mean(-1, keepdim=True)


class LengthFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(DIM, HEADS)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        return self.mha(x, x, x, need_weights=False)[0].transpose(0, 1)


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(DIM))

    def forward(self, x: Tensor) -> Tensor:
        return x.mul(self.gamma)


class Block(nn.Module):
    def __init__(self, attention: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(DIM)
        self.attn = attention()
        self.ls1 = LayerScale()
        self.norm2 = nn.LayerNorm(DIM, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(DIM, 48), nn.GELU(), nn.Dropout(0.1), nn.Linear(48, DIM))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """timm's order: tokens, class token in front, positions, blocks, norm, head on the class token or on the mean."""

    def __init__(self, block: Callable[[], nn.Module], mean: bool = False) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed()
        self.mean = mean
        self.cls_token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.pos_embed = nn.Parameter(torch.zeros(1, TOKENS + 1, DIM))
        self.blocks = nn.Sequential(block(), block())
        self.norm = nn.LayerNorm(DIM)
        self.head = nn.Linear(DIM, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = self.blocks(x + self.pos_embed)
        if self.mean:
            return self.head(self.norm(x[:, 1:].mean(dim=1)))
        return self.head(self.norm(x)[:, 0])


class VisionViT(nn.Module):
    """torchvision's: its own patchify by reshape and permute, its encoder, dropout after the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_proj = nn.Conv2d(3, DIM, 8, 8)
        self.class_token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.pos_embedding = nn.Parameter(torch.zeros(1, TOKENS + 1, DIM))
        self.dropout = nn.Dropout(0.1)
        self.layers = nn.Sequential(Block(TorchAttention), Block(TorchAttention))
        self.ln = nn.LayerNorm(DIM)
        self.heads = nn.Linear(DIM, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        torch._assert(h == 32, "wrong height")
        x = self.conv_proj(x).reshape(n, DIM, (h // 8) * (w // 8)).permute(0, 2, 1)
        x = torch.cat([self.class_token.expand(n, -1, -1), x], dim=1)
        x = self.ln(self.layers(self.dropout(x + self.pos_embedding)))
        return self.heads(x[:, 0])


class RepeatViT(ViT):
    """The class token by repeat, patches by rearranging pixels, the way of hand-written tutorials."""

    def __init__(self) -> None:
        super().__init__(partial(Block, IndexedAttention))
        self.to_patch = nn.Linear(192, DIM)

    def forward(self, x: Tensor) -> Tensor:
        b = x.shape[0]
        x = x.reshape(b, 3, 4, 8, 4, 8).permute(0, 2, 4, 3, 5, 1).reshape(b, 16, 192)
        x = torch.cat((self.cls_token.repeat(b, 1, 1), self.to_patch(x)), dim=1)
        x += self.pos_embed[:, :17]
        return self.head(self.norm(self.blocks(x)).mean(dim=1))


class UnfoldViT(ViT):
    """Patches by nn.functional.unfold."""

    def __init__(self) -> None:
        super().__init__(partial(Block, TimmAttention))
        self.to_patch = nn.Linear(192, DIM)

    def forward(self, x: Tensor) -> Tensor:
        x = self.to_patch(F.unfold(x, kernel_size=8, stride=8).transpose(1, 2))
        return self.head(self.norm(self.blocks(x + self.pos_embed[:, 1:])).mean(dim=1))


def encoder_layer(norm_first: bool, activation: str) -> nn.Module:
    return nn.TransformerEncoderLayer(DIM, HEADS, 48, activation=activation, batch_first=True, norm_first=norm_first)


class MixerBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.tokens = nn.Sequential(nn.Linear(TOKENS, 20), nn.GELU(), nn.Linear(20, TOKENS))
        self.channels = nn.Sequential(nn.Linear(DIM, 40), nn.GELU(), nn.Linear(40, DIM))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = PatchEmbed()
        self.blocks = nn.Sequential(MixerBlock(), MixerBlock())
        self.norm = nn.LayerNorm(DIM)
        self.head = nn.Linear(DIM, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.stem(x))).mean(dim=1))


class PoolFormer(nn.Module):
    """Token mixing by average pooling minus the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, DIM, 7, stride=4, padding=2)
        self.norm = nn.GroupNorm(1, DIM)
        self.pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.scale = nn.Parameter(torch.ones(DIM))
        self.head = nn.Linear(DIM, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        x = x + self.scale.unsqueeze(-1).unsqueeze(-1) * (self.pool(y) - y)
        return self.head(x.mean([-2, -1]))


ATTENTION: tuple[Exhibit, ...] = (
    Exhibit("vit-timm", partial(ViT, partial(Block, TimmAttention))),
    Exhibit("vit-indexed", partial(ViT, partial(Block, IndexedAttention))),
    Exhibit("vit-fused", partial(ViT, partial(Block, FusedAttention))),
    Exhibit("vit-fused-masked", partial(ViT, partial(Block, MaskedAttention))),
    Exhibit("vit-causal", partial(ViT, partial(Block, CausalAttention), mean=True)),
    Exhibit("vit-einsum", partial(ViT, partial(Block, EinsumAttention))),
    Exhibit("vit-cosine", partial(ViT, partial(Block, CosineAttention))),
    Exhibit("vit-rotary", partial(ViT, partial(Block, RotaryAttention))),
    Exhibit("vit-multihead", partial(ViT, partial(Block, TorchAttention))),
    Exhibit("vit-multihead-weights", partial(ViT, partial(Block, WeightedAttention))),
    Exhibit("vit-multihead-length-first", partial(ViT, partial(Block, LengthFirst))),
    Exhibit("vit-encoder-norm-first", partial(ViT, partial(encoder_layer, True, "gelu"))),
    Exhibit("vit-encoder-norm-last", partial(ViT, partial(encoder_layer, False, "relu"))),
    Exhibit("vit-mean", partial(ViT, partial(Block, TimmAttention), mean=True)),
    Exhibit("vit-torchvision", VisionViT),
    Exhibit("vit-repeat", RepeatViT),
    Exhibit("vit-unfold", UnfoldViT),
    Exhibit("swin", Swin),
    Exhibit("swin-counting", partial(Swin, window_reverse_counting)),
    Exhibit("mixer", Mixer),
    Exhibit("poolformer", PoolFormer),
)
