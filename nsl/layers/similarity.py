"""The similarity as a part of a layer, and what a layer is that has one (paper 3.1, 3.5).

A convolution, a linear layer or a recurrent cell *has* a similarity, `layer.neural` (a cell has `neural_ih` and
`neural_hh`): a `StaticSimilarity` (`nsl.layers.static`) or a `DynamicSimilarity` (`nsl.layers.dynamic`), which own its
parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nsl.kernels.compiled import has_memory
from nsl.layers.structure import Block, Structure
from nsl.layers.structures import make_structure

#: D_r starts here and a tap is dropped once its D_r falls to the threshold alpha. The paper fixes alpha and
#: gives neither value; these are ours. Only their distance over the rate matters.
SHAPE_INIT, SHAPE_THRESHOLD = 1.0, 0.9
#: eta of equation (5), D_r <- D_r - eta dL/dD, as a multiple of the training's learning rate. The step is plain: no
#: momentum, no weight decay.
SHAPE_RATE = 1.0

#: What `torch.nn.utils.prune` and the old `weight_norm` make of a tensor's name, and the name itself.
NAME_ENDS = ("", "_orig", "_mask", "_g", "_v")


def check_threshold(name: str, threshold: float) -> None:
    """A threshold that a shape exceeds at its start; ValueError otherwise, since nothing would pass such a layer."""
    if not threshold < SHAPE_INIT:
        raise ValueError(f"{name} must be below {SHAPE_INIT:g}, where D_r starts, got {threshold}")


def boolean_shape(real_shape: Tensor, threshold: float) -> Tensor:
    """D = 1[D_r > threshold], with the gradient at D handed to D_r unchanged (paper 3.5).

    An optimiser step on D_r is then the paper's update D_r <- D_r - eta * dLoss/dD.

    Args:
        real_shape: D_r [K].
        threshold: alpha.

    Returns:
        D [K], exactly zeros and ones.
    """
    boolean = (real_shape > threshold).to(real_shape.dtype)
    # x - x.detach() is exactly zero, so the forward value stays Boolean.
    return boolean + (real_shape - real_shape.detach())


def refuse_stale(owner: nn.Module, *names: str) -> None:
    """Refuse to read, outside of the forward pass, a tensor that a forward pre-hook computes.

    `torch.nn.utils.prune` and the old `weight_norm` and `spectral_norm` leave such a tensor as a plain attribute, which
    is that of the last forward pass and not of the present parameters.

    Raises:
        ValueError: one of the named tensors is no parameter of the module.
    """
    for name in names:
        if owner.__dict__.get(name) is not None:
            raise ValueError(
                f"{name} of {type(owner).__name__} is computed by a forward pre-hook (pruning, the old weight_norm) "
                "and may be out of date here: make it a parameter first (prune.remove, remove_weight_norm)"
            )


@contextmanager
def random_state_kept(tensors: Iterable[Tensor] | None = None) -> Iterator[None]:
    """What is drawn inside leaves the global generators of the CPU and of these tensors' GPUs as they were; without
    tensors, of all GPUs.

    For layers whose first values are overwritten. `torch.nn.utils.skip_init` would leave buffers of a plain class of
    the user's without their values.
    """
    gpus: set[torch.device | int] = set()
    if torch.cuda.is_initialized():
        used = None if tensors is None else {tensor.device for tensor in tensors if tensor.is_cuda}
        gpus.update(range(torch.cuda.device_count()) if used is None else used)
    with torch.random.fork_rng(gpus, device_type="cuda"):
        yield


class Similarity(nn.Module):
    """M_s of a structure and, with `learn_shape`, a Boolean shape D of its own: what both kinds share.

    Args:
        similarity: a name of `nsl.STRUCTURES` or an `nsl.Structure`.
        block: taps and channels of the layer.
        like: a tensor whose device and type the parameters get.
        learn_shape, shape_threshold, shape_rate: as in `nsl.NSConv2d`.

    Attributes:
        is_dynamic: whether M is predicted from the input.

    Parameters:
        shape [K] (D_r), only with learn_shape.

    Raises:
        ValueError: unknown structure, or shape_threshold or shape_rate without learn_shape.
    """

    is_dynamic: ClassVar[bool]
    shape: nn.Parameter | None

    def __init__(
        self,
        similarity: str | Structure,
        block: Block,
        like: Tensor,
        learn_shape: bool = False,
        shape_threshold: float = SHAPE_THRESHOLD,
        shape_rate: float = SHAPE_RATE,
    ) -> None:
        super().__init__()
        for name, value, usual in (
            ("shape_threshold", shape_threshold, SHAPE_THRESHOLD),
            ("shape_rate", shape_rate, SHAPE_RATE),
        ):
            if not learn_shape and value != usual:
                raise ValueError(f"{name} belongs to a learned shape: give learn_shape=True too, or leave it out")
        self.structure, self.block = make_structure(similarity), block
        self.shape_threshold, self.shape_rate = float(shape_threshold), float(shape_rate)
        check_threshold("shape_threshold", self.shape_threshold)
        if not 0 <= self.shape_rate < math.inf:
            raise ValueError(f"shape_rate must be a finite number that is not negative, got {shape_rate}")
        # An identity made on the CPU only is kept on CUDA: a copy from the host could not be captured in a graph.
        self._kept: Tensor | None = None
        full = torch.full((block.taps,), SHAPE_INIT, device=like.device, dtype=like.dtype) if learn_shape else None
        self.register_parameter("shape", None if full is None else nn.Parameter(full))

    def identity(self, like: Tensor) -> Tensor:
        """The structure's free numbers [D] of M_s = I, on the device and of the type of `like`."""
        if not isinstance(like, Tensor):  # torch.fx traces with something that has no device
            return self.structure.identity(self.block).to(like)
        if self.structure.takes_device or like.device.type != "cuda" or not has_memory(like):
            return self.structure.identity_on(self.block, like.device).to(like)
        if self._kept is None or self._kept.device != like.device or self._kept.dtype != like.dtype:
            self._kept = self.structure.identity(self.block).to(like)
        return self._kept

    def reset_parameters(self) -> None:
        """The full shape."""
        if self.shape is not None:
            nn.init.constant_(self.shape, SHAPE_INIT)

    def reset_to_identity(self) -> None:
        """M_s = I, or the nearest the structure has."""
        self.reset_parameters()

    def boolean_shape(self) -> Tensor | None:
        """D [K], zeros and ones, or None without `learn_shape`."""
        return None if self.shape is None else boolean_shape(self.shape, self.shape_threshold)

    def penalty(self) -> Tensor | None:
        """The structure's penalty, a scalar, or None."""
        return None

    def extra_repr(self) -> str:
        text = f"similarity={self.structure!r}" + ("" if self.shape is None else ", learn_shape=True")
        # What is usual goes without saying, so that checkpoints know networks by what older versions called them.
        text += "" if self.shape_threshold == SHAPE_THRESHOLD else f", shape_threshold={self.shape_threshold:g}"
        return text + ("" if self.shape_rate == SHAPE_RATE else f", shape_rate={self.shape_rate:g}")


