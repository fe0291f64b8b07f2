"""SGD with momentum: which parameters are decayed, whose learning rate is scaled, and rates that need no host."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nsl.classifier import CLASSIFIER_NAMES, named_classifiers, unwrapped
from nsl.layers.similarity import Similar, Similarity
from nsl.training.checkpoint import check_optimiser
from nsl.training.schedule import Recipe

#: l2 coefficient of the release on an unconstrained static similarity.
RELEASE_SIMILARITY_DECAY = 5e-3


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Optimiser groups: which parameters are decayed, whose learning rate is scaled, and which have no momentum.

    Decayed are kernels, and under `variant="release"` more.
    Weight decay pulls towards zero, which for a similarity or a batch-norm scale is no simpler than any other
    value; so the paper variant decays kernels only: weights of convolutions, of linear maps and of recurrent cells, and
    predictors'. (What `torch.nn.utils.parametrizations` puts in place of a weight is not decayed.) The release also
    decays batch norm's scale and shift, and the unconstrained static similarity with 5e-3. A module that writes kernels
    from other parameters names those in an attribute `decayed`.
    A learned shape D_r (`shape` of a similarity) takes the plain step of equation (5) in both variants, the
    classifier's too: no decay, no momentum, and its own `shape_rate`.

    Returns:
        Groups with the keys params, weight_decay, rate and momentum. The momentum is the recipe's, of learned shapes 0.
        The group's learning rate is the recipe's times `rate`, which is `shape_rate` for learned shapes, else
        recipe.classifier_rate for the parameters of the classifier (the network's attribute classifier, fc, head or
        linear), else the attribute `rate` of the module where it has one: for its own parameters and those of its
        similarities, not for those of other modules inside. For all others it is 1.

    Raises:
        ValueError: the recipe has a rate for the classifier and none is found.
    """
    release = getattr(unwrapped(model), "variant", "paper") == "release"
    scaled = {id(parameter) for part in named_classifiers(model)[:1] for parameter in part.parameters()}
    if recipe.classifier_rate != 1 and not scaled:
        raise ValueError(
            f"classifier_rate={recipe.classifier_rate:g} is for the classifier, and {type(unwrapped(model)).__name__} "
            f"has none of the attributes {', '.join(CLASSIFIER_NAMES)}; give it one, or leave classifier_rate at 1"
        )
    groups: dict[tuple[float, float, float], list[nn.Parameter]] = {}
    seen: set[int] = set()
    layers = {id(part): module for module in model.modules() if isinstance(module, Similar) for part in module.parts()}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            if isinstance(module, Similarity) and name == "shape":
                groups.setdefault((0.0, module.shape_rate, 0.0), []).append(parameter)
                continue
            decay = 0.0
            if isinstance(module, Similarity) and name == "similarity":
                if release and module.structure.name == "unconstrained":
                    decay = RELEASE_SIMILARITY_DECAY
            elif (
                (parameter.dim() > 1 and _is_kernel(module, name))
                or name in getattr(module, "decayed", ())
                or (release and isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)))
            ):
                decay = recipe.weight_decay
            own = getattr(layers.get(id(module), module), "rate", 1.0)
            rate = recipe.classifier_rate if id(parameter) in scaled else float(own)
            groups.setdefault((decay, rate, recipe.momentum), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "rate": rate, "momentum": momentum}
        for (decay, rate, momentum), parameters in groups.items()
    ]


def _is_kernel(module: nn.Module, name: str) -> bool:
    """Whether a parameter of more than one dimension is a map's weight, by its name in PyTorch's modules.

    The scale of a layer normalisation has the shape of what it normalises and is none.
    """
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return name.startswith("weight_")
    if isinstance(module, nn.MultiheadAttention):
        return name.endswith("proj_weight")
    return name == "weight" and not isinstance(module, (nn.LayerNorm, nn.RMSNorm))


class ScheduledSGD:
    """SGD whose learning rates follow the recipe's schedule; the state is `torch.optim.SGD`'s on every device.

    Args:
        model: on its device.
        recipe: the schedule.
        on_device: find the rate on the device, by the step's number there, and update all parameters of a group at
            once: a step that is captured as a CUDA graph then needs nothing of the host. Default: on CUDA.

    Raises:
        ValueError: there is no parameter to train.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, on_device: bool | None = None) -> None:
        self.recipe = recipe
        groups = parameter_groups(model, recipe)
        if not groups:
            raise ValueError(f"{type(unwrapped(model)).__name__} has no parameter to train: none requires a gradient")
        self.sgd = torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)
        device = next(model.parameters()).device
        self.on_device = device.type == "cuda" if on_device is None else on_device
        if self.on_device:
            self.rates = torch.tensor([recipe.rate(iteration) for iteration in range(recipe.iterations)], device=device)

    def begin(self, iteration: int) -> None:
        """The host's part of a step: the rates, as numbers."""
        rate = self.recipe.rate(iteration)
        for group in self.sgd.param_groups:
            group["lr"] = rate * group["rate"]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.sgd.zero_grad(set_to_none=True)

    def step(self, clock: Tensor) -> None:
        """Update by the present gradients; `clock` int64 [1] is the number of the step, on the device."""
        if self.on_device:
            self._step(self.rates.index_select(0, clock)[0])
        else:
            self.sgd.step()

    @torch.no_grad()
    def _step(self, rate: Tensor) -> None:
        """What SGD does, with a learning rate that the host does not know: a scalar tensor."""
        for group in self.sgd.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            moves: Any = [p.grad for p in parameters]
            if group["weight_decay"] != 0:
                moves = torch._foreach_add(moves, parameters, alpha=group["weight_decay"])
            if group["momentum"] != 0:
                speeds = [self._speed(p) for p in parameters]
                torch._foreach_mul_(speeds, group["momentum"])
                torch._foreach_add_(speeds, moves)
                moves = speeds
            torch._foreach_sub_(parameters, torch._foreach_mul(moves, rate * group["rate"]))

    def _speed(self, parameter: Tensor) -> Tensor:
        state = self.sgd.state[parameter]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        speed: Tensor = state["momentum_buffer"]
        return speed

    def state_dict(self) -> dict[str, Any]:
        """SGD's own."""
        return self.sgd.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.sgd.load_state_dict(state)
        check_optimiser(self.sgd)
