"""The fixed batch shape of a sampling run, from shapes and device kind alone: never from timing, so that a plan can be repeated."""

from __future__ import annotations

# Bytes for the largest tensor of a batch: about a last-level cache on a CPU, a small share of the memory on a GPU.
_BUDGET = {"cpu": 4 * 2**20, "cuda": 2**30}
_LOWEST, _HIGHEST = 16, 4096


def default_batch_size(input_elements: int, largest_tensor: int, device: str) -> int:
    """How many noisy copies go through the network at once.

    Args:
        input_elements: elements of one input.
        largest_tensor: elements of the largest intermediate tensor of one example.
        device: a torch device name; only its kind counts.

    Returns:
        A power of two in [16, 4096].
    """
    budget = _BUDGET["cuda" if device.startswith("cuda") else "cpu"]
    fit = budget // (4 * max(input_elements, largest_tensor, 1))
    return min(_HIGHEST, max(_LOWEST, 1 << max(0, fit.bit_length() - 1)))