class Similar(nn.Module):
    """A layer that has similarities as its parts; stands before the plain class in the base list.

    Class attributes:
        is_dynamic: whether M is predicted from the input.
        plain: the layer of PyTorch that it folds into; as `replaces=...` of the class also what `nsl.convert` replaces.
        arguments: the names under which both keep what their constructors take, but for the bias.
    """

    is_dynamic: ClassVar[bool] = False
    plain: ClassVar[type[nn.Module]]
    arguments: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, replaces: type[nn.Module] | None = None, **more: Any) -> None:
        super().__init_subclass__(**more)
        if replaces is not None:
            cls.plain = replaces
            _REPLACEMENTS[replaces, cls.is_dynamic] = cls

    @classmethod
    def from_plain(cls, module: Any, **options: Any) -> Similar:
        """A layer of this class with the arguments and the parameters themselves of a plain one, and M = I.

        Raises:
            ValueError: it cannot have such a similarity, or has a tensor that is no parameter.
        """
        held = {**module._buffers, **vars(module)}
        if name := next((name for name, value in held.items() if isinstance(value, Tensor)), ""):
            raise ValueError(
                f"its {name!r} is a buffer or a plain tensor, which would be lost: make it a parameter "
                "(requires_grad=False keeps it as it is)"
            )
        layer = cls(**plain_options(module, cls.arguments), **options)
        for part in layer.parts():
            part.reset_to_identity()
        for name, parameter in module.named_parameters(recurse=False):
            setattr(layer, name, parameter)
        if hasattr(module, "rate"):  # of its learning, see `nsl.training.parameter_groups`
            layer.rate = module.rate
        layer.train(module.training)
        return layer

    def unfilled_plain(self) -> Any:
        """The plain layer with this one's arguments, whose values are still to be set; no random state moves."""
        with random_state_kept(self.parameters()):
            return self.plain(**plain_options(self, self.arguments))

    def parts(self) -> list[Similarity]:
        """The similarities."""
        return [part for part in self.children() if isinstance(part, Similarity)]

    def reset_parameters(self) -> None:
        """The plain layer's initialisation, and that of the parts: M = I or near it, the full shape."""
        super().reset_parameters()  # type: ignore[misc]
        for part in self.parts():  # none when the plain layer's constructor calls this
            part.reset_parameters()

    def _of_part(self, name: str) -> str | None:
        """Where an attribute is that belongs to a similarity, of the layer itself in earlier versions."""
        raise NotImplementedError

    def __setattr__(self, name: str, value: Any) -> None:
        part, _, own = (self._of_part(name) or "").partition(".")
        owner = self.__dict__.get("_modules", {}).get(part)
        return super().__setattr__(name, value) if owner is None else setattr(owner, own, value)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As PyTorch's.

        Raises:
            ValueError: what pruning and weight norm add to a similarity belongs to the part.
        """
        if place := self._of_part(name):
            raise ValueError(
                f"{name!r} would belong to the similarity of {type(self).__name__}, which is a module of its own: "
                f"prune or parametrise its attribute {place.partition('.')[0]!r} and not the layer"
            )
        super().register_parameter(name, param)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Reads state dicts of earlier versions too, in which the layer owned its similarity's parameters."""
        for key in [key for key in state_dict if key.startswith(prefix)]:
            place = self._of_part(key[len(prefix) :])
            if place is not None:
                state_dict[prefix + place] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)


