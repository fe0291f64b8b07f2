"""Decoupled convolution: a magnitude function times a function of the angle (paper 2, ref. 36; 3.1 and 3.3, ref. 39).

Source: Liu et al., Decoupled Networks, CVPR 2018. f(w, x) = h(|w|, |x|) g(theta). Magnitudes h, all times |w| with
`weighted` ("weighted decoupled operators"):

    name     h                               kind
    sphere   alpha                           bounded: hyperspherical convolution
    ball     alpha min(|x|, rho) / rho       bounded
    tanh     alpha tanh(|x| / rho)           bounded
    linear   alpha |x|                       unbounded; weighted and with the cosine: the inner product
    log      alpha log(1 + |x|)              unbounded
    mix      alpha |x| + beta log(1 + |x|)   unbounded

Angular functions g: those of `nsl.SphereConv2d` and "square", sign(cos) cos^2.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.kernels.convolution import pair
from nsl.layers.inputs import unbatched
from nsl.layers.spherical import (
    EPSILON,
    LEARNABLE_FLOOR,
    LEARNABLE_K,
    OPERATORS,
    SIGMOID_K,
    angular,
    patch_norm,
    patch_norm_multiply_adds,
)
from nsl.layers.unfusible import Unfusible

for _name in ("angular", "patch_norm"):  # leaves of the graphs that torch.fx traces
    torch.fx.wrap(_name)

MAGNITUDES = ("sphere", "ball", "tanh", "linear", "log", "mix")
ANGLES = (*OPERATORS, "square")


class DecoupledConv2d(Unfusible, nn.Conv2d):
    """Convolution by a decoupled operator, f(w, x) = h(|w|, |x|) g(theta).

    Args:
        in_channels ... groups, bias, device, dtype: as in `torch.nn.Conv2d` (zero padding by numbers, one group).
        magnitude: h, a name of the table above.
        angle: g, "cosine", "linear", "sigmoid", "learnable_sigmoid" or "square".
        weighted: multiply h by |w|.
        learnable: alpha, beta and rho are one learned number a filter each (the paper's learnable operators), of which
            the magnitude is used; False: constants.
        radius: rho at the start. None: sqrt(C K), the norm of a patch of unit variance; the source chooses it by
            experiment.

    Parameters:
        weight [F, C, kh, kw], bias [F], k [F] with the learnable sigmoid, and with `learnable` those of alpha, beta,
        rho [F] that h has.

    Shapes: input [B, C, H, W], output [B, F, Ho, Wo]. Without bias, unweighted and of a bounded magnitude no output is
    larger than |alpha|.

    Raises:
        ValueError: unknown magnitude or angle, groups above 1, padding given as text, a radius that is not positive, or
            another bias set from outside (`Unfusible`).
    """

    k: Tensor | None
    alpha: Tensor | None
    beta: Tensor | None
    rho: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        magnitude: str = "tanh",
        angle: str = "cosine",
        weighted: bool = False,
        learnable: bool = False,
        radius: float | None = None,
    ) -> None:
        for name, value, known in (("magnitude", magnitude, MAGNITUDES), ("angle", angle, ANGLES)):
            if value not in known:
                raise ValueError(f"{name} must be one of {list(known)}, got {value!r}")
        if groups != 1 or isinstance(padding, str):
            raise ValueError(
                f"a decoupled convolution has groups=1 and padding by numbers, got groups={groups}, padding={padding!r}"
            )
        if radius is not None and not radius > 0:
            raise ValueError(f"radius must be positive, got {radius}")
        if radius is not None and magnitude not in ("ball", "tanh"):
            raise ValueError(f"radius belongs to the magnitudes 'ball' and 'tanh'; leave it out with {magnitude!r}")
        geometry = (kernel_size, stride, padding, dilation)
        super().__init__(in_channels, out_channels, *geometry, 1, bias, "zeros", device, dtype)
        self.magnitude, self.angle, self.weighted, self.learnable = magnitude, angle, weighted, learnable
        self.radius = math.sqrt(self.weight[0].numel()) if radius is None else float(radius)
        used = {"ball": ("alpha", "rho"), "tanh": ("alpha", "rho"), "mix": ("alpha", "beta")}.get(magnitude, ("alpha",))
        names = {"k": angle == "learnable_sigmoid"}
        names |= {name: learnable and name in used for name in ("alpha", "beta", "rho")}
        for name, present in names.items():
            own = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if present else None
            self.register_parameter(name, own)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Conv2d's initialisation; alpha and beta 1, rho the radius, k 0.7."""
        super().reset_parameters()
        for name, value in (("alpha", 1.0), ("beta", 1.0), ("rho", getattr(self, "radius", 1.0)), ("k", LEARNABLE_K)):
            own = getattr(self, name, None)
            if own is not None:
                nn.init.constant_(own, value)

    def _number(self, name: str, default: float, like: Tensor) -> Tensor | float:
        own = getattr(self, name)
        return default if own is None else own.to(like.dtype).view(1, -1, 1, 1)

    def _magnitude(self, norm: Tensor) -> Tensor:
        """h without |w|: of norms [B, 1, Ho, Wo], broadcasting against [B, F, Ho, Wo]."""
        alpha, beta = self._number("alpha", 1.0, norm), self._number("beta", 1.0, norm)
        rho = self._number("rho", self.radius, norm)
        if not isinstance(rho, float):
            rho = rho.abs() + EPSILON  # a learned radius stays positive
        if self.magnitude == "sphere":
            return alpha * torch.ones_like(norm)
        if self.magnitude == "ball":
            return alpha * torch.clamp(norm / rho, max=1)
        if self.magnitude == "tanh":
            return alpha * torch.tanh(norm / rho)
        if self.magnitude == "linear":
            return alpha * norm
        logarithm = torch.log1p(norm)
        return alpha * logarithm if self.magnitude == "log" else alpha * norm + beta * logarithm

    def multiply_adds(self, input: Tensor, output: Tensor) -> int:
        """Of one image: the convolution, the patch norms, and one product an output for the magnitude."""
        kernel = self.weight.numel() * output.shape[-2] * output.shape[-1]
        return kernel + patch_norm_multiply_adds(self, input, output)

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to [B, F, Ho, Wo], or both without B."""
        if unbatched(input, self.in_channels):
            return self.forward(input.unsqueeze(0)).squeeze(0)
        stride, dilation = pair(self.stride), pair(self.dilation)
        geometry = (stride, pair(self.padding), dilation)
        weight = self.weight  # read once: a parametrisation may draw at random
        length = (weight.square().sum((1, 2, 3), keepdim=True) + EPSILON).sqrt()
        product = F.conv2d(input, weight / length, None, *geometry)
        norm = patch_norm(input, pair(self.kernel_size), *geometry)
        cosine = (product.to(norm.dtype) / norm).clamp(-1, 1)
        if self.angle == "square":
            turned = cosine * cosine.abs()
        else:
            k = SIGMOID_K if self.k is None else self.k.abs().view(1, -1, 1, 1) + LEARNABLE_FLOOR
            turned = angular(cosine, self.angle, k)
        output = self._magnitude(norm) * turned
        if self.weighted:
            output = output * length.view(1, -1, 1, 1)
        output = output.to(product.dtype)
        return output if self.bias is None else output + self.bias.to(product.dtype).view(1, -1, 1, 1)

    def extra_repr(self) -> str:
        text = f"{super().extra_repr()}, magnitude={self.magnitude!r}, angle={self.angle!r}"
        text += f", weighted={self.weighted}, learnable={self.learnable}"
        usual = math.sqrt(self.weight[0].numel())
        return text + ("" if self.radius == usual else f", radius={self.radius:g}")
