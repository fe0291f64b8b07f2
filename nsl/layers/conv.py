"""Convolutions with a neural similarity: static (paper 3.2) and dynamic (paper 3.3), with learned shape (3.5).

Static: `NSConv1d`, `NSConv2d`, `NSConv3d`, `NSConvTranspose2d`. Dynamic: `DynamicNSConv2d`.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.kernels.convolution import _pair, neural_similarity_conv2d
from nsl.layers.predictors import PREDICTORS
from nsl.layers.shift import ShiftConv2d
from nsl.layers.static import SHAPE_INIT, SHAPE_RATE, SHAPE_THRESHOLD, Similar, Static, keep_frozen, refuse_stale
from nsl.layers.structures import L1, Block, Diagonal, Dilated, Shift, Structure, Unconstrained

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


class _StaticConv(Static):
    """What the static convolutions of all dimensions share; stands before the plain class in the base list."""

    _plain: type[nn.Module]
    bias: Tensor | None

    def _block(self) -> Block:
        # weight [F, C / groups, *kernel]; a transposed one is [C, F / groups, *kernel].
        return Block(tuple(self.weight.shape[2:]), self.weight.shape[1])

    def forward(self, input: Tensor) -> Tensor:
        """As the plain convolution's."""
        return self._conv_forward(input, self._mixed_weight(), self.bias)  # type: ignore[operator]

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in CONV_ARGUMENTS} | {"bias": self.bias is not None}

    def fold(self) -> nn.Module:
        """The plain layer with equal outputs: deployment costs nothing (paper 3.2).

        Raises:
            ValueError: a forward pre-hook computes one of the layer's tensors.
        """
        refuse_stale(self, "bias")
        plain = self._plain(**self._options(), device=self.weight.device, dtype=self.weight.dtype)
        return _filled(plain, self.effective_weight(), self.bias, self)


def _filled(plain: nn.Module, weight: Tensor, bias: Tensor | None, source: nn.Module) -> nn.Module:
    """A plain layer with the given numbers; mode, memory format and what is frozen are the source's."""
    with torch.no_grad():
        plain.weight.copy_(weight)  # type: ignore[operator]
        if bias is not None:
            plain.bias.copy_(bias)  # type: ignore[operator]
    if weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last):
        plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return keep_frozen(plain, source).train(source.training)


