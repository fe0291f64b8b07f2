"""Layers as steps of an ordinary differential equation dx/dt = g(x) with shared weights (paper 5.2).

The paper: with W^T W = Diag(0, .., 1, .., 0) the layer W^T (W + M) X = x + W^T M X is one step of forward Euler, and
"different neural similarity designs correspond to different iterative methods for ODEs". Here g is any module, for
example x -> W^T M(x) x (`nsl.DynamicNSConv2d` with as many filters as channels), which all stages and steps share:

    scheme             order   step of length h
    euler              1       x + h g(x)
    midpoint           2       x + h g(x + h/2 g(x))
    rk4                4       the classical Runge-Kutta scheme
    implicit_euler     1       y = x + h g(y)
    implicit_midpoint  2       y = x + h g((x + y) / 2)

Sources: Chen et al., Neural Ordinary Differential Equations, NeurIPS 2018; Lu et al., Beyond Finite Layer Neural
Networks, ICML 2018. The implicit equations are solved by fixed-point iterations, a choice: they converge where
h |g'| < 1 (2 for the midpoint), and are differentiated through.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Field = Callable[[Tensor], Tensor]
#: Fixed-point iterations, unless said otherwise.
ITERATIONS = 20


def _euler(g: Field, x: Tensor, h: float, _count: int) -> Tensor:
    return x + h * g(x)


def _midpoint(g: Field, x: Tensor, h: float, _count: int) -> Tensor:
    return x + h * g(x + h / 2 * g(x))


def _rk4(g: Field, x: Tensor, h: float, _count: int) -> Tensor:
    first = g(x)
    second = g(x + h / 2 * first)
    third = g(x + h / 2 * second)
    fourth = g(x + h * third)
    return x + h / 6 * (first + 2 * second + 2 * third + fourth)


def _implicit_euler(g: Field, x: Tensor, h: float, count: int) -> Tensor:
    y = x
    for _ in range(count):
        y = x + h * g(y)
    return y


def _implicit_midpoint(g: Field, x: Tensor, h: float, count: int) -> Tensor:
    y = x
    for _ in range(count):
        y = x + h * g((x + y) / 2)
    return y


#: By name: the order of the scheme, and its step (field, state, length, fixed-point iterations).
SCHEMES: dict[str, tuple[int, Callable[[Field, Tensor, float, int], Tensor]]] = {
    "euler": (1, _euler),
    "midpoint": (2, _midpoint),
    "rk4": (4, _rk4),
    "implicit_euler": (1, _implicit_euler),
    "implicit_midpoint": (2, _implicit_midpoint),
}


class ODEBlock(nn.Module):
    """From x(0) to an approximation of x(time) in equal steps of one scheme, the field's weights shared by all.

    Args:
        field: g, a module from a state to its velocity, of equal shape.
        scheme: a name of `SCHEMES`.
        steps: their number.
        time: where to end; a step has the length time / steps.
        iterations: fixed-point iterations of the implicit schemes.

    Shapes: any, the field's.

    Raises:
        ValueError: unknown scheme, steps, iterations or time not positive, or iterations for an explicit scheme.
    """

    def __init__(
        self, field: nn.Module, scheme: str = "euler", steps: int = 1, time: float = 1.0, iterations: int = ITERATIONS
    ) -> None:
        super().__init__()
        if scheme not in SCHEMES:
            raise ValueError(f"scheme must be one of {list(SCHEMES)}, got {scheme!r}")
        if steps < 1 or iterations < 1 or not time > 0:
            raise ValueError(f"steps, iterations and time must be positive, got {steps}, {iterations} and {time}")
        if iterations != ITERATIONS and not scheme.startswith("implicit"):
            raise ValueError(f"iterations belongs to the implicit schemes; leave it out with {scheme!r}")
        self.field, self.scheme, self.steps = field, scheme, steps
        self.time, self.iterations = float(time), iterations

    @property
    def order(self) -> int:
        """Order of the scheme: the error at `time` falls with this power of the step's length."""
        return SCHEMES[self.scheme][0]

    def forward(self, input: Tensor) -> Tensor:
        """x(0) to x(time).

        Raises:
            ValueError: the field's velocity is not of the state's shape.
        """
        step = SCHEMES[self.scheme][1]
        for _ in range(self.steps):
            input = step(self._velocity, input, self.time / self.steps, self.iterations)
        return input

    def _velocity(self, state: Tensor) -> Tensor:
        velocity: Tensor = self.field(state)
        if isinstance(velocity, Tensor) and velocity.shape != state.shape:
            raise ValueError(f"field must give a velocity {list(state.shape)} as the state, got {list(velocity.shape)}")
        return velocity

    def extra_repr(self) -> str:
        text = f"scheme={self.scheme!r}, steps={self.steps}, time={self.time:g}"
        return text + ("" if self.iterations == ITERATIONS else f", iterations={self.iterations}")
