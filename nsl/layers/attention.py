"""Global neural similarity: one similarity across all positions of a map (paper 6, appendix B; the release).

The patch is the whole map, X [C, N] with N = H W positions, and M [N, N] is shared by all channels:

    (M X)[c, p] = sum_q M[p, q] x[c, q]                  M learned: static
    M(X)[p, q]  = softmax_q(key(x_q)^T query(x_p) s)     M predicted: self-attention

With identity query, key and value maps and s = 1 / sqrt(C) the second is
`torch.nn.functional.scaled_dot_product_attention`; the first, followed by a kernel that covers the whole map, is an
`NSConv2d` with the unconstrained structure and kernel_size = (H, W).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.kernels.convolution import pair
from nsl.kernels.layouts import as_laid_out
from nsl.layers.spherical import SphereConv2d


class StaticGlobalSimilarity(nn.Module):
    """Static: one learned M over the positions of a map of known size, the identity at the start.

    Args:
        size: height and width of the map.
        device, dtype: of the parameter.

    Parameters:
        similarity [N, N], N = H W; rows are the output's positions p, columns the input's q.

    Shapes: [B, C, H, W] (or [C, H, W]) to the same.

    Raises:
        ValueError: an input of another size.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.size = pair(size, "size")
        positions = self.size[0] * self.size[1]
        self.similarity = nn.Parameter(torch.empty(positions, positions, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The identity."""
        nn.init.eye_(self.similarity)

    def extra_repr(self) -> str:
        return f"size={self.size}"

    def multiply_adds(self, input: Tensor, _output: Tensor) -> int:
        """Of one image: every number of M with every channel."""
        return self.similarity.numel() * input.shape[-3]

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H, W]."""
        if isinstance(input, Tensor) and tuple(input.shape[-2:]) != self.size:
            raise ValueError(f"input must be a map of {self.size}, got {tuple(input.shape[-2:])}")
        return (input.flatten(-2) @ self.similarity.t()).view_as(input)


class GlobalSimilarity(nn.Module):
    """Dynamic: M(X) = gamma A(X) + I, A the self-attention of the positions; y = gamma value(x) A^T + x.

    Args:
        query, key, value: modules from [B, C, H, W] to [B, E, H, W], [B, E, H, W] and [B, C, H, W]; or None for
            the identity. `sphere_maps` makes the release's.
        scale: s of the softmax; None: 1 / sqrt(E).
        residual: add the identity. Without it and without the factor gamma (gamma=None) this is plain attention.
        gamma: start of the learned factor (release: 0, the layer starts as the identity); None: no factor.

    Parameters:
        gamma [] unless None; query.*, key.*, value.*

    Shapes: [B, C, H, W] (or [C, H, W]) to the same.
    """

    def __init__(
        self,
        query: nn.Module | None = None,
        key: nn.Module | None = None,
        value: nn.Module | None = None,
        scale: float | None = None,
        residual: bool = True,
        gamma: float | None = 0.0,
    ) -> None:
        super().__init__()
        self.query, self.key, self.value = query or nn.Identity(), key or nn.Identity(), value or nn.Identity()
        self.scale, self.residual, self.start = scale, residual, gamma
        if gamma is None:
            self.register_parameter("gamma", None)
        else:
            self.gamma = nn.Parameter(torch.tensor(float(gamma)))

    def reset_parameters(self) -> None:
        """Gamma to its start; the maps reset themselves."""
        if self.gamma is not None and self.start is not None:
            nn.init.constant_(self.gamma, self.start)

    def extra_repr(self) -> str:
        return f"scale={self.scale}, residual={self.residual}"

    def multiply_adds(self, input: Tensor, output: Tensor) -> int:
        """Of one image, without the three maps' own: M of queries and keys, and M at work on the values."""
        convolutions = [part for part in self.query.modules() if isinstance(part, nn.Conv2d)]
        width = convolutions[-1].out_channels if convolutions else input.shape[-3]
        positions = output.shape[-2] * output.shape[-1]
        return positions * positions * (width + output.shape[-3])

    def predict_similarity(self, input: Tensor) -> Tensor:
        """A(X) [B, N, N] of [B, C, H, W], [N, N] without B; rows are output positions, each sums to one."""
        if isinstance(input, Tensor) and input.dim() == 3:
            return self.predict_similarity(input.unsqueeze(0)).squeeze(0)
        query, key = self.query(input).flatten(2), self.key(input).flatten(2)
        scale = 1 / math.sqrt(query.shape[1]) if self.scale is None else self.scale
        return torch.softmax(query.transpose(1, 2) @ key * scale, -1)

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H, W], or both without B.

        Raises:
            ValueError: the input is neither, or query or value give maps of other shapes.
        """
        if isinstance(input, Tensor) and input.dim() not in (3, 4):
            raise ValueError(f"input must be [B, C, H, W] or [C, H, W], got {list(input.shape)}")
        if isinstance(input, Tensor) and input.dim() == 3:
            return self.forward(input.unsqueeze(0)).squeeze(0)
        if torch.compiler.is_exporting():  # ONNX knows the attention of heads only
            attended = self.predict_similarity(input) @ self.value(input).flatten(2).transpose(1, 2)
        else:
            found = [part(input) for part in (self.query, self.key, self.value)]
            if isinstance(input, Tensor) and (
                found[0].shape[2:] != input.shape[2:] or found[2].shape[1] != input.shape[1]
            ):
                raise ValueError(
                    f"query must give the positions of the input {list(input.shape)}, and value its channels; got "
                    f"{list(found[0].shape)} and {list(found[2].shape)}"
                )
            rows = [maps.flatten(2).transpose(1, 2) for maps in found]
            # On the CPU a fused kernel, which never forms the N x N matrices of all images; on CUDA, where without
            # heads there is none, the plain products, whose gradients repeat.
            attended = F.scaled_dot_product_attention(rows[0], rows[1], rows[2], scale=self.scale)
        output = as_laid_out(attended.transpose(1, 2).reshape(input.shape), input)
        if self.gamma is not None:
            output = self.gamma * output
        return output + input if self.residual else output


def sphere_maps(channels: int, reduction: int = 8) -> dict[str, Any]:
    """The release's query (cosine SphereConv 1x1, ReLU), key and value maps, and its softmax, which has no scale.

    Keyword arguments of `GlobalSimilarity`.

    Args:
        channels: C.
        reduction: query and key have C / reduction channels, at least one.
    """
    narrow = max(1, channels // reduction)
    return {
        "query": nn.Sequential(SphereConv2d(channels, narrow, 1), nn.ReLU()),
        "key": SphereConv2d(channels, narrow, 1),
        "value": SphereConv2d(channels, channels, 1),
        "scale": 1.0,
    }


def orthogonality_penalty(model: nn.Module, coefficient: float = 2e-4) -> Tensor:
    """coefficient / 2 * sum over SphereConv layers of ||W^T W - I||^2, W [C K, F] with one kernel a column (release).

    Returns:
        A scalar for the loss; zero where there is no such layer.
    """
    # On the parameters' device: a copy from the host could not be captured in a graph.
    total = torch.zeros((), device=next(model.parameters(), torch.empty(0, device="cpu")).device)
    for module in model.modules():
        if isinstance(module, SphereConv2d):
            kernels = module.weight.flatten(1)
            gram = kernels @ kernels.t()
            eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
            total = total.to(gram) + coefficient / 2 * (gram - eye).square().sum()
    return total
