"""Convolutions with a neural similarity: static (paper 3.2) and dynamic (paper 3.3), with learned shape (3.5).

Static: `NSConv1d`, `NSConv2d`, `NSConv3d`, `NSConvTranspose2d`. Dynamic: `DynamicNSConv2d`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.kernels.convolution import neural_similarity_conv2d, pair
from nsl.kernels.geometry import fitting_size
from nsl.layers.dynamic import DynamicLayer, DynamicSimilarity
from nsl.layers.inputs import check_maps, unbatched
from nsl.layers.predictors import AnyPredictor, make_predictor
from nsl.layers.shift import ShiftConv2d
from nsl.layers.similarity import SHAPE_RATE, SHAPE_THRESHOLD, plain_options, random_state_kept, refuse_stale
from nsl.layers.static import StaticLayer, StaticSimilarity, filled, keep_frozen
from nsl.layers.structure import Block, Structure
from nsl.layers.structures import Dilated, Shift

torch.fx.wrap("neural_similarity_conv2d")  # a leaf of the graphs that torch.fx traces

CONV_ARGUMENTS = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
)


class _StaticConv(StaticLayer):
    """What the static convolutions of all dimensions share; stands before the plain class in the base list."""

    arguments: ClassVar[tuple[str, ...]] = CONV_ARGUMENTS
    in_channels: int

    def __init__(
        self,
        *args: Any,
        similarity: str | Structure = "diagonal",
        learn_shape: bool = False,
        shape_threshold: float = SHAPE_THRESHOLD,
        shape_rate: float = SHAPE_RATE,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        place = {"device": device, "dtype": dtype}  # which may also stand in `args`, where PyTorch has them
        super().__init__(*args, **kwargs, **{key: value for key, value in place.items() if value is not None})
        # weight [F, C / groups, *kernel]; a transposed one is [C, F / groups, *kernel].
        block = Block(tuple(self.weight.shape[2:]), self.weight.shape[1])
        shape = {"learn_shape": learn_shape, "shape_threshold": shape_threshold, "shape_rate": shape_rate}
        self.neural = StaticSimilarity(similarity, block, self.weight, **shape)

    def forward(self, input: Tensor) -> Tensor:
        """As the plain convolution's."""
        check_maps(input, self.in_channels, len(self.block.kernel_size))
        return self._conv_forward(input, self.neural(self.weight), self.bias)  # type: ignore[operator]


