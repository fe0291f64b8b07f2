"""Dynamic filter networks: convolutions whose filters are completely generated (paper 2 and 6, ref. 28).

Source: De Brabandere, Jia, Tuytelaars, Van Gool, Dynamic Filter Networks, NeurIPS 2016. Their generator is a network
that fits the task; ours, a choice, is two layers: the layer's own window (or the mean over the map), ReLU, and a linear
map to the filters' numbers. Trained from scratch in a deep network, filters that are generated freely make the maps
grow as a power of the input's scale; `normalise` is the filter normalisation of Zhou et al., Decoupled Dynamic Filter
Networks, CVPR 2021 (equation 5).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.layers.window import Window

#: Under the root of a filter's variance.
EPSILON = 1e-5
#: Numbers of depthwise filters that are worked on at once.
CHUNK = 1 << 22


class DynamicFilterConv2d(Window):
    """A convolution without a kernel of its own: a generator G writes its filters from the input.

        y[f,p] = sum_{c,k} G(x)[f,c,k](p) x[c, p + offset(k)] + b[f]     local: "dynamic local filtering layer"
        y[f,p] = sum_{c,k} G(x)[f,c,k]    x[c, p + offset(k)] + b[f]     one filter bank an image

    With `depthwise` G writes one filter a channel, C K numbers instead of F C K, and a learned 1x1 convolution mixes
    the filtered channels, y[f,p] = sum_c P[f,c] sum_k G(x)[c,k](p) x[c, p + offset(k)]: what a layer of many channels
    can afford. Otherwise the generator takes F C K (hidden + 1) parameters.

    With `normalise` every filter (its K numbers of a channel with depthwise, its C K numbers otherwise) is brought to
    mean 0 and variance 1, then multiplied with a and shifted by s, learned numbers of its channel (of its output).

    Without, the last map of G being linear in its hidden units h_j, full local filters are never written down:
    y[.,p] = sum_j h_j(p) (B_j * x)(p) + (B_0 * x)(p), with one kernel B_j a hidden unit.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, bias, device, dtype: as in
            `torch.nn.Conv2d`; zero padding, one group.
        local: a filter for every position; False: one for the image, from the mean over its map.
        depthwise: as above.
        hidden: units between the generator's two layers.
        normalise: as above.

    Parameters:
        first.* (window or 1x1, C to hidden), second.weight [N, hidden, 1, 1] and second.bias [N] with N = F C K, or K C
        numbers a position (taps first), pointwise.weight [F, C, 1, 1] with depthwise, bias [F], with normalise scale
        and shift ([C] with depthwise, else [F]).

    Shapes: input [B, C, H, W], output [B, F, Ho, Wo].

    Raises:
        ValueError: hidden or a number of channels is below 1.
    """

    scale: Tensor | None
    shift: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        *,
        local: bool = True,
        depthwise: bool = False,
        hidden: int = 64,
        normalise: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation)
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {hidden}")
        self.local, self.depthwise, self.hidden = local, depthwise, hidden
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        window: tuple[Any, ...] = (self.kernel_size, *self.geometry) if local else ((1, 1),)
        self.first = nn.Conv2d(in_channels, hidden, *window, **made)
        numbers = in_channels * self.taps * (1 if depthwise else out_channels)
        self.second = nn.Conv2d(hidden, numbers, 1, **made)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False, **made) if depthwise else None
        self.normalise = normalise
        own = in_channels if depthwise else out_channels
        for name in ("scale", "shift"):
            self.register_parameter(name, nn.Parameter(torch.empty(own, **made)) if normalise else None)
        self.add_bias(bias, **made)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation of the generator's first layer; its second one such that a generated filter has the
        variance of He's, 2 / fan-in, where the hidden units have mean square 1. Biases and the shift start at zero, the
        scale of a normalised filter at He's."""
        nn.init.kaiming_normal_(self.first.weight, nonlinearity="relu")
        fan_in = self.taps * (1 if self.depthwise else self.in_channels)
        nn.init.normal_(self.second.weight, std=math.sqrt(2 / (fan_in * self.hidden)))
        if self.scale is not None:
            nn.init.constant_(self.scale, math.sqrt(2 / fan_in))
        for bias in (self.first.bias, self.second.bias, self.bias, self.shift):
            if bias is not None:
                nn.init.zeros_(bias)
        if self.pointwise is not None:
            nn.init.kaiming_normal_(self.pointwise.weight, nonlinearity="relu")

    def _hidden(self, input: Tensor) -> Tensor:
        """[B, J, Ho, Wo], of one filter an image [B, J, 1, 1]."""
        seen = input if self.local else input.mean((2, 3), keepdim=True)
        return torch.relu(self.first(seen))

    def filters(self, input: Tensor) -> Tensor:
        """The generated filters [B, F, C, K, Ho, Wo] ([B, C, K, Ho, Wo] with depthwise); Ho = Wo = 1 without local."""
        numbers = self.second(self._hidden(input))
        if self.depthwise:
            return self._normalised(self._innermost(numbers), (3,), 4).permute(0, 4, 3, 1, 2)
        return self._normalised(numbers.unflatten(1, (self.out_channels, self.in_channels, self.taps)), (2, 3), 1)

    def _centred(self, input: Tensor) -> Tensor:
        """The generator's numbers [B, N, Ho, Wo], with normalise less every filter's mean.

        The last layer being linear, a filter's mean is taken from its weights, once, instead of from every filter.
        """
        hidden = self._hidden(input)
        if not self.normalise:
            return self.second(hidden)
        count, axis = (self.taps, 0) if self.depthwise else (self.out_channels, 1)
        weight, bias = (part.unflatten(0, (count, -1)) for part in (self.second.weight, self._base()))
        weight, bias = ((part - part.mean(axis, keepdim=True)).flatten(0, 1) for part in (weight, bias))
        return F.conv2d(hidden, weight, bias)

    def _spread(self, maps: Tensor, squares: Tensor, sums: Tensor, count: int) -> Tensor:
        """Maps of centred filters as maps of normalised ones, all [..., owner].

        Args:
            maps: of the centred filters.
            squares: sum of a filter's squared numbers.
            sums: sum of the inputs that a filter sees.
            count: numbers of a filter.
        """
        assert self.scale is not None
        assert self.shift is not None
        inverse = (squares / count + EPSILON).rsqrt().to(maps.dtype)
        return maps * (inverse * self.scale.to(maps.dtype)) + sums * self.shift.to(maps.dtype)

    def _sums(self, input: Tensor) -> Tensor:
        """The sum of every position's patch, [B, Ho, Wo, C] by channel with depthwise, else [B, Ho, Wo, 1]."""
        seen = input if self.depthwise else input.sum(1, keepdim=True)
        box = seen.new_ones(seen.shape[1], 1, *self.kernel_size)
        return F.conv2d(seen, box, None, *self.geometry, groups=seen.shape[1]).permute(0, 2, 3, 1)

    def _one_an_image(self, input: Tensor) -> Tensor:
        """[B, F, Ho, Wo], with depthwise [B, C, Ho, Wo], of one filter bank an image."""
        if self.depthwise:
            return self.each_its_kernel(input, self.filters(input)[..., 0, 0].unsqueeze(2))
        filters = self._centred(input).flatten(1).unflatten(1, (self.out_channels, self.in_channels, self.taps))
        maps = self.each_its_kernel(input, filters)
        if not self.normalise:
            return maps
        squares = _wide(filters).square().sum((2, 3))[:, None, None]  # [B, 1, 1, F]
        count = self.in_channels * self.taps
        return self._spread(maps.permute(0, 2, 3, 1), squares, self._sums(input), count).permute(0, 3, 1, 2)

    def _depthwise(self, input: Tensor) -> Tensor:
        """Every channel filtered by itself at every position, [B, C, Ho, Wo]; some images at a time, so that they stay
        in the cache."""
        numbers = self._centred(input)
        height, width = self.map_size(input)
        count = max(1, CHUNK // max(1, self.taps * self.in_channels * height * width))
        parts = []
        for some, images in zip(numbers.split(count), input.split(count)):
            filters, patches = self._innermost(some), self.patches_last(images)
            maps = (filters * patches).sum(3)
            if self.normalise:
                # The normalised filters' product with the patches, without writing those filters down.
                maps = self._spread(maps, _wide(filters).square().sum(3), self._sums(images), self.taps)
            parts.append(maps)
        return torch.cat(parts).permute(0, 3, 1, 2)

    def _innermost(self, numbers: Tensor) -> Tensor:
        """The generator's [B, K C, Ho, Wo] as [B, Ho, Wo, K, C]."""
        return numbers.permute(0, 2, 3, 1).unflatten(-1, (self.taps, self.in_channels))

    def _normalised(self, filters: Tensor, axes: tuple[int, ...], owner: int) -> Tensor:
        """Filters whose numbers along these axes have the mean and deviation learned for the axis `owner`."""
        if self.scale is None or self.shift is None:
            return filters
        shape = [-1 if axis == owner else 1 for axis in range(5 if self.depthwise else 6)]
        centred = filters - filters.mean(axes, keepdim=True)
        inverse = (_wide(centred).square().mean(axes, keepdim=True) + EPSILON).rsqrt().to(centred.dtype)
        scale, shift = (part.to(filters.dtype).view(shape) for part in (self.scale, self.shift))
        return centred * (inverse * scale) + shift

    def _full_local(self, input: Tensor) -> Tensor:
        """One convolution a hidden unit, and their sum weighted by the units."""
        shape = (self.out_channels, self.in_channels, *self.kernel_size)
        basis = torch.cat([self.second.weight.flatten(1).t(), self._base().unsqueeze(0)])  # [J + 1, N]
        kernels = basis.unflatten(1, shape).flatten(0, 1)
        maps = F.conv2d(input, kernels, None, *self.geometry).unflatten(1, (self.hidden + 1, self.out_channels))
        weights = self._hidden(input).unsqueeze(2).to(maps.dtype)
        return (weights * maps[:, :-1]).sum(1) + maps[:, -1]

    def _base(self) -> Tensor:
        assert self.second.bias is not None
        return self.second.bias

    def multiply_adds(self, input: Tensor, output: Tensor) -> int:
        """Of one image, without those of its parts that are called: the filters' use, and where they are never written
        their mixing."""
        places = output.shape[-2] * output.shape[-1]
        kernel = self.in_channels * self.taps * (1 if self.depthwise else self.out_channels)
        if self.local and not self.depthwise and not self.normalise:
            return places * (kernel * (self.hidden + 1) + self.out_channels * self.hidden)
        # Of the last layer only the weights are used where filters are centred in them.
        centred = self.normalise and self.local == self.depthwise
        return places * kernel + centred * self.second.weight.numel() * (places if self.local else 1)

    def maps(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to [B, F, Ho, Wo]."""
        if self.pointwise is not None:
            output = self.pointwise(self._depthwise(input) if self.local else self._one_an_image(input))
        elif self.local and self.normalise:
            output = (self.filters(input) * self.patches(input).unsqueeze(1)).sum((2, 3))
        elif self.local:
            output = self._full_local(input)
        else:
            output = self._one_an_image(input)
        return self.with_bias(output)

    def extra_repr(self) -> str:
        text = f"{super().extra_repr()}, local={self.local}, depthwise={self.depthwise}"
        return f"{text}, hidden={self.hidden}, normalise={self.normalise}"


def _wide(filters: Tensor) -> Tensor:
    """Filters as their variance is computed: float16 has no room for squares, nor for the slope of their root."""
    return filters.float() if filters.dtype == torch.float16 else filters


torch.fx.wrap("_wide")  # a leaf of the graphs that torch.fx traces


def similarity_of_filters(weight: Tensor, filters: Tensor) -> Tensor:
    """The unconstrained similarity with which a dynamic NSN computes a dynamic filter network (paper 6).

    "When M has no constraints, our dynamic NSN will become essentially equivalent to the dynamic filter network": with
    the kernels as columns of W [CHV, F] and the wanted filters as columns of V, W^T M = V^T is solved by
    M = W (W^T W)^-1 V^T, for one kernel M = w v^T / |w|^2, as long as the kernels are independent (F <= CHV). M mixes
    channels and has (CHV)^2 numbers; a block shared by the channels (HV x HV) reaches only the filters
    V[f,c,l] = sum_k W[f,c,k] M_s[k,l].

    Args:
        weight: [F, N] kernels, N = CHV, of rank F.
        filters: [..., F, N] generated filters.

    Returns:
        M [..., N, N] of smallest Frobenius norm.
    """
    return torch.linalg.pinv(weight) @ filters
