"""Distance metric learning as a similarity: M symmetric and positive semi-definite (paper 3.1, ref. 60).

With M = L L^T the distance is d(x, y)^2 = (x - y)^T M (x - y) = |x|_M^2 + |y|_M^2 - 2 x^T M y: among y of equal |y|_M
the nearest is the one of the largest similarity x^T M y, and in general the ranking by distance is that by
x^T M y - |y|_M^2 / 2. Learned here by neighbourhood components analysis.

Source: Xing, Ng, Jordan, Russell, NeurIPS 2002 (the metric); Goldberger, Roweis, Hinton, Salakhutdinov, Neighbourhood
Components Analysis, NeurIPS 2004 (the loss).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nsl.kernels.precision import exactly, wide_type


class Mahalanobis(nn.Module):
    """A learned metric on vectors, M = L L^T, which starts as the Euclidean one.

    Args:
        features: length n of the vectors.
        rank: columns of L; None: n. A smaller rank is a projection too.

    Parameters:
        factor [n, rank] (L).

    Raises:
        ValueError: features or rank is below 1, or rank is above features.
    """

    def __init__(
        self,
        features: int,
        rank: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        rank = features if rank is None else rank
        if not 1 <= rank <= features:
            raise ValueError(f"rank must be from 1 to features = {features}, got {rank}")
        self.factor = nn.Parameter(torch.empty(features, rank, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """L = I, or its first columns."""
        nn.init.eye_(self.factor)

    def matrix(self) -> Tensor:
        """M [n, n]."""
        return self.factor @ self.factor.t()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The similarities x^T M y: [N, n] and [P, n] to [N, P]."""
        return (x @ self.factor) @ (y @ self.factor).t()

    def squared_distance(self, x: Tensor, y: Tensor) -> Tensor:
        """(x - y)^T M (x - y): [N, n] and [P, n] to [N, P], at least zero.

        From the points' own lengths and products, in at least float32 also under autocast: distances far below those
        are lost to rounding, so centre the data.
        """
        wide = wide_type(x)
        with exactly(x):  # a difference of nearly equal numbers
            a, b = x.to(wide) @ self.factor.to(wide), y.to(wide) @ self.factor.to(wide)
            return (a.square().sum(-1)[:, None] + b.square().sum(-1)[None, :] - 2 * a @ b.t()).clamp_min(0)

    def extra_repr(self) -> str:
        return f"features={self.factor.shape[0]}, rank={self.factor.shape[1]}"


def neighbourhood_loss(metric: Mahalanobis, x: Tensor, labels: Tensor) -> Tensor:
    """Minus the mean log-probability that a point's soft neighbour is of its class (NCA, with the logarithm).

    p[i, j] is proportional to exp(-d(x_i, x_j)^2), j not i. Points that are alone in their class are left out.

    Args:
        metric: of n features.
        x: [N, n].
        labels: [N].

    Returns:
        A scalar; zero where no point has a companion.
    """
    distance = metric.squared_distance(x, x)
    itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
    log_p = (-distance).masked_fill(itself, -torch.inf).log_softmax(1)
    same = (labels[:, None] == labels[None, :]) & ~itself
    paired = same.any(1)
    if not bool(paired.any()):
        return distance.sum() * 0
    return -log_p[paired].masked_fill(~same[paired], -torch.inf).logsumexp(1).mean()