_REPLACEMENTS: dict[tuple[type[nn.Module], bool], type[Similar]] = {}


def replacement(plain: type[nn.Module], dynamic: bool) -> type[Similar] | None:
    """The layer with a static or a dynamic similarity that replaces exactly this plain one, if there is one."""
    return _REPLACEMENTS.get((plain, dynamic))


def plain_options(layer: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Arguments of a plain layer or of one that replaces it: those named, bias, device and type."""
    like = next(layer.parameters())
    bias = layer.bias if isinstance(layer.bias, bool) else layer.bias is not None
    return {name: getattr(layer, name) for name in names} | {"bias": bias, "device": like.device, "dtype": like.dtype}


#: Attributes of a layer that are its similarity's; a subclass's own, such as `shape_log`, are none of them.
_OF_SIMILARITY = {"predictor"} | {name + end for name in ("similarity", "shape") for end in NAME_ENDS}


class OneSimilarity(Similar):
    """A layer with one similarity, `neural`, of which it shows what users read."""

    neural: Similarity

    @property
    def structure(self) -> Structure:
        """The structure of M_s."""
        return self.neural.structure

    @property
    def block(self) -> Block:
        """Taps and channels, as the structure sees them."""
        return self.neural.block

    @property
    def taps(self) -> int:
        """K, the number of kernel taps (of input features for a linear layer)."""
        return self.neural.block.taps

    @property
    def shape(self) -> nn.Parameter | None:
        """D_r [K], or None without `learn_shape`."""
        return self.neural.shape

    def boolean_shape(self) -> Tensor | None:
        """D [K], zeros and ones, or None without `learn_shape`."""
        return self.neural.boolean_shape()

    def _of_part(self, name: str) -> str | None:
        return f"neural.{name}" if name in _OF_SIMILARITY or name.startswith("predictor.") else None


def parts_of_similarities(model: nn.Module) -> set[nn.Module]:
    """All similarities of a model and what is inside of them, predictors included."""
    return {part for module in model.modules() if isinstance(module, Similarity) for part in module.modules()}


def _penalties(model: nn.Module) -> list[Tensor]:
    found = [module.penalty() for module in model.modules() if isinstance(module, Similarity)]
    return [penalty for penalty in found if penalty is not None]


def has_penalty(model: nn.Module) -> bool:
    """Whether `similarity_penalty` has anything to collect."""
    return bool(_penalties(model))


def similarity_penalty(model: nn.Module) -> Tensor:
    """Sum of all penalties of the model's similarities, a scalar to add to the loss; zero where there are none."""
    found = _penalties(model)
    return torch.stack(found).sum() if found else torch.zeros((), device="cpu")


def is_dynamic(model: nn.Module) -> bool:
    """Whether a similarity anywhere in the model is predicted from its input."""
    return any(isinstance(module, Similarity) and module.is_dynamic for module in model.modules())
