"""The largest entries of a tensor kept and the others zero, with a gradient that lets them come back (paper 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor


def keep_largest(values: Tensor, count: int) -> Tensor:
    """The `count` largest magnitudes of the last axis stay, the others become exactly zero; straight-through.

    The gradient reaches the dropped values unchanged, so that an entry can come back. Projecting them to zero after
    each step instead would keep an entry out for good, since one step never makes it as large as those that stayed.
    """
    sizes = values.detach().abs()
    if torch.compiler.is_exporting():  # ONNX has no stable sort: an entry stays that fewer than `count` go before
        places = torch.arange(values.shape[-1], device=values.device)
        one, other = sizes.unsqueeze(-1), sizes.unsqueeze(-2)
        before = (other > one) | ((other == one) & (places < places.unsqueeze(-1)))
        keep = (before.sum(-1) < count).to(values.dtype)
    else:
        order = sizes.sort(dim=-1, descending=True, stable=True).indices[..., :count]
        keep = torch.zeros_like(values).scatter(-1, order, 1.0)
    # x - x.detach() is exactly zero: nothing is added but the gradient.
    return values * keep + (values - values.detach()) * (1 - keep)
