"""Claims 17 and 18: residual layers and dynamic neural units, and the order of a layer in its input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import expm

from theory import dynamics
from theory.claims.ledger import Finding, Settings, claim, verdict_of
from theory.claims.orders import slope, worst
from theory.steps import runge_kutta

if TYPE_CHECKING:
    import torch


def residual_identity(seed: int, step: float = 0.3, size: int = 8) -> float:
    """Largest error of the `nsl` layer with W + step M against x + step conv(x, M^T q), relative to the map."""
    import torch

    rng = np.random.default_rng(seed)
    kernel, similarity = dynamics.unit_kernel(rng), rng.standard_normal((9, 9)) / 3
    image = torch.from_numpy(rng.standard_normal((2, 1, size, size)))
    with torch.no_grad():
        out = dynamics.residual_layer(kernel, similarity, step)(image).numpy()
    matrix = dynamics.convolution_matrix(similarity.T @ kernel, size)
    flat = image.numpy().reshape(2, -1)
    stated = flat + step * flat @ matrix.T
    return float(np.max(np.abs(out.reshape(2, -1) - stated)) / np.max(np.abs(stated)))


def refinement_errors(seed: int, depths: list[int], size: int = 6) -> tuple[list[float], list[float]]:
    """Errors of refined-depth networks against the ODE at time 1: static layers and dynamic layers.

    Static: x' = conv(x, M^T q), exact by the matrix exponential. Dynamic: x' = q^T M_theta(X) X with a linear
    predictor, exact by Runge-Kutta 4 in 256 steps.
    """
    import torch

    rng = np.random.default_rng(seed)
    kernel, similarity = dynamics.unit_kernel(rng), rng.standard_normal((9, 9)) / 3
    start = rng.standard_normal((1, 1, size, size)) / 3
    image = torch.from_numpy(start)
    exact = expm(dynamics.convolution_matrix(similarity.T @ kernel, size)) @ start.reshape(-1)
    outputs = dynamics.refine(lambda h: dynamics.residual_layer(kernel, similarity, h), image, depths, 1.0)
    static = [float(np.max(np.abs(out.numpy().reshape(-1) - exact))) for out in outputs]

    predictor = torch.nn.Conv2d(1, 81, 3, padding=1, dtype=torch.float64)
    with torch.no_grad():
        predictor.weight.copy_(torch.from_numpy(rng.standard_normal(predictor.weight.shape) / 6))
        predictor.bias.copy_(torch.from_numpy(rng.standard_normal(81) / 6))  # type: ignore[union-attr]
        unit = dynamics.dynamic_residual_layer(kernel, predictor, 1.0)

        def velocity(x: torch.Tensor) -> torch.Tensor:
            return unit(x) - x

        x = runge_kutta(velocity, image, step=1 / 256, steps=256)
    outputs = dynamics.refine(lambda h: dynamics.dynamic_residual_layer(kernel, predictor, h), image, depths, 1.0)
    return static, [float((out - x).abs().max()) for out in outputs]


def memory() -> float:
    """How far the state of a DNU (a = 1, w = 2) under input 0 depends on the input before it, +1 or -1."""
    unit = dynamics.DynamicNeuralUnit()
    after_up, after_down = unit.respond(0.0, [1.0, 0.0])[-1], unit.respond(0.0, [-1.0, 0.0])[-1]
    return float(abs(after_up - after_down))


@claim(
    17,
    "residual-layer",
    statement="With W^T W = Diag(0,..,1,..,0), W^T (W + M) X = x + W^T M X: an NSL layer is a residual layer, one "
    "forward Euler step of an ODE. A dynamic neural unit has a state, may have several equilibria and then remembers; "
    "a dynamic NSN is by definition a function of its present input.",
    source="paper, section 5.2",
    threshold="layer identity < 1e-12; refined depth converges with order 1 +- 0.1 (static and dynamic); DNU "
    "equilibria met by simulation to 1e-6, and two histories end more than 1 apart",
    mutants=("transposed M",),
)
def residual_is_euler(settings: Settings) -> Finding:
    seeds, depths = settings.seeds(3, 1), [32, 64, 128]
    identity = max(residual_identity(1700 + seed) for seed in seeds)
    pairs = [refinement_errors(1700 + seed, depths) for seed in seeds]
    static = [slope(1 / np.array(depths), errors) for errors, _ in pairs]
    dynamic = [slope(1 / np.array(depths), errors) for _, errors in pairs]
    unit = dynamics.DynamicNeuralUnit()
    equilibria = unit.equilibria(0.0)
    reached = unit.respond(0.3, [0.0])[-1], unit.respond(-0.3, [0.0])[-1]
    stable = [x for x, calm in equilibria if calm]
    miss = max(min(abs(x - y) for y in stable) for x in reached)
    single = dynamics.DynamicNeuralUnit(weight=0.5).equilibria(0.0)
    kept = memory()
    return Finding(
        verdict_of(
            identity < 1e-12,
            all(abs(s - 1) < 0.1 for s in static + dynamic),
            miss < 1e-6,
            len(equilibria) == 3 and len(stable) == 2 and len(single) == 1,
            kept > 1,
        ),
        {
            "layer identity (max)": identity,
            "order, static layers (worst)": worst(static, 1),
            "order, dynamic layers (worst)": worst(dynamic, 1),
            "DNU w = 2: equilibria": len(equilibria),
            "DNU w = 2: stable ones": len(stable),
            "DNU w = 0.5: equilibria": len(single),
            "DNU: simulation to stable equilibrium (max)": miss,
            "DNU: gap between two histories": kept,
        },
        f"{len(seeds)} random 3x3 kernels q of unit norm and similarities on nsl layers (float64); 32, 64, "
        "128 layers; DNU with a = 1, f = g = tanh.",
        "W^T W = Diag(0,..,1,..,0) with W the size of M means W = q e_c^T with |q| = 1: the layer's kernel is q.",
    )


def order_in_input(layer: torch.nn.Module, seed: int, channels: int = 2, size: int = 6) -> tuple[float, float, float]:
    """Relative second and third differences along a random line, and the deviation from f(2x) = 2 f(x)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    base, line = torch.randn(2, 1, channels, size, size, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        f = [layer(base + k * line) for k in range(4)]
        scale = max(float(value.abs().max()) for value in f)
        second = float((f[2] - 2 * f[1] + f[0]).abs().max()) / scale
        third = float((f[3] - 3 * f[2] + 3 * f[1] - f[0]).abs().max()) / scale
        doubled = float((layer(2 * base) - 2 * f[0]).abs().max() / f[0].abs().max())
    return second, third, doubled


def layers_by_order(seed: int) -> dict[str, torch.nn.Module]:
    """A static layer, a dynamic one with a linear predictor, and one with the SphereNet predictor, in float64."""
    import torch

    import nsl

    torch.manual_seed(seed)
    static = nsl.NSConv2d(2, 3, 3, padding=1, bias=False, similarity="unconstrained")
    with torch.no_grad():
        static.similarity.add_(torch.randn_like(static.similarity))
    linear = nsl.DynamicNSConv2d(
        2,
        3,
        3,
        padding=1,
        bias=False,
        similarity="unconstrained",
        predictor=torch.nn.Conv2d(2, 81, 3, padding=1),
    )
    sphere = nsl.DynamicNSConv2d(2, 3, 3, padding=1, bias=False)
    with torch.no_grad():
        # Away from its initialisation, where the predictor is nearly zero and M nearly I.
        for parameter in sphere.predictor.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return {
        name: layer.double().eval()
        for name, layer in (("static", static), ("linear predictor", linear), ("SphereNet predictor", sphere))
    }


@claim(
    18,
    "order-in-the-input",
    statement="A one-layer dynamic NSN with a linear predictor is exactly quadratic in its input, a static one "
    "exactly linear, and one with a SphereNet predictor neither.",
    source="paper, section 6",
    threshold="third differences < 1e-12 (linear predictor), second < 1e-12 (static); SphereNet: both > 1e-4",
    mutants=("constant predictor",),
)
def order_of_layers(settings: Settings) -> Finding:
    seeds = settings.seeds(5, 2)
    rows = {name: [] for name in ("static", "linear predictor", "SphereNet predictor")}  # type: dict[str, list[tuple[float, float, float]]]
    for seed in seeds:
        for name, layer in layers_by_order(seed).items():
            rows[name].append(order_in_input(layer, seed))
    static_second = max(r[0] for r in rows["static"])
    doubled = max(r[2] for r in rows["static"])
    linear_second, linear_third = (
        min(r[0] for r in rows["linear predictor"]),
        max(r[1] for r in rows["linear predictor"]),
    )
    sphere_second, sphere_third = (min(r[k] for r in rows["SphereNet predictor"]) for k in (0, 1))
    return Finding(
        verdict_of(
            static_second < 1e-12,
            doubled < 1e-12,
            linear_third < 1e-12,
            linear_second > 1e-4,
            sphere_second > 1e-4,
            sphere_third > 1e-4,
        ),
        {
            "static: second difference (max)": static_second,
            "static: f(2x) - 2 f(x) (max)": doubled,
            "linear predictor: second difference (min)": linear_second,
            "linear predictor: third difference (max)": linear_third,
            "SphereNet: second difference (min)": sphere_second,
            "SphereNet: third difference (min)": sphere_third,
        },
        f"{len(seeds)} random 3x3 nsl layers of 2 to 3 channels on 6x6 maps, float64; differences along random lines.",
        "The identity that section 3.3.1 adds to what is predicted adds a linear term to the quadratic one.",
    )
