"""How precisely numbers are computed: types of sums, no autocast, and what a float32 product is on a GPU.

There it is IEEE's float32, or TF32 (10 bits of mantissa, on the tensor cores).

PyTorch keeps two switches with different defaults, IEEE for matrix products and TF32 for cuDNN's convolutions. A
dynamic layer against a plain convolution would then be unequal arithmetic. One setting here moves both, and our kernels
follow it. The CPU has no TF32, and bfloat16 and float16 do not ask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor

Products = Literal["ieee", "tf32"]


def set_float32_products(products: Products) -> None:
    """Compute every float32 product on CUDA in this way: ours, cuBLAS's and cuDNN's.

    Raises:
        ValueError: the name is unknown.
    """
    if products not in ("ieee", "tf32"):
        raise ValueError(f"float32 products must be 'ieee' or 'tf32', got {products!r}")
    # By the older of PyTorch's two ways. After the newer, a switch a library, all that reads the older raises,
    # `torch.get_float32_matmul_precision` among them; this one moves both, and cuDNN's recurrent layers too.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = products == "tf32"


@contextmanager
def using_float32_products(products: Products) -> Iterator[None]:
    """`set_float32_products` for a block; after it both settings, which differ by default, are what they were."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    set_float32_products(products)
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def float32_products() -> dict[str, Products]:
    """The present setting: of matrix products, which our kernels follow, and of cuDNN's convolutions."""
    backends = torch.backends
    if hasattr(backends.cuda.matmul, "fp32_precision"):
        wide = {
            "matmul": backends.cuda.matmul.fp32_precision == "tf32",
            "convolution": backends.cudnn.conv.fp32_precision == "tf32",  # type: ignore[attr-defined]
        }
    else:
        wide = {"matmul": backends.cuda.matmul.allow_tf32, "convolution": backends.cudnn.allow_tf32}
    return {name: "tf32" if value else "ieee" for name, value in wide.items()}


def wide_type(x: Tensor) -> torch.dtype:
    """Type of sums over x: at least float32.

    Raises:
        ValueError: x is complex, whose norms and places are not defined here.
    """
    if x.dtype.is_complex:
        raise ValueError(f"input must be real, got {x.dtype}: norms of patches and places of taps are real numbers")
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@contextmanager
def exactly(tensor: Tensor) -> Iterator[None]:
    """No autocast on the tensor's device: a kernel that is kept is not rounded as one that is used."""
    device = tensor.device.type
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        yield
