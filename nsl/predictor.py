"""Predictors of the dynamic similarity: M(X) = predictor(X) + I (paper 3.3, equation 3, Table 1 and Table 3).

A predictor is any module that maps the layer's input [B, C, H, W] to raw numbers [B, D, Ho, Wo], D being the
structure's degrees of freedom and Ho x Wo the layer's output map; the layer adds the identity. Two families:

* `SpherePredictor`: first convolution divided by the norm of each patch, so that the prediction depends on
  the patch's direction and not on its length;
* `CNNPredictor`: plain convolutions, which need a bounded or normalised last step to train.

Disjoint (the default): every layer owns its predictor. Shared: `SharedKernels` holds the two convolutions for
all layers and each layer adds a small adaptation convolution; see `SpherePredictor(shared=...)`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nsl.functional import _pair
from nsl.middle import middle
from nsl.spherical import SphereConv2d, patch_norm

#: Batch norm of the release: eps 1e-3.
BATCH_NORM_EPSILON = 1e-3
#: The release scales the He initialisation of the two predictor layers, so that training starts near M = I.
FIRST_INIT_SCALE, SECOND_INIT_SCALE = 0.1, 1e-3

CNN_HEADS = ("batchnorm", "sigmoid", "tanh", "none")


def _he_normal(convolution: nn.Conv2d, scale: float) -> None:
    nn.init.kaiming_normal_(convolution.weight, mode="fan_in", nonlinearity="relu")
    with torch.no_grad():
        convolution.weight.mul_(scale)


def _same(kernel_size: tuple[int, int]) -> tuple[int, int]:
    if not (kernel_size[0] % 2 and kernel_size[1] % 2):
        raise ValueError(
            f"the built-in predictors need an odd kernel_size, got {kernel_size}; "
            "pass your own module as predictor for even kernels"
        )
    return (kernel_size[0] // 2, kernel_size[1] // 2)


class SharedKernels(nn.Module):
    """The two convolutions that all layers of equal kernel size share (paper Table 3, "shared").

    Batch norms are not shared: the layers' statistics differ, and running averages mixed over layers would not
    be those of any layer at test time.

    Args:
        in_channels: common width that the layers' adaptation convolutions produce.
        degrees_of_freedom: D of the structure.
        kernel_size: of the layers.
        hidden: channels between the two convolutions.
    """

    def __init__(
        self, in_channels: int, degrees_of_freedom: int, kernel_size: int | tuple[int, int], hidden: int = 64
    ) -> None:
        super().__init__()
        kernel = _pair(kernel_size)
        self.first = nn.Conv2d(in_channels, hidden, kernel, padding=_same(kernel), bias=False)
        self.second = nn.Conv2d(hidden, degrees_of_freedom, kernel, padding=_same(kernel), bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _he_normal(self.first, FIRST_INIT_SCALE)
        _he_normal(self.second, SECOND_INIT_SCALE)


class SpherePredictor(nn.Module):
    """SphereNet: convolution / patch norm, (BN,) ReLU, convolution(, BN).

    Args:
        in_channels: C of the layer.
        degrees_of_freedom: D of the structure (9 for a 3x3 diagonal, 81 for a 3x3 unconstrained similarity).
        kernel_size, stride, padding, dilation: of the layer; the first convolution has the same geometry, so
            that the prediction lands on the layer's output map.
        hidden: channels between the two convolutions. Release: 64 (diagonal), 128 (unconstrained).
        batch_norm: release: True for the diagonal, False for the unconstrained structure.
        full: divide both layers by patch norm and kernel norm (release's best model, "full SphereNet").
        shared: kernels shared by several layers; then an adaptation convolution (same geometry as the layer,
            batch norm, ReLU) of this layer's own brings C to the common width first.
        batch_norm_momentum: of the running averages.

    Shapes: [B, C, H, W] to [B, D, Ho, Wo].
    """

    def __init__(
        self,
        in_channels: int,
        degrees_of_freedom: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        hidden: int = 64,
        batch_norm: bool = True,
        full: bool = False,
        shared: SharedKernels | None = None,
        batch_norm_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        kernel = _pair(kernel_size)
        geometry = (_pair(stride), _pair(padding), _pair(dilation))
        self.full = full
        self.adaptation: nn.Module | None = None
        if shared is not None:
            if full:
                raise ValueError("predictor: full=True and shared=... cannot be combined, choose one")
            if shared.second.out_channels != degrees_of_freedom:
                raise ValueError(
                    f"shared predictor has {shared.second.out_channels} outputs, this layer's similarity needs "
                    f"{degrees_of_freedom}: share only among layers of equal kernel size and structure"
                )
            width = shared.first.in_channels
            adapt = nn.Conv2d(in_channels, width, kernel, *geometry, bias=False)
            _he_normal(adapt, 1.0)
            norm = nn.BatchNorm2d(width, eps=BATCH_NORM_EPSILON, momentum=batch_norm_momentum)
            self.adaptation = nn.Sequential(adapt, norm, nn.ReLU(inplace=True))
            self.first, self.second = shared.first, shared.second
        else:
            convolution = SphereConv2d if full else nn.Conv2d
            self.first = convolution(in_channels, hidden, kernel, *geometry, bias=False)
            self.second = convolution(
                self.first.out_channels, degrees_of_freedom, kernel, padding=_same(kernel), bias=False
            )
        self.first_norm: nn.Module = nn.Identity()
        self.second_norm: nn.Module = nn.Identity()
        if batch_norm:
            self.first_norm = nn.BatchNorm2d(
                self.first.out_channels, eps=BATCH_NORM_EPSILON, momentum=batch_norm_momentum
            )
            self.second_norm = nn.BatchNorm2d(
                degrees_of_freedom, eps=BATCH_NORM_EPSILON, momentum=batch_norm_momentum
            )
        if shared is None:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation scaled by 0.1 and 1e-3 (release): M starts near the identity."""
        _he_normal(self.first, FIRST_INIT_SCALE)
        _he_normal(self.second, SECOND_INIT_SCALE)

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to raw numbers [B, D, Ho, Wo]."""
        if self.adaptation is not None:
            input = self.adaptation(input)
        hidden, scale = self.first(input), None
        if not self.full:
            first = self.first
            norm = patch_norm(
                input,
                _pair(first.kernel_size),
                _pair(first.stride),
                _pair(first.padding),  # type: ignore[arg-type]
                _pair(first.dilation),
            )
            scale = norm.reciprocal()
        return self.second_norm(middle(hidden, scale, self.first_norm, self.second))


class CNNPredictor(nn.Module):
    """Plain convolutions: convolution, BN, ReLU, convolution, head (paper Table 1, row "CNN").

    Args:
        in_channels, degrees_of_freedom, kernel_size, stride, padding, dilation, hidden, batch_norm_momentum:
            as for `SpherePredictor`.
        head: last step: "batchnorm" (default), "sigmoid" (minus one half, so that zero means M = I), "tanh",
            or "none": the trivial application, which the paper says diverges; batch norm is then absent from
            the whole predictor.

    Shapes: [B, C, H, W] to [B, D, Ho, Wo].
    """

    def __init__(
        self,
        in_channels: int,
        degrees_of_freedom: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        hidden: int = 64,
        head: str = "batchnorm",
        batch_norm_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        if head not in CNN_HEADS:
            raise ValueError(f"head must be one of {list(CNN_HEADS)}, got {head!r}")
        kernel = _pair(kernel_size)
        geometry = (_pair(stride), _pair(padding), _pair(dilation))
        self.head = head
        self.first = nn.Conv2d(in_channels, hidden, kernel, *geometry, bias=False)
        self.second = nn.Conv2d(hidden, degrees_of_freedom, kernel, padding=_same(kernel), bias=False)
        self.first_norm: nn.Module = nn.Identity()
        self.second_norm: nn.Module = nn.Identity()
        if head != "none":
            self.first_norm = nn.BatchNorm2d(hidden, eps=BATCH_NORM_EPSILON, momentum=batch_norm_momentum)
        if head == "batchnorm":
            self.second_norm = nn.BatchNorm2d(
                degrees_of_freedom, eps=BATCH_NORM_EPSILON, momentum=batch_norm_momentum
            )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The same initialisation as SphereNet's, so that the two differ in the normalisation only."""
        _he_normal(self.first, FIRST_INIT_SCALE)
        _he_normal(self.second, SECOND_INIT_SCALE)

    def extra_repr(self) -> str:
        return f"head={self.head!r}"

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to raw numbers [B, D, Ho, Wo]."""
        raw = self.second_norm(middle(self.first(input), None, self.first_norm, self.second))
        if self.head == "sigmoid":
            return torch.sigmoid(raw) - 0.5
        if self.head == "tanh":
            return torch.tanh(raw)
        return raw


PREDICTORS = {"sphere": SpherePredictor, "cnn": CNNPredictor}
