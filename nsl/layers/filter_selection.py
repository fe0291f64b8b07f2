"""Filters chosen by the input: gates that switch them, and mixtures of several banks (paper 2 and 6, ref. 11).

Sources. Selection: Chen, Li, Bengio, Si, You Look Twice: GaterNet for Dynamic Filter Selection in CNNs, CVPR 2019;
theirs is one gating network for all layers, ours, a choice, one small gater a layer that reads the mean over the
layer's input. Theirs adds noise to the gates and a penalty on their number; ours has neither, and needs batch norm in
the gater (`batch_norm`): the means over a map differ so little from image to image that gates without it are the same
for all images. Mixture: Yang, Bender, Le, Ngiam, CondConv, NeurIPS 2019 (sigmoid weights); Chen et al., Dynamic
Convolution, CVPR 2020 (softmax weights, our default).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.layers.inputs import check_maps, unbatched
from nsl.layers.unfusible import Unfusible
from nsl.layers.window import Window

#: Routings of a mixture and their temperatures: Chen et al.'s, and none in CondConv.
ROUTINGS = {"softmax": 30.0, "sigmoid": 1.0}
#: Bias of the gates at the start: nearly all filters are on, each with sigmoid(1) = 0.73. From a start with half of
#: them off, by the input, CNN-9 does not fit its training images.
GATE_BIAS = 1.0


class SelectedConv2d(Unfusible, nn.Conv2d):
    """A convolution whose filters the input switches on and off, one Boolean a filter and image.

        y[f] = g[f](x) (W * x + b)[f],    g = 1[a > 0],    a = W2 relu(norm(W1 mean_p x + b1)) + b2

    The step has no useful derivative: backward, g is sigmoid(a) (straight-through, as for the learned shape D of 3.5).

    Args:
        in_channels ... dtype: as in `torch.nn.Conv2d`.
        hidden: units of the gater.
        batch_norm: over the images, as `norm`; False: none. In training it needs two images or more.

    Parameters:
        weight, bias as `torch.nn.Conv2d`'s, gater.* ([hidden, C], [F, hidden], with `batch_norm` its scale and shift).

    Shapes: input [B, C, H, W], output [B, F, Ho, Wo].

    Raises:
        ValueError: hidden is below 1, or another bias is set from outside (`Unfusible`).
    """

    why = "its gates switch off the bias too"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        hidden: int = 64,
        batch_norm: bool = False,
    ) -> None:
        geometry = (kernel_size, stride, padding, dilation)
        super().__init__(in_channels, out_channels, *geometry, groups, bias, padding_mode, device, dtype)  # type: ignore[arg-type]
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {hidden}")
        norm = [nn.BatchNorm1d(hidden, device=device, dtype=dtype)] if batch_norm else []
        self.gater = nn.Sequential(
            nn.Linear(in_channels, hidden, device=device, dtype=dtype),
            *norm,
            nn.ReLU(),
            nn.Linear(hidden, out_channels, device=device, dtype=dtype),
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Conv2d's initialisation; the gater's with nearly all filters on."""
        super().reset_parameters()
        gater = self._modules.get("gater")  # not there yet where Conv2d's own construction calls this
        if isinstance(gater, nn.Sequential):
            for layer in gater:
                if isinstance(layer, nn.Linear | nn.BatchNorm1d):
                    layer.reset_parameters()
            nn.init.constant_(gater[-1].bias, GATE_BIAS)  # type: ignore[arg-type]

    def gates(self, input: Tensor) -> Tensor:
        """Exactly zeros and ones [B, F] of [B, C, H, W]; their gradient is the sigmoid's."""
        check_maps(input, self.in_channels, batched=True)
        soft = torch.sigmoid(self.gater(input.mean((2, 3))))
        hard = (soft > 0.5).to(soft.dtype)
        return hard + (soft - soft.detach())

    def observed(self, input: Tensor) -> dict[str, Tensor]:
        """Share of the images that every filter is on for, [F]."""
        return {"mean": self.gates(input).mean(0)}

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to [B, F, Ho, Wo], or both without B."""
        if unbatched(input, self.in_channels):
            return self.forward(input.unsqueeze(0)).squeeze(0)
        output = super().forward(input)
        return output * self.gates(input).to(output.dtype)[:, :, None, None]


class MixtureConv2d(Window):
    """A convolution whose kernel is a mixture of E banks with weights read off the image.

        y = conv(x, sum_e pi[e](x) W_e) + b,    pi = softmax((V mean_p x + v) / t) or, each by itself, its sigmoid

    The convolution being linear in the kernel, it is computed as the weighted sum of E convolutions.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, bias, device, dtype: as in
            `torch.nn.Conv2d`; zero padding, one group.
        banks: E.
        routing: "softmax" or "sigmoid".
        temperature: t at the start; None: 30 of a softmax, 1 of sigmoids. Chen et al. need a large one, or few banks
            learn.
        anneal: part of a training, counted from its start, over which t falls evenly to 1; 0: it stays. Chen et al.
            take the first ten epochs of a hundred. `nsl.training` tells the layer how far a training is; in a loop of
            your own call `training_progress` before every step.

    Parameters:
        weight [E F, C, kh, kw] (the banks one after the other), router.weight [E, C], router.bias [E], bias [F].

    Buffers:
        temperature [].

    Shapes: input [B, C, H, W], output [B, F, Ho, Wo].

    Raises:
        ValueError: banks is below 1, the routing is unknown, the temperature is not positive, or anneal is no part.
    """

    temperature: Tensor

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
        banks: int = 2,
        routing: str = "softmax",
        temperature: float | None = None,
        anneal: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation)
        if banks < 1:
            raise ValueError(f"banks must be at least 1, got {banks}")
        if routing not in ROUTINGS:
            raise ValueError(f"routing must be one of {list(ROUTINGS)}, got {routing!r}")
        temperature = ROUTINGS[routing] if temperature is None else temperature
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        if not 0 <= anneal <= 1:
            raise ValueError(f"anneal must be a part of the training, from 0 to 1, got {anneal}")
        self.banks, self.routing, self.start, self.anneal = banks, routing, temperature, anneal
        # A tensor, which a captured graph reads anew in every step, and which is kept with the weights.
        self.register_buffer("temperature", torch.empty((), device=device, dtype=dtype))
        shape = (banks * out_channels, in_channels, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))
        self.router = nn.Linear(in_channels, banks, device=device, dtype=dtype)
        self.add_bias(bias, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation of every bank, as the sources have it; bias zero.

        An even softmax mixture is smaller than one bank by the root of their number, and so are the steps of each: it
        learns as fast as a plain kernel before batch normalisation. Banks scaled up to make up for it turn slower.
        """
        nn.init.normal_(self.weight, std=math.sqrt(2 / (self.in_channels * self.taps)))
        self.router.reset_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.training_progress(0.0)

    def training_progress(self, done: float) -> None:
        """Set t for a step before which so much of the training is done, from 0 to 1."""
        fallen = min(1.0, done / self.anneal) if self.anneal else 0.0
        self.temperature.fill_(self.start + fallen * (1.0 - self.start))

    def mixture(self, input: Tensor) -> Tensor:
        """The weights pi [B, E]."""
        numbers = self.router(input.mean((2, 3))) / self.temperature
        return numbers.softmax(-1) if self.routing == "softmax" else numbers.sigmoid()

    def multiply_adds(self, input: Tensor, output: Tensor) -> int:
        """Of one image, without those of its parts: E convolutions and their mixture."""
        places = output.shape[-2] * output.shape[-1]
        return places * (self.weight.numel() + self.banks * self.out_channels)

    def observed(self, input: Tensor) -> dict[str, Tensor]:
        """Mean and spread over images of the mixture's weights, [E]."""
        mixture = self.mixture(input)
        return {"mean": mixture.mean(0), "std": mixture.std(0)}

    def maps(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to [B, F, Ho, Wo]."""
        maps = F.conv2d(input, self.weight, None, *self.geometry)
        weights = self.mixture(input).to(maps.dtype)[:, :, None, None, None]
        output = (maps.unflatten(1, (self.banks, self.out_channels)) * weights).sum(1)
        return self.with_bias(output)

    def extra_repr(self) -> str:
        annealed = f", anneal={self.anneal:g}" if self.anneal else ""
        shown = f"banks={self.banks}, routing={self.routing!r}, temperature={self.start:g}{annealed}"
        return f"{super().extra_repr()}, {shown}"
