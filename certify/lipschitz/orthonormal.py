"""Matrices with orthonormal columns from free parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def orthonormal(free: Tensor) -> Tensor:  # free: (..., rows, columns), real or complex, rows >= columns
    """A matrix of the same shape whose columns are orthonormal, whatever numbers `free` holds, up to rounding.

    With free = [A; B] and W = A - A* + B*B it is [I - W; -2B] (I + W)^-1. From W + W* = 2 B*B follows
    (I - W)*(I - W) + 4 B*B = (I + W)*(I + W), so the columns are orthonormal. I + W always has an inverse, of norm at most 1: its
    Hermitian part is I + B*B.

    Source: Cayley 1846; with more rows than columns Trockman & Kolter 2021 (arXiv 2104.07167).
    """
    columns = free.shape[-1]
    a, b = free[..., :columns, :], free[..., columns:, :]
    w = a - a.mH + b.mH @ b
    identity = torch.eye(columns, dtype=free.dtype, device=free.device)
    made: Tensor = torch.linalg.solve(identity + w, torch.cat([identity - w, -2 * b], dim=-2), left=False)
    return made


def free_parameter(*shape: int, terms: int) -> nn.Parameter:
    """Normal numbers of variance 1 / terms from torch's own generator: a start from which gradients flow everywhere.

    With entries of variance 1 / rows, A - A* has eigenvalues up to 2.8 i, which the transform turns into angles up to 140 degrees:
    neither all near the identity, where the layers of a deep network would be alike, nor near -1, where the transform is flat.

    Args:
        terms: rows of the matrix; more where it is a sum of several parameters.
    """
    return nn.Parameter(torch.randn(*shape) / math.sqrt(terms))
