"""MAML's meta-iteration: tasks vectorised by vmap, one after the other, and the way that clones modules."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from reproduce.bench.measure import Row, side_by_side

if TYPE_CHECKING:
    from torch import Tensor, nn

#: (image size, width, tasks, shots, inner steps): the demo's small maps, and CIFAR-FS.
CASES = ((16, 32, 4, 1, 5), (16, 32, 4, 5, 5), (32, 32, 4, 1, 5), (32, 32, 4, 5, 5))
WAY, QUERY = 5, 15


def clone_module(module: nn.Module) -> nn.Module:
    """A copy whose parameters are clones connected to the originals: how learn2learn and higher do it.

    Written for the comparison after the idea of those libraries, not from their code.
    """
    import torch
    from torch import nn

    copy = module.__new__(type(module))
    copy.__dict__ = dict(module.__dict__)
    copy.__dict__["_parameters"] = {
        name: None if p is None else torch.clone(p) for name, p in module._parameters.items()
    }
    copy.__dict__["_buffers"] = dict(module._buffers)
    copy.__dict__["_modules"] = {
        name: None if child is None else clone_module(child) for name, child in module._modules.items()
    }
    assert isinstance(copy, nn.Module)
    return copy


def step_down(module: nn.Module, gradients: dict[str, Tensor], rate: float, prefix: str = "") -> None:
    """Replace every parameter of a clone by one gradient step from it, keeping the graph."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            module._parameters[name] = parameter - rate * gradients[prefix + name]  # type: ignore[assignment]
    for name, child in module._modules.items():
        if child is not None:
            step_down(child, gradients, rate, f"{prefix}{name}.")


def named(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """The tensors that stand where parameters stand."""
    found: dict[str, Tensor] = {
        prefix + name: p for name, p in module._parameters.items() if p is not None
    }
    for name, child in module._modules.items():
        if child is not None:
            found |= named(child, f"{prefix}{name}.")
    return found


def cloned_meta_loss(
    network: nn.Module,
    support: Tensor,
    support_labels: Tensor,
    query: Tensor,
    query_labels: Tensor,
    steps: int,
    rate: float,
) -> Tensor:
    """The meta-loss by a clone a task, a step a loop: support [T, S, 3, h, w], query [T, Q, 3, h, w]."""
    import torch
    import torch.nn.functional as F

    losses = []
    for own_support, own_query in zip(support, query):
        learner = clone_module(network)
        for _ in range(steps):
            parameters = named(learner)
            loss = F.cross_entropy(learner(own_support), support_labels)
            gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
            step_down(learner, dict(zip(parameters, gradients)), rate)
        losses.append(F.cross_entropy(learner(own_query), query_labels))
    return torch.stack(losses).mean()


def maml_iteration() -> list[Row]:
    """Meta-iterations (forward, backward, Adam) of second-order MAML with CNN-4 in float32."""
    import torch

    from nsl.fewshot import MetaRecipe, Settings, create_method
    from nsl.fewshot.maml import MAML
    from nsl.fewshot.meta import Tasks

    rows: list[Row] = []
    device = Settings(image_size=16).torch_device()
    for size, width, count, shot, steps in CASES:
        draw = torch.Generator().manual_seed(0)
        support = torch.randn(count, WAY * shot, 3, size, size, generator=draw)
        query = torch.randn(count, WAY * QUERY, 3, size, size, generator=draw)
        labels = [torch.arange(WAY).repeat_interleave(each).to(device) for each in (shot, QUERY)]
        support, query = support.to(device), query.to(device)
        tasks = Tasks(support, labels[0], query, labels[1], 0, draw)
        settings = Settings(image_size=size, width=width, meta=MetaRecipe(iterations=1, shot=shot))

        def iteration(kind: str, settings: Any = settings, tasks: Any = tasks, steps: int = steps) -> Any:
            maml = create_method("maml", settings, train_steps=steps, vectorise=kind == "vmap")
            assert isinstance(maml, MAML)
            optimiser = torch.optim.Adam(maml.network.parameters(), lr=1e-3)

            def call() -> None:
                if kind == "cloned":
                    batch = tasks.support, tasks.support_labels, tasks.query, tasks.query_labels
                    loss = cloned_meta_loss(maml.network, *batch, steps, maml.rate)
                else:
                    loss = maml.loss(tasks)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                if device.type == "cuda":
                    torch.cuda.synchronize()

            return call

        cases = {
            "cloned modules, loop": iteration("cloned"),
            "torch.func, loop": iteration("loop"),
            "torch.func, vmap": iteration("vmap"),
        }
        name = f"{size}x{size}, {width} filters, {count} tasks, {shot}-shot"
        rows += [
            replace(row, case=f"{name}: {row.case}", note=f"{1 / row.seconds:.2f} meta-iterations/s")
            for row in side_by_side(cases, "cloned modules, loop", repeats=5)
        ]
    return rows
