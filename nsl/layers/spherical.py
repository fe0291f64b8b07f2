"""Hyperspherical convolution: the parameter-free dynamic similarity M(X) = I / (||w|| ||x||) (paper 3.3, ref. 39).

The operators of the angle theta between kernel and patch, all 1 at 0, 0 at a right angle and -1 at pi:

    cosine                cos theta
    linear                1 - 2 theta / pi
    sigmoid               tanh((pi/2 - theta) / 2k) / tanh(pi / 4k), k = 0.3
    learnable_sigmoid     the same with one k = |parameter| + 0.05 a filter, the parameter starting at 0.7
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.kernels import maps
from nsl.kernels.convolution import pair
from nsl.kernels.geometry import output_size
from nsl.kernels.norms import ProductAndNorm, channel_energy, scale_positions
from nsl.kernels.operators import taps
from nsl.kernels.paths import path
from nsl.kernels.precision import exactly, wide_type
from nsl.layers.inputs import unbatched
from nsl.layers.unfusible import Unfusible

for _name in ("angular", "inverse_patch_norm", "scale_positions"):  # leaves of the graphs that torch.fx traces
    torch.fx.wrap(_name)

#: Added under both square roots, the value of the authors' release.
EPSILON = 1e-4

OPERATORS = ("cosine", "linear", "sigmoid", "learnable_sigmoid")
SIGMOID_K, LEARNABLE_K, LEARNABLE_FLOOR = 0.3, 0.7, 0.05
# d theta / d cos is infinite at theta = 0 and pi. Cosines nearer to 1 than this are treated as if they were here, with
# the slope of this point, so that no gradient is larger than 1 / sqrt(2 * CLEARANCE) = 71 or lost.
CLEARANCE = 1e-4


def observed(module: nn.Module) -> bool:
    """Whether a module has to be called as it stands: it has hooks, or all modules have, or a forward of its own."""
    own = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    every = torch.nn.modules.module._has_any_global_hook()
    return bool(own or every or "forward" in module.__dict__)


def _arcsine(cosine: Tensor) -> Tensor:
    """arcsin, with its slope bounded near +-1."""
    inner = cosine.clamp(-1 + CLEARANCE, 1 - CLEARANCE)
    bounded = inner.arcsin() + (cosine - inner) * (1 - (1 - CLEARANCE) ** 2) ** -0.5
    # The value of arcsin, the gradient of the bounded one.
    return bounded + (cosine.detach().clamp(-1, 1).arcsin() - bounded.detach())


def angular(cosine: Tensor, operator: str = "linear", k: Tensor | float = SIGMOID_K) -> Tensor:
    """An operator of the angle, given its cosine (Liu et al., Deep Hyperspherical Learning, section 2).

    Args:
        cosine: any shape, values in [-1, 1]; rounding beyond is clamped, but by "cosine", which changes nothing.
        operator: one of `OPERATORS`; the two sigmoids differ in where k comes from.
        k: of the sigmoid, broadcast against cosine.

    Returns:
        Of cosine's shape and type; computed in at least float32, gradients finite at theta = 0 and pi.
    """
    if operator not in OPERATORS:
        raise ValueError(f"operator must be one of {list(OPERATORS)}, got {operator!r}")
    if operator == "cosine":
        return cosine
    wide = cosine if cosine.dtype == torch.float64 else cosine.float()
    complement = _arcsine(wide)  # pi / 2 - theta
    if operator == "linear":
        return (complement * (2 / math.pi)).to(cosine.dtype)
    if not isinstance(k, Tensor):  # filled on the device: a copy from the host could not be captured in a graph
        k = torch.full((), k, dtype=wide.dtype, device=wide.device)
    k = k.to(wide.dtype)
    return (torch.tanh(complement / (2 * k)) / torch.tanh(math.pi / (4 * k))).to(cosine.dtype)


def patch_norm(
    input: Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    epsilon: float = EPSILON,
) -> Tensor:
    """Euclidean norm of every patch a convolution sees: sqrt(conv(x^2, ones) + epsilon).

    Channels are summed before the window, so it costs one pass over the input and one convolution of a single
    map. Computed in at least float32: a sum of squares loses too much in bfloat16.

    Args:
        input: [B, C, H, W].
        kernel_size, stride, padding, dilation, groups: of the convolution whose patches are meant.
        epsilon: under the square root.

    Returns:
        [B, groups, Ho, Wo].
    """
    kernel = pair(kernel_size)
    dtype = wide_type(input)
    batch, channels, height, width = input.shape
    with exactly(input):
        if groups == 1 and path(input) == "triton" and input.numel():
            geometry = (kernel, pair(stride), pair(padding), pair(dilation))
            return maps.inverse_patch_norms(input, *geometry, epsilon).reciprocal()
        if groups == 1:
            energy = channel_energy(input, dtype)
        else:
            grouped = input.reshape(batch, groups, channels // groups, height, width).to(dtype)
            energy = (grouped * grouped).sum(2)
        if energy.device.type == "cuda":  # no convolution there, which TF32 would round
            window = _window_sums(energy, kernel, pair(stride), pair(padding), pair(dilation))
            return (window + epsilon).sqrt()
        ones = energy.new_ones(groups, 1, *kernel)
        window = F.conv2d(energy, ones, None, pair(stride), pair(padding), pair(dilation), groups)
        return (window + epsilon).sqrt()


def patch_norm_multiply_adds(layer: nn.Conv2d, input: Tensor, output: Tensor) -> int:
    """Of one image [.., H, W] that the layer brings to [.., Ho, Wo]: squares and their sum over channels, a window of
    ones at every output position, and the division of every output by the norm."""
    places = output.shape[-2] * output.shape[-1]
    return layer.in_channels * input.shape[-2] * input.shape[-1] + places * (
        layer.weight[0, 0].numel() + layer.out_channels
    )


def inverse_patch_norm(
    input: Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    """1 / `patch_norm`, which the GPU computes as such."""
    if groups == 1 and path(input) == "triton" and input.numel():
        geometry = (pair(kernel_size), pair(stride), pair(padding), pair(dilation))
        return maps.inverse_patch_norms(input, *geometry, EPSILON)
    return patch_norm(input, kernel_size, stride, padding, dilation, groups).reciprocal()


def _window_sums(
    energy: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """A convolution with ones of every map by itself, [B, G, H, W] to [B, G, Ho, Wo], by slices."""
    out = output_size((energy.shape[2], energy.shape[3]), kernel, stride, padding, dilation)
    window = [*kernel, *stride, *padding, *dilation]
    return torch.stack(taps(energy.permute(0, 2, 3, 1), out, window)).sum(0).permute(0, 3, 1, 2)


class SphereConv2d(Unfusible, nn.Conv2d):
    """Convolution by angle: the inner product divided by the norms of patch and kernel, and an operator of that.

    Same signature as `torch.nn.Conv2d` (default without bias, as in the release). Without bias every output lies in
    [-1, 1], up to rounding.

    Args:
        operator: "cosine", "linear", "sigmoid" or "learnable_sigmoid" (see the module's docstring).

    Parameters:
        weight [F, C / groups, kh, kw], bias [F], and with the learnable sigmoid k [F].

    Shapes: input [B, C, H, W] (or [C, H, W]), output [B, F, Ho, Wo], weight [F, C / groups, kh, kw].

    Raises:
        ValueError: an unknown operator, padding by name, an input of other channels, or another bias set from outside:
            batch norm and the like cannot be folded into a layer whose output does not scale with its weight.

    Source: paper 3.3; Liu et al., Deep Hyperspherical Learning, NeurIPS 2017. Epsilon as in the release.
    """

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
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        operator: str = "cosine",
    ) -> None:
        if operator not in OPERATORS:
            raise ValueError(f"operator must be one of {list(OPERATORS)}, got {operator!r}")
        if isinstance(padding, str):
            raise ValueError(f"padding must be an integer or a pair of integers, got {padding!r}")
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,  # type: ignore[arg-type]
            device,
            dtype,
        )
        self.operator = operator
        if operator == "learnable_sigmoid":
            self.k = nn.Parameter(torch.full((out_channels,), LEARNABLE_K, device=device, dtype=dtype))
        else:
            self.register_parameter("k", None)

    def reset_parameters(self) -> None:
        """Conv2d's initialisation, and 0.7 for the learnable k."""
        super().reset_parameters()
        if getattr(self, "k", None) is not None:
            nn.init.constant_(self.k, LEARNABLE_K)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, operator={self.operator!r}"

    def unit_weight(self) -> Tensor:
        """The kernels [F, C / groups, kh, kw] divided by their norms."""
        weight = self.weight  # read once: a parametrisation may draw at random
        return weight / (weight.square().sum((1, 2, 3), keepdim=True) + EPSILON).sqrt()

    def unscaled(self, input: Tensor) -> tuple[Tensor, Tensor | None]:
        """The output as a map [B, F, Ho, Wo] and the factor [B, 1, Ho, Wo] that it is still to be multiplied with.

        The factor, the patches' inverse norms, is None where the operator has needed it already. What follows can
        often take it into a pass of its own (`nsl.layers.middle`).
        """
        plain = self.padding_mode == "zeros" and self.groups == 1 and self.operator == "cosine" and self.bias is None
        if not plain or observed(self) or isinstance(self.padding, str):
            return self(input), None
        geometry, way = (pair(self.stride), pair(self.padding), pair(self.dilation)), path(input)
        if way != "plain" and input.numel():
            device = input.device.type
            autocast = torch.is_autocast_enabled(device)
            dtype = torch.get_autocast_dtype(device) if autocast else input.dtype
            if way == "triton":
                product = F.conv2d(input, maps.unit_weight(self.weight, dtype, EPSILON), None, *geometry)
                return product, inverse_patch_norm(input, pair(self.kernel_size), *geometry)
            if dtype == input.dtype and dtype in (self.weight.dtype, torch.bfloat16):
                return ProductAndNorm.apply(input, self.unit_weight().to(dtype), *geometry, EPSILON)
        product = F.conv2d(input, self.unit_weight(), None, *geometry)
        return product, inverse_patch_norm(input, pair(self.kernel_size), *geometry)

    def multiply_adds(self, input: Tensor, output: Tensor) -> int:
        """Of one image: the convolution, the patch norms and the division by them."""
        kernel = self.weight.numel() * output.shape[-2] * output.shape[-1]
        return kernel + patch_norm_multiply_adds(self, input, output)

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to [B, F, Ho, Wo], or both without B."""
        if unbatched(input, self.in_channels):
            return self.forward(input.unsqueeze(0)).squeeze(0)
        padding = pair(self.padding)
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0, 0)
        kernel, stride, dilation = pair(self.kernel_size), pair(self.stride), pair(self.dilation)
        product = F.conv2d(input, self.unit_weight(), None, stride, padding, dilation, self.groups)
        inverse = inverse_patch_norm(input, kernel, stride, padding, dilation, self.groups)
        if self.groups > 1:
            inverse = inverse.repeat_interleave(self.out_channels // self.groups, 1)
        inverse = inverse.to(product.dtype)
        output = scale_positions(product, inverse) if self.groups == 1 else product * inverse
        if self.operator != "cosine":
            k = SIGMOID_K if self.k is None else self.k.abs().view(1, -1, 1, 1) + LEARNABLE_FLOOR
            output = angular(output, self.operator, k)
        return output if self.bias is None else output + self.bias.to(product.dtype).view(1, -1, 1, 1)