class NSConv2d(_StaticConv, nn.Conv2d, replaces=nn.Conv2d):
    """Convolution with a static neural similarity: y = conv(x, M^T W) + b (paper 3.2, equation 2).

    Same arguments and attributes as `torch.nn.Conv2d`; with the identity similarity of the initialisation it
    equals `torch.nn.Conv2d` with the same weight.

    Args:
        in_channels, out_channels, kernel_size, stride, padding: as in `torch.nn.Conv2d`.
        dilation, groups, bias, padding_mode, device, dtype: as in `torch.nn.Conv2d`; the rest by name only.
        similarity: a name of `nsl.STRUCTURES` ("diagonal" is DNS, "unconstrained" UNS) or an `nsl.Structure`.
        learn_shape: learn the kernel's shape jointly, M_s = D R with D = 1[D_r > shape_threshold] (paper 3.5).
        shape_threshold: alpha.
        shape_rate: eta of equation (5), as a multiple of the training's learning rate (`nsl.training`).

    Equation (5) is a plain step on D_r: give `neural.shape` no momentum and no weight decay, which switch taps off by
    themselves (`nsl.training.parameter_groups` does so; of an optimiser of your own it needs a group).

    Parameters:
        weight [F, C / groups, kh, kw], bias [F], neural.similarity [D] (the structure's free numbers), and with
        learn_shape also neural.shape [K] (D_r).

    Shapes: input [B, C, H, W] (or [C, H, W]), output [B, F, Ho, Wo].

    Raises:
        ValueError: unknown similarity.
    """

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
        similarity: str | Structure = "diagonal",
        **shape: Any,
    ) -> None:
        place = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        super().__init__(*place, similarity=similarity, device=device, dtype=dtype, **shape)

    def fold(self) -> nn.Module:
        """A plain layer with equal outputs: deployment costs nothing (paper 3.2).

        Returns:
            `torch.nn.Conv2d`; of fewer taps and the right dilation for the dilated structure; `nsl.ShiftConv2d`, shifts
            and one 1x1 convolution, for the shift structure (zero padding by numbers and one group).

        Raises:
            ValueError: a forward pre-hook computes one of the layer's tensors.
        """
        weight, options = self.effective_weight(), plain_options(self, self.arguments)
        if isinstance(self.structure, Dilated):
            factor, sizes = self.structure.factor, pair(self.kernel_size)
            # The grid runs through the centre; it starts at the first tap only where this holds.
            if all(size // 2 % factor == 0 and size % 2 for size in sizes):
                options["kernel_size"] = tuple((size - 1) // factor + 1 for size in sizes)
                options["dilation"] = tuple(factor * dilation for dilation in pair(self.dilation))
                with random_state_kept([weight]):
                    plain = nn.Conv2d(**options)
                return filled(plain, self, weight[:, :, ::factor, ::factor])
        numbers = self.padding_mode == "zeros" and not isinstance(self.padding, str)
        if isinstance(self.structure, Shift) and self.groups == 1 and numbers:
            refuse_stale(self, "bias")
            geometry = [pair(sizes) for sizes in (self.stride, self.padding, self.dilation)]
            folded = ShiftConv2d(weight, self.bias, *geometry)
            keep_frozen(folded.pointwise, self)
            return folded.train(self.training)
        return super().fold()


class NSConv1d(_StaticConv, nn.Conv1d, replaces=nn.Conv1d):
    """`torch.nn.Conv1d` with a static neural similarity over its K taps; arguments and parameters as `NSConv2d`'s.

    Shapes: input [B, C, L], output [B, F, Lo], weight [F, C / groups, K].
    """


class NSConv3d(_StaticConv, nn.Conv3d, replaces=nn.Conv3d):
    """`torch.nn.Conv3d` with a static neural similarity over its K taps; arguments and parameters as `NSConv2d`'s.

    Shapes: input [B, C, D, H, W], output [B, F, Do, Ho, Wo], weight [F, C / groups, kd, kh, kw], K = kd * kh * kw.
    """


class NSConvTranspose2d(_StaticConv, nn.ConvTranspose2d, replaces=nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` whose kernel taps are mixed by a static similarity, M^T W.

    It is the transpose of an `NSConv2d` with the same weight and similarity. Arguments as `torch.nn.ConvTranspose2d`'s,
    and similarity, learn_shape, shape_threshold, shape_rate as `NSConv2d`'s.

    Shapes: input [B, C, H, W], output [B, F, Ho, Wo], weight [C, F / groups, kh, kw].

    Raises:
        ValueError: the structure is not shared by the channels ("full").
    """

    arguments = (*CONV_ARGUMENTS, "output_padding")

    def __init__(
        self, *args: Any, device: torch.device | str | None = None, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, device=device, dtype=dtype, **kwargs)
        if not self.structure.is_shared:
            raise ValueError(
                f"similarity={self.structure!r} mixes channels, which a transposed convolution cannot; use a shared one"
            )

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[B, C, H, W] to [B, F, Ho, Wo]."""
        check_maps(input, self.in_channels)
        padding: Any = self.output_padding
        if output_size is not None:
            geometry: Any = (self.stride, self.padding, self.kernel_size, 2, self.dilation)
            padding = self._output_padding(input, output_size, *geometry)
        return F.conv_transpose2d(
            input,
            self.neural(self.weight),
            self.bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            padding,
            self.groups,
            self.dilation,
        )


class DynamicNSConv2d(DynamicLayer, nn.Conv2d, replaces=nn.Conv2d):
    """Convolution whose similarity is predicted from each patch, W^T M(X) X (paper 3.3, eq. 3): W and the predictor are
    learned jointly, and M(X) = predictor(X) + I (3.3.1).

    Args:
        in_channels, out_channels, kernel_size, stride, padding: as in `torch.nn.Conv2d`.
        dilation, groups, bias, padding_mode, device, dtype: as in `torch.nn.Conv2d`; the rest by name only.
        similarity: a name of `nsl.STRUCTURES` ("diagonal" is DNS, "unconstrained" UNS) or an `nsl.Structure`; all
            but "full" and "l1". The predictor's numbers are added to the identity's before the structure makes a
            matrix of them, so that every predicted M has the structure.
        predictor: "sphere" (SphereNet, the default: every predicted number lies in [-1, 1]), "cnn", "release" (the
            authors' code), any module from [B, C, H, W] to [B, D, Ho, Wo], or a class or function that makes one of
            (in_channels, D, kernel_size, stride, padding, dilation) and the options. With a padding_mode other than
            "zeros" it is given the padded input.
        learn_shape, shape_threshold, shape_rate: as in `NSConv2d`; the shape D is static here too (paper 3.5).
        residual: False leaves out the identity, M(X) = predictor(X): the ablation of "naively using a neural
            network" (paper 3.3.1).
        predictor_options: further arguments of what makes the predictor (of the built-in ones hidden, operator, head,
            shared, ...).

    Parameters:
        weight [F, C / groups, kh, kw], bias [F], neural.predictor.*, and with learn_shape neural.shape [K].

    Shapes: input [B, C, H, W] (or [C, H, W]), output [B, F, Ho, Wo].

    Raises:
        ValueError: unknown similarity or predictor, a predictor whose output does not fit, or an input of other
            channels.
    """

    arguments = CONV_ARGUMENTS

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
        similarity: str | Structure = "diagonal",
        predictor: AnyPredictor = "sphere",
        residual: bool = True,
        predictor_options: dict[str, Any] | None = None,
        **shape: Any,
    ) -> None:
        place: Any = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        super().__init__(*place, device, dtype)  # type: ignore[call-arg]
        block = Block(pair(self.kernel_size), self.weight.shape[1])
        self.neural = DynamicSimilarity(similarity, block, self.weight, residual, **shape)
        layer = (in_channels, self.neural.degrees_of_freedom, block.kernel_size, *self._geometry())
        # A predictor of the user's goes its own ways.
        self._made_for = None if isinstance(predictor, nn.Module) else self._geometry()
        self.neural.predictor = make_predictor(predictor, self.structure, layer, self.weight, predictor_options)

    def _explicit_padding(self) -> tuple[int, int] | None:
        """Symmetric zero padding as a pair, or None when the input must be padded beforehand."""
        if self.padding_mode != "zeros":
            return None
        if isinstance(self.padding, str):
            left, right, top, bottom = self._reversed_padding_repeated_twice
            return (top, left) if (left, top) == (right, bottom) else None
        return pair(self.padding)

    def _geometry(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """The predictor's stride, padding and dilation: padding that the layer does itself must not be done twice."""
        return pair(self.stride), self._explicit_padding() or (0, 0), pair(self.dilation)

    def _padded(self, input: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The input and the zero padding that is left to do."""
        if getattr(self, "_made_for", None) not in (None, self._geometry()):
            raise ValueError(
                f"stride, padding and dilation are {self._geometry()}, but the predictor was made for "
                f"{self._made_for}: make a new layer in place of changing this one"
            )
        padding = self._explicit_padding()
        if padding is not None:
            return input, padding
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(input, self._reversed_padding_repeated_twice, mode=mode), (0, 0)

    def predict_similarity(self, input: Tensor) -> Tensor:
        """The similarity of every output position, without the learned shape D.

        Args:
            input: [B, C, H, W].

        Returns:
            [B, K, Ho, Wo] (diagonal) or [B, K, K, Ho, Wo] (first K: kernel tap k, second: input tap l).

        Raises:
            ValueError: an input of another shape.
        """
        check_maps(input, self.in_channels, batched=True)
        return self.neural(self._padded(input)[0])

    def multiply_adds(self, input: Tensor, output: Tensor) -> int:
        """Of one image, without the predictor's: the convolution, and a similarity at every position that is applied to
        every channel of the patch."""
        mixing = self.mixing_multiply_adds(self.in_channels * self.taps)
        return output.shape[-2] * output.shape[-1] * (self.weight.numel() + mixing)

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to [B, F, Ho, Wo], or both without B.

        Raises:
            ValueError: an input of another shape, or the layer's stride, padding or dilation were changed.
        """
        if unbatched(input, self.in_channels):
            return self.forward(input.unsqueeze(0)).squeeze(0)
        padded, padding = self._padded(input)
        fitting_size(padded, pair(self.kernel_size), pair(self.stride), padding, pair(self.dilation))
        return neural_similarity_conv2d(
            padded,
            self.neural.on_kernel(self.weight),
            self.neural(padded),
            self.bias,
            pair(self.stride),
            padding,
            pair(self.dilation),
            self.groups,
        )