class NSConv2d(_StaticConv, nn.Conv2d):
    """Convolution with a static neural similarity: y = conv(x, M^T W) + b (paper 3.2, equation 2).

    Same arguments and attributes as `torch.nn.Conv2d`; with the identity similarity of the initialisation it
    equals `torch.nn.Conv2d` with the same weight.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device,
            dtype: as in `torch.nn.Conv2d`.
        similarity: a name of `nsl.STRUCTURES` ("diagonal" is DNS, "unconstrained" UNS) or an `nsl.Structure`.
        learn_shape: learn the kernel's shape jointly, M_s = D R with D = 1[D_r > shape_threshold] (paper 3.5).
        shape_threshold: alpha.
        shape_rate: eta of equation (5), as a multiple of the training's learning rate (`nsl.training`).

    Parameters:
        weight [F, C / groups, kh, kw], bias [F], similarity [D] (the structure's free numbers), and with
        learn_shape also shape [K] (D_r).

    Shapes: input [B, C, H, W] (or [C, H, W]), output [B, F, Ho, Wo].

    Raises:
        ValueError: unknown similarity.
    """

    _plain = nn.Conv2d

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
        similarity: str | Structure = "diagonal",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        learn_shape: bool = False,
        shape_threshold: float = SHAPE_THRESHOLD,
        shape_rate: float = SHAPE_RATE,
    ) -> None:
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
        self._add_similarity(similarity, self._block(), learn_shape, shape_threshold, shape_rate)

    def fold(self) -> nn.Module:
        """A plain layer with equal outputs: deployment costs nothing (paper 3.2).

        Returns:
            `torch.nn.Conv2d`; of fewer taps and the right dilation for the dilated structure; `nsl.ShiftConv2d`, shifts
            and one 1x1 convolution, for the shift structure (zero padding by numbers and one group).

        Raises:
            ValueError: a forward pre-hook computes one of the layer's tensors.
        """
        refuse_stale(self, "bias")
        options = self._options()
        if isinstance(self.structure, Dilated):
            factor, sizes = self.structure.factor, _pair(self.kernel_size)
            # The grid runs through the centre; it starts at the first tap only where this holds.
            if all(size // 2 % factor == 0 and size % 2 for size in sizes):
                options["kernel_size"] = tuple((size - 1) // factor + 1 for size in sizes)
                options["dilation"] = tuple(factor * dilation for dilation in _pair(self.dilation))
                plain = nn.Conv2d(**options, device=self.weight.device, dtype=self.weight.dtype)
                return _filled(plain, self.effective_weight()[:, :, ::factor, ::factor], self.bias, self)
        numbers = self.padding_mode == "zeros" and not isinstance(self.padding, str)
        if isinstance(self.structure, Shift) and self.groups == 1 and numbers:
            geometry = [_pair(pair) for pair in (self.stride, self.padding, self.dilation)]  # type: ignore[arg-type]
            folded = ShiftConv2d(self.effective_weight(), self.bias, *geometry)
            keep_frozen(folded.pointwise, self)
            return folded.train(self.training)
        return super().fold()


class NSConv1d(_StaticConv, nn.Conv1d):
    """`torch.nn.Conv1d` with a static neural similarity over its K taps; arguments and parameters as `NSConv2d`'s.

    Shapes: input [B, C, L], output [B, F, Lo], weight [F, C / groups, K].
    """

    _plain = nn.Conv1d

    def __init__(
        self,
        *args: Any,
        similarity: str | Structure = "diagonal",
        learn_shape: bool = False,
        shape_threshold: float = SHAPE_THRESHOLD,
        shape_rate: float = SHAPE_RATE,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._add_similarity(similarity, self._block(), learn_shape, shape_threshold, shape_rate)


class NSConv3d(_StaticConv, nn.Conv3d):
    """`torch.nn.Conv3d` with a static neural similarity over its K taps; arguments and parameters as `NSConv2d`'s.

    Shapes: input [B, C, D, H, W], output [B, F, Do, Ho, Wo], weight [F, C / groups, kd, kh, kw], K = kd * kh * kw.
    """

    _plain = nn.Conv3d

    def __init__(
        self,
        *args: Any,
        similarity: str | Structure = "diagonal",
        learn_shape: bool = False,
        shape_threshold: float = SHAPE_THRESHOLD,
        shape_rate: float = SHAPE_RATE,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._add_similarity(similarity, self._block(), learn_shape, shape_threshold, shape_rate)


class NSConvTranspose2d(_StaticConv, nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` whose kernel taps are mixed by a static similarity, M^T W.

    It is the transpose of an `NSConv2d` with the same weight and similarity. Arguments as `torch.nn.ConvTranspose2d`'s,
    and similarity, learn_shape, shape_threshold, shape_rate as `NSConv2d`'s.

    Shapes: input [B, C, H, W], output [B, F, Ho, Wo], weight [C, F / groups, kh, kw].

    Raises:
        ValueError: the structure is not shared by the channels ("full").
    """

    _plain = nn.ConvTranspose2d

    def __init__(
        self,
        *args: Any,
        similarity: str | Structure = "diagonal",
        learn_shape: bool = False,
        shape_threshold: float = SHAPE_THRESHOLD,
        shape_rate: float = SHAPE_RATE,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._add_similarity(similarity, self._block(), learn_shape, shape_threshold, shape_rate)
        if not self.structure.is_shared:
            raise ValueError(
                f"similarity={self.structure!r} mixes channels, which a transposed convolution cannot; use a shared one"
            )

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[B, C, H, W] to [B, F, Ho, Wo]."""
        padding = self._output_padding(
            input,
            output_size,
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.kernel_size,  # type: ignore[arg-type]
            2,
            self.dilation,  # type: ignore[arg-type]
        )
        return F.conv_transpose2d(
            input,
            self._mixed_weight(),
            self.bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            padding,
            self.groups,
            self.dilation,
        )

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"output_padding": self.output_padding}


class DynamicNSConv2d(Similar, nn.Conv2d):
    """Convolution whose similarity is predicted from each patch: M(X) = predictor(X) + I (paper 3.3, eq. 3).

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device,
            dtype: as in `torch.nn.Conv2d`.
        similarity: a name of `nsl.STRUCTURES` ("diagonal" is DNS, "unconstrained" UNS) or an `nsl.Structure`; all
            but "full" and "l1". The predictor's numbers are added to the identity's before the structure makes a
            matrix of them, so that every predicted M has the structure.
        predictor: "sphere" (SphereNet, the default: every predicted number lies in [-1, 1]), "cnn", "release" (the
            authors' code), or any module from [B, C, H, W] to [B, D, Ho, Wo]. With a padding_mode other than "zeros"
            it is given the padded input.
        learn_shape, shape_threshold, shape_rate: as in `NSConv2d`; the shape D is static here too (paper 3.5).
        residual: False leaves out the identity, M(X) = predictor(X): the ablation of "naively using a neural
            network" (paper 3.3.1).
        predictor_options: further arguments of the built-in predictor (hidden, operator, head, shared, ...).

    Parameters:
        weight [F, C / groups, kh, kw], bias [F], predictor.*, and with learn_shape shape [K].

    Shapes: input [B, C, H, W], output [B, F, Ho, Wo].

    Raises:
        ValueError: unknown similarity or predictor, or a predictor whose output does not fit.
    """

    identity: Tensor

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
        similarity: str | Structure = "diagonal",
        predictor: str | nn.Module = "sphere",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        learn_shape: bool = False,
        shape_threshold: float = SHAPE_THRESHOLD,
        shape_rate: float = SHAPE_RATE,
        residual: bool = True,
        predictor_options: dict[str, Any] | None = None,
    ) -> None:
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
        block = Block(_pair(self.kernel_size), self.weight.shape[1])
        self._add_structure(similarity, block, learn_shape, shape_threshold, shape_rate, self.weight)
        self.residual = residual
        if not self.structure.is_shared:
            raise ValueError(f"similarity={self.structure!r} is for static layers; predict a shared one")
        if isinstance(self.structure, L1):
            raise ValueError("similarity='l1' penalises a learned similarity: a dynamic layer takes its inner one")
        degrees = self.structure.degrees_of_freedom(block)
        free = self.structure.identity(block).to(device=self.weight.device, dtype=self.weight.dtype)
        self.register_buffer("identity", free, persistent=False)
        self.predictor: nn.Module
        if isinstance(predictor, nn.Module):
            if predictor_options:
                raise ValueError("predictor_options are for the built-in predictors, not for your own module")
            self.predictor = predictor
        elif predictor in PREDICTORS:
            options = dict(predictor_options or {})
            known = list(inspect.signature(PREDICTORS[predictor]).parameters)[6:]  # beyond what the layer gives itself
            if unknown := sorted(set(options) - set(known)):
                raise ValueError(f"predictor {predictor!r} has no option {unknown[0]!r}, it takes {known}")
            if isinstance(self.structure, Unconstrained) and predictor != "cnn":
                # The release's choices for UNS.
                options = {"hidden": 128} | ({"batch_norm": False} if predictor == "release" else {}) | options
            # Padding that the layer does itself (see _padded) must not be done twice.
            explicit = self._explicit_padding()
            self.predictor = PREDICTORS[predictor](
                in_channels,
                degrees,
                _pair(self.kernel_size),
                _pair(self.stride),
                (0, 0) if explicit is None else explicit,
                _pair(self.dilation),
                **options,
            ).to(device=self.weight.device, dtype=self.weight.dtype)
        else:
            raise ValueError(f"predictor must be one of {sorted(PREDICTORS)} or a module, got {predictor!r}")

    def reset_parameters(self) -> None:
        """Conv2d's initialisation, the full shape, and the predictor's own initialisation near M = I."""
        super().reset_parameters()
        if hasattr(self, "predictor"):
            if self.shape is not None:
                with torch.no_grad():
                    self.shape.fill_(SHAPE_INIT)
            # Children first, so that a predictor's own scaled initialisation has the last word.
            for module in reversed(list(self.predictor.modules())):
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    reset()

    def _explicit_padding(self) -> tuple[int, int] | None:
        """Symmetric zero padding as a pair, or None when the input must be padded beforehand."""
        if self.padding_mode != "zeros":
            return None
        if isinstance(self.padding, str):
            left, right, top, bottom = self._reversed_padding_repeated_twice
            return (top, left) if (left, top) == (right, bottom) else None
        return _pair(self.padding)

    def _padded(self, input: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The input and the zero padding that is left to do."""
        padding = self._explicit_padding()
        if padding is not None:
            return input, padding
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(input, self._reversed_padding_repeated_twice, mode=mode), (0, 0)

    def _predict(self, padded: Tensor) -> Tensor:
        raw = self.predictor(padded)
        degrees = self.identity.numel()
        if raw.dim() != 4 or raw.shape[0] != padded.shape[0] or raw.shape[1] != degrees:
            raise ValueError(
                f"predictor must return [B, {degrees}, Ho, Wo] for {self.structure!r} with {self.taps} taps, "
                f"got {list(raw.shape)}"
            )
        if type(self.structure) is Diagonal:
            return raw + 1 if self.residual else raw
        free = raw.movedim(1, -1)
        if self.residual:
            free = free + self.identity.to(raw.dtype)
        if self.structure.is_mask:
            return self.structure.mask(free, self.block).movedim(-1, 1)
        return self.structure.assemble(free, self.block).movedim((-2, -1), (1, 2))

    def predict_similarity(self, input: Tensor) -> Tensor:
        """The similarity of every output position, without the learned shape D.

        Args:
            input: [B, C, H, W].

        Returns:
            [B, K, Ho, Wo] (diagonal) or [B, K, K, Ho, Wo] (first K: kernel tap k, second: input tap l).
        """
        return self._predict(self._padded(input)[0])

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to [B, F, Ho, Wo]."""
        if input.dim() != 4:
            raise ValueError(f"input must be [B, C, H, W], got {list(input.shape)}")
        padded, padding = self._padded(input)
        similarity = self._predict(padded)
        shape = self.boolean_shape()
        # diag(D) M scales the rows of M, which are the kernel's taps: the same as masking the kernel.
        weight = self.weight if shape is None else self.weight * shape.view(*self.kernel_size)
        return neural_similarity_conv2d(
            padded,
            weight,
            similarity,
            self.bias,
            _pair(self.stride),
            padding,
            _pair(self.dilation),
            self.groups,
        )
