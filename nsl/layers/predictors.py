"""Predictors of the dynamic similarity: M(X) = predictor(X) + I (paper 3.3.1, Table 1 and Table 3).

A predictor is any module that maps the layer's input [B, C, H, W] to raw numbers [B, D, Ho, Wo], D being the
structure's degrees of freedom and Ho x Wo the layer's output map; the layer adds the identity. Three are built in:

* `SpherePredictor`, "sphere", the paper's (3.3.1) and the default: two hyperspherical convolutions, so that every
  number is the cosine of an angle (or another operator of it) and lies in [-1, 1] whatever the weights are;
* `CNNPredictor`, "cnn": plain convolutions, which need a bounded or normalised last step to train (Table 1);
* `ReleasePredictor`, "release": what the authors' code has in this place; its numbers are not bounded.

Every layer owns its predictor, or its kernels are shared with others' (`nsl.layers.shared`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nsl.kernels.convolution import pair
from nsl.layers.inputs import unbatched
from nsl.layers.middle import middle
from nsl.layers.shared import (
    BATCH_NORM_EPSILON,
    BATCH_NORM_MOMENTUM,
    FIRST_INIT_SCALE,
    HIDDEN,
    SECOND_INIT_SCALE,
    SharedKernels,
    adaptation_network,
    check_hidden,
    geometry_of,
    he_normal,
    second_convolution,
    uneven_padding,
)
from nsl.layers.spherical import SphereConv2d, inverse_patch_norm, patch_norm_multiply_adds
from nsl.layers.structure import Structure
from nsl.layers.structures import Unconstrained, make_structure

torch.fx.wrap("inverse_patch_norm")

CNN_HEADS = ("batchnorm", "sigmoid", "tanh", "none")


def hidden_width(similarity: str | Structure, width: int = 32) -> int:
    """Channels between a predictor's two convolutions: the release's 64 (diagonal) and 128 (unconstrained) at width 32,
    in proportion to the width of the network."""
    return (4 if isinstance(make_structure(similarity), Unconstrained) else 2) * width


class Predictor(nn.Module):
    """Two convolutions and what lies between them: what the built-in predictors share.

    Args:
        in_channels: C of the layer.
        degrees_of_freedom: D of the structure (9 for a 3x3 diagonal, 81 for a 3x3 unconstrained similarity).
        kernel_size, stride, padding, dilation: of the layer; the first convolution has the same geometry, so
            that the prediction lands on the layer's output map.
        hidden: channels between the two convolutions; the paper gives no number, the release has 64 (diagonal) and
            128 (unconstrained).
        batch_norm_momentum: of all running averages; None: 0.1.
        kind, options: class of the two convolutions and its further arguments.
        norms: whether batch norm follows the first convolution, and the second.
        shared: kernels shared by several layers; an adaptation network then comes first.
        adaptation: an adaptation network that several layers share; None: one of this layer's own.
        small: start with the release's small scales, which are made for M = I + output; False: with He's own, as any
            convolution would.

    Shapes: [B, C, H, W] to [B, D, Ho, Wo].

    Raises:
        ValueError: hidden is not positive, the shared kernels do not fit, batch_norm_momentum without batch norm,
            small=False with shared kernels, or a prediction so large that its last convolution would take more than
            1 GiB.
    """

    adaptation: nn.Module | None

    def __init__(
        self,
        in_channels: int,
        degrees_of_freedom: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        *,
        hidden: int = HIDDEN,
        batch_norm_momentum: float | None = None,
        kind: type[nn.Conv2d] = nn.Conv2d,
        options: dict[str, Any] | None = None,
        norms: tuple[bool, bool] = (False, False),
        shared: SharedKernels | None = None,
        adaptation: nn.Module | None = None,
        small: bool = True,
    ) -> None:
        super().__init__()
        check_hidden(hidden)
        if not small and shared is not None:
            raise ValueError("predictor: small=False is of a layer's own kernels; shared ones have their own start")
        kernel, geometry = pair(kernel_size), geometry_of(stride, padding, dilation)
        momentum = BATCH_NORM_MOMENTUM if batch_norm_momentum is None else batch_norm_momentum
        if batch_norm_momentum is not None and shared is None and not any(norms):
            raise ValueError("predictor: batch_norm_momentum belongs to batch norm, which this one has not")
        self.in_channels, self.small = in_channels, small
        self.adaptation, self.pads = adaptation, uneven_padding(kernel)
        #: Of shared kernels the first one keeps the map's size too.
        self.first_pads = None if shared is None else self.pads
        if shared is None:
            self.first = kind(in_channels, hidden, kernel, *geometry, bias=False, **(options or {}))
            self.second = second_convolution(kind, hidden, degrees_of_freedom, kernel, **(options or {}))
        else:
            shared.check(degrees_of_freedom, kernel, kind, hidden, options or {})
            width = shared.first.in_channels
            if adaptation is None:
                self.adaptation = adaptation_network(in_channels, width, kernel, *geometry, momentum)
            self.first, self.second = shared.first, shared.second
        sizes = (self.first.out_channels, degrees_of_freedom)
        self.first_norm, self.second_norm = (
            nn.BatchNorm2d(size, eps=BATCH_NORM_EPSILON, momentum=momentum) if norm else nn.Identity()
            for size, norm in zip(sizes, norms)
        )
        if shared is None:  # the shared ones reset themselves
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation, small: scaled by 0.1 and 1e-3 (release). A hyperspherical kernel's length does not matter
        but for the epsilon under its norm, beside which the small second ones are short: training starts near M = I."""
        he_normal(self.first, FIRST_INIT_SCALE if self.small else 1.0)
        he_normal(self.second, SECOND_INIT_SCALE if self.small else 1.0)

    def reset_to_identity(self) -> None:
        """Silence the last step, so that M = I exactly."""
        last = self.second if isinstance(self.second_norm, nn.Identity) else self.second_norm
        if last._parameters.get("weight") is None:
            raise ValueError(
                "reset_to_identity: the weight of the predictor's last step is computed (pruning, weight norm or "
                "another parametrisation) and cannot be set to zero; remove that first"
            )
        nn.init.zeros_(last.weight)
        if isinstance(last, nn.modules.batchnorm._BatchNorm):  # also what `SyncBatchNorm` made of it
            nn.init.zeros_(last.bias)

    def _first(self, input: Tensor) -> tuple[Tensor, Tensor | None]:
        """The first convolution's output, and a factor [B, 1, Ho, Wo] that it is still to be multiplied with."""
        # A subclass with a forward of its own is called.
        if isinstance(self.first, SphereConv2d) and type(self.first).forward is SphereConv2d.forward:
            return self.first.unscaled(input)
        return self.first(input), None

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to raw numbers [B, D, Ho, Wo], or both without B."""
        if unbatched(input, self.in_channels):
            return self.forward(input.unsqueeze(0)).squeeze(0)
        if self.adaptation is not None:
            input = self.adaptation(input)
        if self.first_pads is not None:
            input = nn.functional.pad(input, self.first_pads)
        hidden, scale = self._first(input)
        return self._last(self.second_norm(middle(hidden, scale, self.first_norm, self.second, self.pads)))

    def _last(self, raw: Tensor) -> Tensor:
        """What follows the second convolution and its norm."""
        return raw


class SpherePredictor(Predictor):
    """SphereNet: hyperspherical convolution, ReLU, hyperspherical convolution (paper 3.3.1).

    Every product is divided by the norms of kernel and patch, then goes through an operator of the angle; nothing
    follows the last one. So each output lies in [-1, 1] ([0, 1] with `relu_output`) whatever the weights are, and
    M = I + output is "bounded and well behaved".

    Args:
        in_channels, degrees_of_freedom, kernel_size, stride, padding, dilation, hidden: as in `Predictor`.
        operator: of both convolutions, see `nsl.SphereConv2d`.
        relu_output: ReLU after the last convolution too: outputs in [0, 1].
        shared: kernels shared by several layers; an adaptation network then comes first.
        adaptation: an adaptation network that several layers share (of one map size, say); None: one of this layer's
            own. With `shared` only.
        batch_norm_momentum: of the adaptation network's running averages.
        small: as in `Predictor`; without the identity (`residual=False`) a stack of small ones passes no signal on.

    Shapes: [B, C, H, W] to [B, D, Ho, Wo].

    Raises:
        ValueError: the shared kernels do not fit, an adaptation network without shared kernels or small=False with
            them, or a prediction so large that its last convolution would take more than 1 GiB.
    """

    def __init__(
        self,
        *place: Any,
        hidden: int = HIDDEN,
        operator: str = "cosine",
        relu_output: bool = False,
        shared: SharedKernels | None = None,
        adaptation: nn.Module | None = None,
        batch_norm_momentum: float | None = None,
        small: bool = True,
        **named_place: Any,
    ) -> None:
        if adaptation is not None and shared is None:
            raise ValueError("predictor: an adaptation network belongs to shared kernels; give shared=... too")
        super().__init__(
            *place, **named_place, hidden=hidden, batch_norm_momentum=batch_norm_momentum, kind=SphereConv2d,
            options={"operator": operator}, shared=shared, adaptation=adaptation, small=small,
        )  # fmt: skip
        self.relu_output = relu_output

    def extra_repr(self) -> str:
        return ", ".join(["relu_output=True"] * self.relu_output + ["small=False"] * (not self.small))

    def reset_to_identity(self) -> None:
        """Silence the last step, so that M = I exactly.

        Raises:
            ValueError: a ReLU follows that step, whose gradient at 0 is 0: the predictor would never learn.
        """
        if self.relu_output:
            raise ValueError("relu_output=True cannot start at M = I: no gradient comes through the last ReLU there")
        super().reset_to_identity()

    def _last(self, raw: Tensor) -> Tensor:
        return raw.relu() if self.relu_output else raw


class ReleasePredictor(Predictor):
    """The release's SphereNet: convolution / patch norm, (BN,) ReLU, convolution(, BN). Its outputs are not bounded.

    Args:
        in_channels, degrees_of_freedom, kernel_size, stride, padding, dilation: as in `Predictor`.
        hidden: channels between the two convolutions. Release: 64 (diagonal), 128 (unconstrained).
        batch_norm: release: True for the diagonal, False for the unconstrained structure.
        full: divide both layers by patch norm and kernel norm (release's best model, "full SphereNet").
        shared: as in `SpherePredictor`.
        batch_norm_momentum: of all running averages.

    Shapes: [B, C, H, W] to [B, D, Ho, Wo].
    """

    def __init__(
        self,
        *place: Any,
        hidden: int = HIDDEN,
        batch_norm: bool = True,
        full: bool = False,
        shared: SharedKernels | None = None,
        batch_norm_momentum: float | None = None,
        **named_place: Any,
    ) -> None:
        if full and shared is not None:
            raise ValueError("predictor: full=True and shared=... cannot be combined; predictor='sphere' shares")
        super().__init__(
            *place, **named_place, hidden=hidden, batch_norm_momentum=batch_norm_momentum,
            kind=SphereConv2d if full else nn.Conv2d, norms=(batch_norm, batch_norm), shared=shared,
        )  # fmt: skip
        self.full = full

    def multiply_adds(self, input: Tensor, output: Tensor) -> int:
        """Of one image, without its convolutions': the patch norm of the first one and the division by it."""
        # Those of a full SphereNet count that themselves.
        return 0 if self.full else patch_norm_multiply_adds(self.first, input, output)

    def _first(self, input: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.full:
            return super()._first(input)
        first = self.first
        geometry = (first.kernel_size, first.stride, first.padding, first.dilation)
        return first(input), inverse_patch_norm(input, *(pair(sizes) for sizes in geometry))  # type: ignore[arg-type]


class CNNPredictor(Predictor):
    """Plain convolutions: convolution, BN, ReLU, convolution, head (paper Table 1, row "CNN").

    The same initialisation as SphereNet's by default, so that the two differ in the normalisation only. With the
    default head "batchnorm" the networks of this project stay at chance (DISCREPANCIES.md); the row "CNN" of Table 1
    has head="sigmoid".

    Args:
        in_channels, degrees_of_freedom, kernel_size, stride, padding, dilation, hidden: as in `Predictor`.
        head: last step: "batchnorm" (default), "sigmoid" (minus one half, so that zero means M = I), "tanh",
            or "none": the trivial application, which the paper says diverges; batch norm is then absent from
            the whole predictor.
        small: as in `Predictor`.
        batch_norm_momentum: of the running averages.

    Shapes: [B, C, H, W] to [B, D, Ho, Wo].
    """

    def __init__(
        self,
        *place: Any,
        hidden: int = HIDDEN,
        head: str = "batchnorm",
        small: bool = True,
        batch_norm_momentum: float | None = None,
        **named_place: Any,
    ) -> None:
        if head not in CNN_HEADS:
            raise ValueError(f"head must be one of {list(CNN_HEADS)}, got {head!r}")
        norms = (head != "none", head == "batchnorm")
        super().__init__(
            *place, **named_place, hidden=hidden, batch_norm_momentum=batch_norm_momentum, norms=norms, small=small
        )
        self.head = head

    def extra_repr(self) -> str:
        return f"head={self.head!r}" + ("" if self.small else ", small=False")

    def _last(self, raw: Tensor) -> Tensor:
        if self.head == "sigmoid":
            return torch.sigmoid(raw) - 0.5
        return torch.tanh(raw) if self.head == "tanh" else raw


PREDICTORS: dict[str, type[Predictor]] = {
    "sphere": SpherePredictor,
    "cnn": CNNPredictor,
    "release": ReleasePredictor,
}


def move_like(module: nn.Module, like: Tensor) -> nn.Module:
    """The module on the device and of the type of `like`; not for nothing, since fake parameters cannot be moved."""
    same = all(own.device == like.device and own.dtype == like.dtype for own in module.parameters())
    return module if same else module.to(device=like.device, dtype=like.dtype)


#: What a layer takes as its predictor: a key of `PREDICTORS`, a module, or what makes one for a layer.
AnyPredictor = str | nn.Module | Callable[..., nn.Module]


def _options_of(make: Callable[..., nn.Module]) -> tuple[list[inspect.Parameter], bool]:
    """The options that something takes which makes predictors: what follows the six of a layer's place, by name; and
    whether it takes any other too."""
    parameters = list(inspect.signature(make).parameters.values())
    named = [one for one in parameters if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    known = named[6:] + [one for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY]
    return known, any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)


def hidden_option(predictor: AnyPredictor, structure: str | Structure, width: int) -> dict[str, Any]:
    """The option `hidden` in proportion to a network's width, for built-in predictors and those of a user's that ask
    for it, which is to have no number of their own."""
    asks = isinstance(predictor, str) or (
        not isinstance(predictor, nn.Module)
        and any(one.name == "hidden" and one.default is one.empty for one in _options_of(predictor)[0])
    )
    return {"hidden": hidden_width(structure, width)} if asks else {}


def make_predictor(
    predictor: AnyPredictor,
    structure: Structure,
    place: tuple[Any, ...],
    like: Tensor,
    options: dict[str, Any] | None = None,
) -> nn.Module:
    """A predictor by its name, the user's module itself, or what the user's class or function makes.

    Args:
        predictor: a key of `PREDICTORS`, a module, or what makes one of the arguments of a `Predictor`: one for every
            layer, whose channels differ.
        structure: of the similarity.
        place: the first six arguments of a `Predictor`: channels, degrees of freedom and geometry of the layer.
        like: a tensor whose device and type the predictor gets.
        options: further arguments, by name, of what makes it.

    Raises:
        ValueError: an unknown name or option, or options for a module of the user's.
    """
    if isinstance(predictor, nn.Module):
        if options:
            raise ValueError("predictor_options are for predictors that are made here, not for a module of your own")
        return predictor
    if (isinstance(predictor, str) and predictor not in PREDICTORS) or not isinstance(predictor, str | Callable):
        raise ValueError(
            f"predictor must be one of {sorted(PREDICTORS)}, a module, or a class or function that makes one, got "
            f"{predictor!r}"
        )
    make = PREDICTORS[predictor] if isinstance(predictor, str) else predictor
    chosen: dict[str, Any] = dict(options or {})
    parameters, any_other = _options_of(make)
    known = [one.name for one in parameters]
    ours = isinstance(predictor, str)  # of the built-in ones what others are handed on is named too
    if (unknown := sorted(set(chosen) - set(known))) and (ours or not any_other):
        name = repr(predictor) if ours else getattr(predictor, "__name__", repr(predictor))
        raise ValueError(f"predictor {name} has no option {unknown[0]!r}, it takes {known}")
    if not isinstance(predictor, str):
        return move_like(make(*place, **chosen), like)
    if isinstance(structure, Unconstrained) and predictor != "cnn":  # the release's choices for UNS
        # Its best model, the full SphereNet, keeps the norms.
        norm = {"batch_norm": False} if predictor == "release" and not chosen.get("full") else {}
        chosen = {"hidden": hidden_width(structure), **norm, **chosen}
    return move_like(PREDICTORS[predictor](*place, **chosen), like)
