"""What a layer says to an input of other channels or dimensions: one sentence with what was expected and what came."""

from __future__ import annotations

from torch import Tensor

_AXES = {1: "L", 2: "H, W", 3: "D, H, W"}


def check_maps(input: Tensor, channels: int, axes: int = 2, batched: bool = False) -> None:
    """Compare the shape of maps [B, C, *axes] ([C, *axes] too, unless `batched`) with what a layer takes.

    Only the number of dimensions and that of channels are read, which are known numbers under `torch.export` too; what
    `torch.fx` traces with is let through.

    Raises:
        ValueError: another number of channels or of dimensions.
    """
    if not isinstance(input, Tensor):
        return
    wanted = (axes + 2,) if batched else (axes + 1, axes + 2)
    if input.dim() not in wanted or input.shape[-axes - 1] != channels:
        shape = f"{channels}, {_AXES[axes]}"
        either = f"[B, {shape}]" if batched else f"[B, {shape}] or [{shape}]"
        raise ValueError(f"input must be {either}, got {list(input.shape)}")


def unbatched(input: Tensor, channels: int) -> bool:
    """Whether maps that `check_maps` lets through are [C, H, W]; False of what `torch.fx` traces with."""
    check_maps(input, channels)
    return isinstance(input, Tensor) and input.dim() == 3


def check_features(input: Tensor, features: int, nested: bool = False) -> None:
    """Compare the last size of features [..., N] with what a layer takes.

    Raises:
        ValueError: it is another one; or the input is a nested tensor, as `nn.TransformerEncoder` makes of padded
            sequences, and the layer takes none (``nested``).
    """
    if isinstance(input, Tensor) and input.is_nested:
        if nested:
            return  # it has no shape to be asked for, and the product checks it
        raise ValueError(
            f"input must be a plain tensor [..., {features}], got a nested one; build nn.TransformerEncoder with "
            "enable_nested_tensor=False"
        )
    if isinstance(input, Tensor) and (input.dim() == 0 or input.shape[-1] != features):
        raise ValueError(f"input must be [..., {features}], got {list(input.shape)}")
