"""Gradient descent inside a training: what MAML and equation (7) differentiate through.

    fast' = fast - rate * grad L_support(fast),  repeated;   meta-loss = L_query(fast')

Written with `torch.func`, so that the tasks of a meta-batch can be vectorised: `torch.func.vmap` turns the loop over
tasks into batched operations. Nothing is cloned, and the module that is called is never written to.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Parameters = dict[str, Tensor]


def descend(
    loss: Callable[[Parameters], Tensor], start: Parameters, steps: int, rate: float, first_order: bool = False
) -> Parameters:
    """`steps` steps of gradient descent, differentiable with respect to `start`.

    Args:
        loss: parameters to a scalar.
        start: named tensors.
        steps, rate: of the descent.
        first_order: treat the gradients as constants (FOMAML): the derivative of the result is the identity.

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
        fast = {name: value - rate * gradients[name] for name, value in fast.items()}
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
    rate: float,
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
        A scalar that can be differentiated with respect to `start`.
    """

    def of_task(own_support: Tensor, own_query: Tensor) -> Tensor:
        if first_order and not vectorise:
            # The same numbers as below without torch.func, which layers with kernels of their own may not know.
            end = descend_once(lambda p: loss(p, own_support, support_targets), start, steps, rate)
            fast = {name: value + (end[name] - value).detach() for name, value in start.items()}
            return loss(fast, own_query, query_targets)
        fast = descend(lambda p: loss(p, own_support, support_targets), start, steps, rate, first_order)
        return loss(fast, own_query, query_targets)

    if vectorise:
        return torch.func.vmap(of_task)(support, query).mean()
    return torch.stack([of_task(s, q) for s, q in zip(support, query)]).mean()


def descend_once(
    loss: Callable[[Parameters], Tensor], start: Parameters, steps: int, rate: float
) -> Parameters:
    """`descend` for use after training: the same numbers, no graph, any module."""
    fast = {name: value.detach() for name, value in start.items()}
    for _ in range(steps):
        leaves = {name: value.requires_grad_() for name, value in fast.items()}
        gradients = torch.autograd.grad(loss(leaves), list(leaves.values()))
        fast = {name: (v - rate * g).detach() for (name, v), g in zip(leaves.items(), gradients)}
    return fast
