"""Gradient descent inside a training: what MAML and equation (7) differentiate through.

    fast' = fast - rate * grad L_support(fast),  repeated;   meta-loss = L_query(fast')

Written with `torch.func`, so that the tasks of a meta-batch can be vectorised: `torch.func.vmap` turns the loop over
tasks into batched operations. Nothing is cloned, and the module that is called is never written to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Parameters = dict[str, Tensor]

Rates = float | Mapping[str, Tensor]
"""Inner step size: one for all parameters, or a scalar a parameter, by name. Tensors can be meta-learned with the
start values (Li et al., "Meta-SGD", arXiv 1707.09835, 2017; a scalar a layer: Antoniou et al., "How to train your
MAML", ICLR 2019)."""


def rate_of(rates: Rates, name: str) -> float | Tensor:
    """The step size of the parameter called `name`."""
    return rates[name] if isinstance(rates, Mapping) else rates


def descend(
    loss: Callable[[Parameters], Tensor], start: Parameters, steps: int, rate: Rates, first_order: bool = False
) -> Parameters:
    """`steps` steps of gradient descent, differentiable with respect to `start` and to rates that are tensors.

    Args:
        loss: parameters to a scalar.
        start: named tensors.
        steps, rate: of the descent.
        first_order: treat the gradients as constants (FOMAML): the derivative by `start` is the identity, that by a
            rate minus the sum of the gradients.

    Returns:
        The parameters after the last step, by the same names.
    """
    fast = start
    for _ in range(steps):
        if first_order:
            # Differentiated where it is, but as a constant: no graph of the gradient is kept.
            here = {name: value.detach() for name, value in fast.items()}
            gradients = {name: g.detach() for name, g in torch.func.grad(loss)(here).items()}
        else:
            gradients = torch.func.grad(loss)(fast)
        fast = {name: value - rate_of(rate, name) * gradients[name] for name, value in fast.items()}
    return fast


def meta_loss(
    loss: Callable[[Parameters, Tensor, Tensor], Tensor],
    start: Parameters,
    support: Tensor,
    support_targets: Tensor,
    query: Tensor,
    query_targets: Tensor,
    *,
    steps: int,
    rate: Rates,
    first_order: bool = False,
    vectorise: bool = True,
) -> Tensor:
    """Mean over tasks of the query loss after adaptation to the support (Finn et al., 2017; paper, equation 7).

    Args:
        loss: (parameters, items [n, ...], one-hot targets [n, way]) to a scalar.
        start: the parameters before adaptation, the same for every task.
        support: [T, S, ...]; support_targets: [S, way].
        query: [T, Q, ...]; query_targets: [Q, way].
        steps, rate, first_order: see `descend`.
        vectorise: tasks side by side by vmap, or one after the other.

    Returns:
        A scalar that can be differentiated with respect to `start` and to rates that are tensors.
    """

    def of_task(own_support: Tensor, own_query: Tensor) -> Tensor:
        if first_order and not vectorise:
            # The same numbers as below without torch.func, which layers with kernels of their own may not know.
            end = descend_once(lambda p: loss(p, own_support, support_targets), start, steps, rate)
            fast = {name: v + (end[name] - v).detach() * _one(rate_of(rate, name)) for name, v in start.items()}
            return loss(fast, own_query, query_targets)
        fast = descend(lambda p: loss(p, own_support, support_targets), start, steps, rate, first_order)
        return loss(fast, own_query, query_targets)

    if vectorise:
        return torch.func.vmap(of_task)(support, query).mean()
    return torch.stack([of_task(s, q) for s, q in zip(support, query)]).mean()


def _one(rate: float | Tensor) -> float | Tensor:
    """One, with the derivative of `rate / rate` by the first: what is moved in proportion to a rate keeps it so."""
    return rate / rate.detach() if isinstance(rate, Tensor) else 1.0


def descend_once(
    loss: Callable[[Parameters], Tensor], start: Parameters, steps: int, rate: Rates
) -> Parameters:
    """`descend` for use after training: the same numbers, no graph, any module."""
    fast = {name: value.detach() for name, value in start.items()}
    rates = {name: rate_of(rate, name) for name in fast}
    for _ in range(steps):
        leaves = {name: value.requires_grad_() for name, value in fast.items()}
        gradients = torch.autograd.grad(loss(leaves), list(leaves.values()))
        fast = {name: (v - rates[name] * g).detach() for (name, v), g in zip(leaves.items(), gradients)}
    return fast
