"""Classifiers on features, and the measures that metric methods compare features by."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from nsl.kernels.precision import exactly

Function = TypeVar("Function", bound=Callable[..., Any])

#: Of the descent of `fit_linear`.
MOMENTUM = 0.9


def full_precision(function: Function) -> Function:
    """Autocast ends here and half precision becomes float32: differences of nearly equal numbers follow."""

    @wraps(function)
    def run(*arguments: Any) -> Any:
        exact = [
            a.float() if isinstance(a, Tensor) and a.dtype in (torch.bfloat16, torch.float16) else a for a in arguments
        ]
        with exactly(next(a for a in arguments if isinstance(a, Tensor))):
            return function(*exact)

    return run  # type: ignore[return-value]


def one_hot(labels: Tensor, way: int, dtype: torch.dtype) -> Tensor:
    """Labels [S] to [S, way]."""
    return F.one_hot(labels, way).to(dtype)


@full_precision
def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of logits [..., S, way] against one-hot targets [S, way]; safe under vmap and grad."""
    return -(F.log_softmax(logits, -1) * targets).sum(-1).mean()


def feature_scale(features: Tensor) -> Tensor:
    """1 / mean norm of the features [S, D]: a scalar that makes step sizes mean the same for every backbone."""
    return 1.0 / features.norm(dim=-1).mean().clamp_min(1e-12)


def fit_linear(
    features: Tensor,
    targets: Tensor,
    *,
    steps: int,
    rate: float,
    decay: float = 1e-3,
) -> tuple[Tensor, Tensor]:
    """Softmax regression from zero by gradient descent with momentum 0.9, gradients in closed form.

    Args:
        features: [S, D].
        targets: one-hot [S, way].
        steps, rate: of the descent.
        decay: l2 coefficient on the weight.

    Returns:
        Weight [way, D] and bias [way].
    """
    weight = features.new_zeros(targets.shape[1], features.shape[1])
    bias = features.new_zeros(targets.shape[1])
    weight_speed, bias_speed = torch.zeros_like(weight), torch.zeros_like(bias)
    for _ in range(steps):
        error = (torch.addmm(bias, features, weight.T).softmax(1) - targets) / len(features)
        weight_speed = MOMENTUM * weight_speed + error.T @ features + decay * weight
        bias_speed = MOMENTUM * bias_speed + error.sum(0)
        weight, bias = weight - rate * weight_speed, bias - rate * bias_speed
    return weight, bias


@full_precision
def prototypes(features: Tensor, way: int) -> Tensor:
    """Class means of features [..., S, D] that lie class by class: [..., way, D]."""
    return features.unflatten(-2, (way, -1)).mean(-2)


def class_means(features: Tensor, labels: Tensor, way: int) -> Tensor:
    """Class means [way, D] of features [S, D] in any order."""
    targets = one_hot(labels, way, features.dtype)
    return (targets.T @ features) / targets.sum(0).clamp_min(1).unsqueeze(1)


@full_precision
def squared_distances(query: Tensor, centres: Tensor) -> Tensor:
    """||q - c||^2 of query [..., Q, D] and centres [..., way, D]: [..., Q, way]."""
    return (
        query.square().sum(-1, keepdim=True)
        - 2 * query @ centres.transpose(-1, -2)
        + centres.square().sum(-1).unsqueeze(-2)
    )


@full_precision
def cosine(query: Tensor, support: Tensor) -> Tensor:
    """Cosine of query [..., Q, D] and support [..., S, D]: [..., Q, S]."""
    return F.normalize(query, dim=-1) @ F.normalize(support, dim=-1).transpose(-1, -2)
