"""Bring your own network: give it similarities, train only those, fold them away (paper 3.2, 4; Table 6).

    model = nsl.convert(model, kind="static", similarity="unconstrained")   # outputs unchanged: M = I
    nsl.freeze_backbone(model)                                               # only M and the classifier train
    ...
    model = nsl.fold(model)                                                  # a plain network again
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import type_before_parametrizations

from nsl.classifier import CLASSIFIER_NAMES, named_classifiers
from nsl.layers.dynamic import DynamicLayer
from nsl.layers.hypernetwork import HyperConv2d
from nsl.layers.linear import no_fast_path
from nsl.layers.similarity import Similar, Similarity, parts_of_similarities, random_state_kept, replacement
from nsl.layers.structure import Structure
from nsl.layers.window import Window

Where = Callable[[str, nn.Module], bool]
"""(qualified name, module) to whether it is converted."""


def _spatial(model: nn.Module) -> Where:
    """A similarity of one tap is a factor, and a classifier that covers its whole map has no patches: neither is
    converted by default."""
    classifiers = {id(inner) for part in named_classifiers(model) for inner in part.modules()}

    def chosen(name: str, module: nn.Module) -> bool:
        return id(module) not in classifiers and module.weight[0, 0].numel() > 1  # type: ignore[index]

    return chosen


def _replace(model: nn.Module, build: Callable[[str, nn.Module], nn.Module | None]) -> tuple[nn.Module, int]:
    """Replace modules for which `build` returns another one; a module used in several places is replaced once.

    Returns:
        The model (another object when it is itself replaced) and the number of replaced modules.
    """
    made: dict[int, nn.Module] = {}
    # What is inside of a layer with a similarity or of a window, what predicts its numbers, belongs to that layer.
    inside = {
        id(part)
        for layer in model.modules()
        if isinstance(layer, Similar | Window)
        for part in layer.modules()
        if part is not layer
    }
    for name, module in list(model.named_modules()):
        if id(module) not in made and id(module) not in inside:
            new = build(name, module)
            if new is not None:
                made[id(module)] = new
    if id(model) in made:
        return made[id(model)], 1
    for parent in list(model.modules()):
        for child_name, child in list(parent._modules.items()):  # named_children() would skip a second name
            if child is not None and id(child) in made:
                setattr(parent, child_name, made[id(child)])
    return model, len(made)


#: Where a module keeps its hooks.
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def _may_be_lost(hook: Any) -> bool:
    """Whether a layer of another kind can do without the hook: one of ours, or one by which PyTorch's parametrised
    weight norm reads state dicts of the old weight norm."""
    own = getattr(hook, "hook", hook)  # without PyTorch's wrapper, whose copies do not tell
    return own is no_fast_path or getattr(own, "__module__", None) == parametrizations.__name__


def _has_hooks(module: nn.Module) -> bool:
    found = (hook for kind in _HOOKS for hook in (getattr(module, kind, None) or {}).values())
    return any(not _may_be_lost(hook) for hook in found)


#: Methods that a patched layer has of its own ("tiling" patches replace the second).
_COMPUTES = ("forward", "_conv_forward")


def _only_its_class(name: str, module: nn.Module) -> None:
    """Refuse a layer that computes something else than its class does, or more: a conversion would lose that."""
    if own := _computes_its_own(module):
        raise ValueError(
            f"module {name or '(root)'!r} has {own}, which a conversion would lose: put it into a subclass or exclude "
            "it by `where`"
        )
    if _has_hooks(module) or hasattr(module, "parametrizations"):
        raise ValueError(
            f"module {name or '(root)'!r} has hooks or parametrisations, which a conversion would lose: "
            "remove them first or exclude it by `where`"
        )


def _computes_its_own(module: nn.Module) -> str:
    """What a layer computes otherwise than PyTorch's class or ours: a patched method, or one of a subclass that says
    nothing of folding (neither `fold` nor `plain`)."""
    for method in _COMPUTES:
        if method in vars(module):
            return f"a {method} of its own in place of its class's"
        for kind in type(module).__mro__:
            if "fold" in vars(kind) or "plain" in vars(kind) or kind.__module__.startswith(("nsl.", "torch.")):
                break
            if method in vars(kind):
                return f"the {method} of {kind.__name__}, a class without a `fold`"
    return ""


def _read_by_parents(model: nn.Module) -> set[int]:
    """Layers whose `weight` a parent multiplies by itself, past their forward: it would leave M out in silence.

    `nn.TransformerEncoderLayer` does so in evaluation mode without gradients (its fast path), `nn.MultiheadAttention`
    always.
    """
    found: set[int] = set()
    for parent in model.modules():
        if isinstance(parent, nn.TransformerEncoderLayer):
            found |= {id(parent.linear1), id(parent.linear2)}
        elif isinstance(parent, nn.MultiheadAttention):
            found.add(id(parent.out_proj))
    return found


def reset_to_identity(layer: DynamicLayer) -> None:
    """Silence the last step of a dynamic layer's predictor, so that M(X) = I exactly, in training and evaluation mode.

    The gradient still reaches that last step, and through it, after one update, the rest.

    Raises:
        ValueError: it is no such layer; the predictor is a module of the user's, which has to bring
            `reset_to_identity` itself; or it has no such start: `residual=False`, or `relu_output=True`, whose ReLU
            passes no gradient there.
    """
    if not isinstance(layer, DynamicLayer):
        raise ValueError(f"reset_to_identity takes one dynamic layer, got {type(layer).__name__}")
    layer.neural.reset_to_identity()


#: Wrappers that know the parameters which there were when they were made, and would not bring new ones together.
_WRAPPERS = {"DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"}


def _refuse_wrapped(model: nn.Module) -> None:
    for module in model.modules():
        for kind in type(module).__mro__:
            if kind.__name__ in _WRAPPERS and kind.__module__.startswith("torch."):
                raise ValueError(
                    f"the network is wrapped by {kind.__name__}, which would not bring the similarities of several "
                    "processes together: convert it before it is wrapped"
                )


def convert(
    model: nn.Module,
    kind: str = "static",
    similarity: str | Structure = "diagonal",
    where: Where | None = None,
    **options: Any,
) -> nn.Module:
    """Give the convolutions of any network a neural similarity, M = I: the outputs do not change.

    Weights and biases are the old parameters themselves, not copies, so that tied layers, and optimisers that have
    them, keep working; an optimiser that was made before knows nothing of M, which it would leave at I.
    A static conversion, which starts at M = I, leaves torch's global generators as they were; predictors are drawn.

    Args:
        model: changed in place.
        kind: "static" (`nn.Conv1d`, `Conv2d`, `Conv3d`, `ConvTranspose2d`) or "dynamic" (`nn.Conv2d`). Subclasses of
            these are left alone: what they compute is not known.
        similarity: a structure or its name; those that cannot be the identity ("low_rank", "dilated",
            "hard_sparse" with few entries) do change the outputs.
        where: predicate of (name, module) that chooses among them; None: all with more than one tap but the
            classifier. Fully connected layers are converted only where a given predicate asks for them.
        options: further arguments of `NSConv2d` or `DynamicNSConv2d` (learn_shape, predictor, predictor_options, ...).

    Returns:
        The model; a new object only if the model itself is one convolution.

    Raises:
        ValueError: unknown kind, nothing to convert, a network wrapped for several processes, a module with hooks,
            parametrisations or a patched forward, one whose parent multiplies by its weight itself
            (`nn.TransformerEncoderLayer`), a lazy one without weights, or a predictor that cannot give M = I and still
            learn (`residual=False`, `relu_output=True`).
    """
    if kind not in ("static", "dynamic"):
        raise ValueError(f"kind must be 'static' or 'dynamic', got {kind!r}")
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a network, an instance of nn.Module, got {model!r}")
    if where is not None and not callable(where):
        raise ValueError(f"where must be a function of (name, module), got {where!r}")
    _refuse_wrapped(model)
    chosen = where or _spatial(model)
    read_by_parents = _read_by_parents(model)

    def build(name: str, module: nn.Module) -> nn.Module | None:
        similar = replacement(type_before_parametrizations(module), dynamic=kind == "dynamic")
        lazy = isinstance(getattr(module, "weight", None), UninitializedParameter)
        if lazy and (isinstance(module, _ConvNd) if where is None else where(name, module)):
            raise ValueError(
                f"module {name or '(root)'!r} has no weights yet: run the network once on an input before it is "
                "converted, or exclude it by `where`"
            )
        if similar is None or not chosen(name, module):
            return None
        _only_its_class(name, module)
        if id(module) in read_by_parents:
            raise ValueError(
                f"module {name!r} cannot get a similarity: its parent multiplies by its weight itself (the fast path "
                "of nn.TransformerEncoderLayer, nn.MultiheadAttention) and would leave M out; exclude it by `where`"
            )
        try:
            return similar.from_plain(module, similarity=similarity, **options)
        except (ValueError, TypeError) as error:
            raise ValueError(f"module {name or '(root)'!r}: {error}; exclude it by `where`") from error

    with random_state_kept(model.parameters()) if kind == "static" else nullcontext():
        converted, count = _replace(model, build)
    if not count:
        if have := sum(isinstance(module, Similarity) for module in model.modules()):
            raise ValueError(f"convert found nothing to do: {have} layers have a similarity already")
        raise ValueError(f"convert found no layer to give a {kind} similarity; check `where` and the layers' types")
    return converted


def fold(model: nn.Module) -> nn.Module:
    """Turn every static layer into a plain one with equal outputs, in place; dynamic layers stay.

    Static are layers with a static similarity and hypernetworks that do not look at the input.

    A kernel or bias that is frozen stays frozen; a parametrised one (`torch.nn.utils.parametrizations`) becomes its
    present value. A bias that layers share stays one parameter, and a kernel where they share the similarity too; with
    similarities of their own shared kernels become kernels of their own. Torch's global generators are left as they
    were.

    Returns:
        The model; a new object only if the model itself is one static layer.

    Raises:
        ValueError: a layer has hooks or a forward of its own, or a forward pre-hook computes one of its tensors.
    """
    tied: dict[Any, nn.Parameter] = {}

    def tie(module: nn.Module, folded: nn.Module) -> None:
        for name in module._parameters.keys() & folded._parameters.keys():
            own, parts = folded._parameters[name], module.parts() if name.startswith("weight") else []  # type: ignore[operator]
            if own is not None:  # kernels stay one parameter where their similarity is one too
                key = (id(module._parameters[name]), *map(id, parts))
                setattr(folded, name, tied.setdefault(key, own))

    def build(name: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, Similar):
            stays, parts = module.is_dynamic, list[nn.Module](module.parts())
        else:
            stays, parts = not isinstance(module, HyperConv2d) or module.dynamic, list(module.children())
        if stays:
            return None
        if own := _computes_its_own(module):
            raise ValueError(f"module {name or '(root)'!r} has {own}, which folding would lose")
        folded: nn.Module = module.fold()  # type: ignore[operator]
        tie(module, folded)
        on_tensors = any(
            parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None)
            for parameter in module.parameters()
        )
        if on_tensors or any(_has_hooks(part) for part in (module, *parts)):
            raise ValueError(
                f"module {name or '(root)'!r} has hooks, which folding would lose: remove them first and register "
                "them again on the folded layer"
            )
        return folded

    return _replace(model, build)[0]


def _classifier(model: nn.Module, classifier: str | nn.Module | None) -> Iterable[nn.Parameter]:
    if isinstance(classifier, nn.Module):
        return classifier.parameters()
    if classifier is not None:
        try:
            return model.get_submodule(classifier).parameters()
        except AttributeError:
            text = f"freeze_backbone found no module {classifier!r} in the model; name its classifier"
            raise ValueError(text) from None
    for found in named_classifiers(model):
        return found.parameters()
    skip = parts_of_similarities(model)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module not in skip]
    if not linear:
        raise ValueError(
            f"freeze_backbone found no classifier (tried {list(CLASSIFIER_NAMES)} and the last nn.Linear); name it"
        )
    return linear[-1].parameters()


def freeze_backbone(
    model: nn.Module, classifier: str | nn.Module | None = None, train_classifier: bool = True
) -> list[str]:
    """Leave only the similarities (predictors, shapes) and the classifier trainable.

    This sets `requires_grad`; batch norm's running averages still move in training mode. Where the backbone must not
    change at all, keep those modules in evaluation mode: call `eval()` on them after `model.train()`; `nsl.training`
    leaves them so.

    Args:
        model: changed in place.
        classifier: the classifier or its qualified name; None: the attribute classifier, fc, head or linear that has
            parameters, else the last `nn.Linear`.
        train_classifier: False freezes the classifier too.

    Returns:
        Names of the parameters that are left trainable.

    Raises:
        ValueError: there is no similarity to train, or no classifier was found.
    """
    similarities = [module for module in model.modules() if isinstance(module, Similarity)]
    keep = {id(parameter) for similarity in similarities for parameter in similarity.parameters()}
    if not keep:
        raise ValueError("freeze_backbone found no similarity to train: convert the model first (nsl.convert)")
    if train_classifier:
        keep |= {id(parameter) for parameter in _classifier(model, classifier)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in keep)
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


__all__ = ["Where", "convert", "fold", "freeze_backbone", "reset_to_identity"]
