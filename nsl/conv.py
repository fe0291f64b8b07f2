"""Convolutions with a neural similarity: static (paper 3.2) and dynamic (paper 3.3), with learned shape (3.5)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsl.functional import _pair, neural_similarity_conv2d
from nsl.predictor import PREDICTORS
from nsl.similarity import Diagonal, Structure, Unconstrained, boolean_shape, make_structure

#: D_r starts here and a tap is dropped once its D_r falls to the threshold alpha. The paper fixes alpha and
#: gives neither value; these are ours. Only their distance matters: D_r moves by about 0.1 in the first few hundred
#: steps, so that a larger distance leaves D full in every short training.
SHAPE_INIT, SHAPE_THRESHOLD = 1.0, 0.9


class _NSConv(nn.Conv2d):
    """What the static and the dynamic layer share: geometry, structure and the optional learned shape D."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int],
        padding: str | int | tuple[int, int],
        dilation: int | tuple[int, int],
        groups: int,
        bias: bool,
        padding_mode: str,
        similarity: str | Structure,
        learn_shape: bool,
        shape_threshold: float,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
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
        self.structure = make_structure(similarity)
        self.shape_threshold = float(shape_threshold)
        self.shape: nn.Parameter | None
        if learn_shape:
            self.shape = nn.Parameter(torch.full((self.taps,), SHAPE_INIT, device=device, dtype=dtype))
        else:
            self.register_parameter("shape", None)

    @property
    def taps(self) -> int:
        """K = kernel height * kernel width."""
        return self.kernel_size[0] * self.kernel_size[1]

    def boolean_shape(self) -> Tensor | None:
        """D [K], zeros and ones, or None without `learn_shape`."""
        return None if self.shape is None else boolean_shape(self.shape, self.shape_threshold)

    def extra_repr(self) -> str:
        text = f"{super().extra_repr()}, similarity={self.structure!r}"
        return text if self.shape is None else f"{text}, learn_shape=True"


class NSConv2d(_NSConv):
    """Convolution with a static neural similarity: y = conv(x, M^T W) + b (paper 3.2, equation 2).

    Same arguments and attributes as `torch.nn.Conv2d`; with the identity similarity of the initialisation it
    equals `torch.nn.Conv2d` with the same weight.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device,
            dtype: as in `torch.nn.Conv2d`.
        similarity: "diagonal" (DNS), "unconstrained" (UNS) or an `nsl.Structure`.
        learn_shape: learn the kernel's shape jointly, M_s = D R with D = 1[D_r > shape_threshold] (paper 3.5).
        shape_threshold: alpha.

    Parameters:
        weight [F, C / groups, kh, kw], bias [F], similarity [D] (the structure's free numbers), and with
        learn_shape also shape [K] (D_r).

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
        similarity: str | Structure = "diagonal",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        learn_shape: bool = False,
        shape_threshold: float = SHAPE_THRESHOLD,
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
            padding_mode,
            similarity,
            learn_shape,
            shape_threshold,
            device,
            dtype,
        )
        free = self.structure.identity(self.taps)
        self.similarity = nn.Parameter(free.to(device=self.weight.device, dtype=self.weight.dtype))

    def reset_parameters(self) -> None:
        """Conv2d's initialisation for weight and bias, the identity for the similarity, the full shape for D."""
        super().reset_parameters()
        if hasattr(self, "similarity"):  # Conv2d's constructor calls this before the similarity exists
            with torch.no_grad():
                self.similarity.copy_(self.structure.identity(self.taps))
                if self.shape is not None:
                    self.shape.fill_(SHAPE_INIT)

    def similarity_matrix(self) -> Tensor:
        """M_s [K, K]; with learn_shape D R."""
        matrix = self.structure.assemble(self.similarity, self.taps)
        shape = self.boolean_shape()
        return matrix if shape is None else shape.unsqueeze(1) * matrix

    def effective_weight(self) -> Tensor:
        """M^T W [F, C / groups, kh, kw], the kernel that the layer really convolves with."""
        shape = self.boolean_shape()
        if isinstance(self.structure, Diagonal):  # a mask: no matrix product needed
            mask = self.similarity if shape is None else self.similarity * shape
            return self.weight * mask.view(self.kernel_size[0], self.kernel_size[1])
        return (self.weight.flatten(2) @ self.similarity_matrix()).view_as(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to [B, F, Ho, Wo]."""
        return self._conv_forward(input, self.effective_weight(), self.bias)

    def fold(self) -> nn.Conv2d:
        """A plain `torch.nn.Conv2d` with equal outputs: deployment costs nothing (paper 3.2)."""
        plain = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,  # type: ignore[arg-type]
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.dilation,  # type: ignore[arg-type]
            self.groups,
            self.bias is not None,
            self.padding_mode,
            self.weight.device,
            self.weight.dtype,
        )
        with torch.no_grad():
            plain.weight.copy_(self.effective_weight())
            if self.bias is not None and plain.bias is not None:
                plain.bias.copy_(self.bias)
        return plain.train(self.training)


class DynamicNSConv2d(_NSConv):
    """Convolution whose similarity is predicted from each patch: M(X) = predictor(X) + I (paper 3.3, eq. 3).

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device,
            dtype: as in `torch.nn.Conv2d`.
        similarity: "diagonal" (DNS), "unconstrained" (UNS) or an `nsl.Structure`.
        predictor: "sphere" (SphereNet, default), "cnn", or any module from [B, C, H, W] to [B, D, Ho, Wo].
            With a padding_mode other than "zeros" it is given the padded input.
        learn_shape, shape_threshold: as in `NSConv2d`; the shape D is static here too (paper 3.5).
        predictor_options: further arguments of the built-in predictor (hidden, head, full, shared, ...).

    Parameters:
        weight [F, C / groups, kh, kw], bias [F], predictor.*, and with learn_shape shape [K].

    Shapes: input [B, C, H, W], output [B, F, Ho, Wo].

    Raises:
        ValueError: unknown similarity or predictor, or a predictor whose output does not fit.
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
        similarity: str | Structure = "diagonal",
        predictor: str | nn.Module = "sphere",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        learn_shape: bool = False,
        shape_threshold: float = SHAPE_THRESHOLD,
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
            padding_mode,
            similarity,
            learn_shape,
            shape_threshold,
            device,
            dtype,
        )
        degrees = self.structure.degrees_of_freedom(self.taps)
        self.predictor: nn.Module
        if isinstance(predictor, nn.Module):
            if predictor_options:
                raise ValueError("predictor_options are for the built-in predictors, not for your own module")
            self.predictor = predictor
        elif predictor in PREDICTORS:
            options = dict(predictor_options or {})
            if predictor == "sphere" and isinstance(self.structure, Unconstrained):
                options = {"hidden": 128, "batch_norm": False} | options  # the release's choice for UNS
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
        degrees = self.structure.degrees_of_freedom(self.taps)
        if raw.dim() != 4 or raw.shape[0] != padded.shape[0] or raw.shape[1] != degrees:
            raise ValueError(
                f"predictor must return [B, {degrees}, Ho, Wo] for {self.structure!r} with {self.taps} taps, "
                f"got {list(raw.shape)}"
            )
        if isinstance(self.structure, Diagonal):
            return raw + 1
        identity = torch.eye(self.taps, dtype=raw.dtype, device=raw.device).view(1, self.taps, self.taps, 1, 1)
        if isinstance(self.structure, Unconstrained):
            return raw.unflatten(1, (self.taps, self.taps)) + identity
        matrices = self.structure.assemble(raw.movedim(1, -1), self.taps)
        return matrices.permute(0, 3, 4, 1, 2) + identity

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
