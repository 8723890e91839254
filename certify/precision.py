"""In which precision networks are computed. One place sets what torch may do, for every caller: whoever asks a model for its module.

Without these flags float32 is not what runs: cuDNN convolutions use TF32 by default, and a process may have allowed shorter products for
matrix products too (docs/decisions/0023).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from certify.errors import EngineUnavailable, InputError
from certify.heap import out_of_memory
from certify.spec import CertifierSpec, CopiesSpec, Precision

_IEEE = "ieee"
# Its last bit is lost where factors are rounded to the 11 bits of TF32 or the 8 of bfloat16; float32 keeps it through any algorithm.
_TOLD = 1.0 + 2.0**-12
_TOLERANCE = 2.0**-16


def ieee() -> None:
    """From now on torch computes float32 in IEEE arithmetic, and by deterministic algorithms where it has them.

    No TF32 and no bfloat16 inside of float32 convolutions and matrix products, on a GPU or in oneDNN; sums of bfloat16 and float16 products
    are held in float32; no algorithm is chosen by timing. These are settings of the whole process; they stay.
    """
    # The older settings first: torch refuses to be asked where older and newer ones differ.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    for one in settings():
        one.fp32_precision = _IEEE
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(False)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    # Where an operator has no deterministic algorithm it runs all the same; filling fresh memory would cost time and decide nothing.
    # Set below `torch.use_deterministic_algorithms`, which imports torch's compiler first: seconds, and a temporary folder that the
    # inspector of uploads, which may write nothing, does not have. Nothing here is compiled.
    torch._C._set_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def settings() -> tuple[Any, ...]:
    """All places where torch keeps in how many bits it may compute with float32 numbers (`fp32_precision`)."""
    everything: Any = torch.backends
    gpu = everything.cudnn
    cpu = everything.mkldnn
    return everything, everything.cuda.matmul, gpu.conv, gpu.rnn, cpu.matmul, cpu.conv, cpu.rnn


@contextmanager
def computing(precision: Precision) -> Iterator[None]:
    """Inside, products may be shortened as `precision` says, and no further; outside again not at all."""
    ieee()
    if precision != "tf32":
        yield
        return
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        ieee()


@contextmanager
def sums_of_products() -> Iterator[None]:
    """Inside, convolutions on a GPU are matrix products, whose every entry is a sum of products.

    Bounds of rounding errors rest on that; cuDNN may choose Winograd or FFT, which add inputs before they multiply.
    """
    ieee()
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before


def network_in(module: Callable[[Tensor], Tensor], precision: Precision, field: str) -> Callable[[Tensor], Tensor]:
    """The classifier whose votes count: (batch, *input) float32 -> (batch, classes) float32.

    Args:
        module: the network, in bfloat16 for `bf16` and in float32 otherwise.
        precision: in `bf16` noisy copies are made in float32 and then rounded; logits are compared in float32.
        field: where the precision stands in the job.
    """
    if precision != "bf16":
        return module

    def classify(x: Tensor) -> Tensor:
        try:
            return module(x.to(torch.bfloat16)).to(torch.float32)
        except (RuntimeError, NotImplementedError) as error:
            if out_of_memory(error):
                raise
            detail = f"bf16: this network cannot be computed in bfloat16 on {x.device.type} ({str(error).splitlines()[0][:120]})"
            raise InputError.at(field, detail, "use float32") from None

    return classify


def dtype_of(precision: Precision) -> torch.dtype:
    """The type of weights and inputs."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def check_device(certifier: CertifierSpec, field: str, device: str) -> None:
    """Refuse what the device cannot do, before anything is computed.

    Args:
        certifier: any entry of a spec.
        field: its place in the spec.
        device: a torch device name.

    Raises:
        EngineUnavailable: `tf32` is asked for and the device has none, or the device does not compute float32 as it was told to.
    """
    ieee()
    if isinstance(certifier, CopiesSpec) and certifier.precision == "tf32" and not _has_tf32(device):
        detail = f"tf32 needs a CUDA device of compute capability 8.0 or newer, and this runs on {device}"
        raise EngineUnavailable.at(f"{field}.precision", detail, "use float32 or bf16, or a machine with such a device")
    if not keeps_float32(device):
        detail = f"{device} multiplies float32 numbers in fewer bits than they have, though it was told not to"
        raise EngineUnavailable.at("device", detail, "unset NVIDIA_TF32_OVERRIDE and ONEDNN_DEFAULT_FPMATH_MODE")


def _has_tf32(device: str) -> bool:
    if not device.startswith("cuda") or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def keeps_float32(device: str) -> bool:
    """Whether a convolution and a matrix product keep bits of a factor that shorter numbers lose; asked once for each device."""
    with torch.inference_mode():
        return all(abs(float(seen) - _TOLD) <= _TOLERANCE for seen in _seen(device))


def _seen(device: str) -> Iterator[Tensor]:
    """One factor, after a product with 1 and sums with 0: by a matrix product and by a convolution of sizes that fast kernels take."""
    rows = torch.full((256, 1), _TOLD, device=device) * torch.eye(1, 256, device=device)
    yield (rows @ torch.ones((256, 64), device=device)).flatten()[0]
    images = torch.zeros((8, 32, 16, 16), device=device)
    images[:, 0] = _TOLD
    kernel = torch.zeros((32, 32, 3, 3), device=device)
    kernel[:, 0, 1, 1] = 1.0
    yield torch.nn.functional.conv2d(images, kernel, padding=1).flatten()[0]
