"""Claim 21: why a bounded predictor is stable, and a predictor with a linear head is not (paper, section 3.3)."""

from __future__ import annotations

import numpy as np

from theory.arrays import Array
from theory.claims.ledger import Finding, Settings, claim, verdict_of

TAPS = 9


def patches(maps: Array) -> Array:
    """The 3x3 patches of `maps` [C, H, W] with periodic borders, [H, W, C * 9]."""
    shifts = [np.roll(maps, (1 - k // 3, 1 - k % 3), axis=(1, 2)) for k in range(TAPS)]
    return np.stack(shifts, axis=1).reshape(len(maps) * TAPS, *maps.shape[1:]).transpose(1, 2, 0)


def sphere_convolution(kernels: Array, maps: Array) -> Array:
    """Each product over the norms of kernel and patch (paper, section 2): [F, H, W], between -1 and 1.

    Args:
        kernels: [F, C * 9]. maps: [C, H, W]. A patch or kernel that is zero gives zero.
    """
    rows = patches(maps)
    size = np.linalg.norm(rows, axis=-1)[..., None] * np.linalg.norm(kernels, axis=1)
    return np.divide(rows @ kernels.T, size, out=np.zeros(size.shape), where=size > 0).transpose(2, 0, 1)


def convolution(kernels: Array, maps: Array) -> Array:
    """The plain 3x3 convolution, [F, H, W]."""
    return (patches(maps) @ kernels.T).transpose(2, 0, 1)


def sphere_predictor(first: Array, second: Array, maps: Array) -> Array:
    """M - I for every position, [9, H, W]: two hyperspherical convolutions with ReLU between, nothing after."""
    return sphere_convolution(second, np.maximum(sphere_convolution(first, maps), 0))


def linear_predictor(first: Array, second: Array, maps: Array) -> Array:
    """The same with plain convolutions: its output is not bounded."""
    return convolution(second, np.maximum(convolution(first, maps), 0))


def dynamic_layer(kernels: Array, mask: Array, maps: Array) -> Array:
    """W^T diag(1 + mask) X with ReLU (DNS), [F, H, W]; mask [9, H, W] = M - I."""
    channels = len(maps)
    masked = patches(maps) * np.tile(1 + mask, (channels, 1, 1)).transpose(1, 2, 0)
    return np.maximum((masked @ kernels.T).transpose(2, 0, 1), 0)


def network(seed: int, depth: int, channels: int = 3, hidden: int = 6) -> list[tuple[Array, Array, Array]]:
    """Gaussian weights of `depth` dynamic layers, each with its predictor's two layers (He size)."""
    rng = np.random.default_rng(seed)
    root = np.sqrt(2 / (channels * TAPS))
    return [
        (
            root * rng.standard_normal((channels, channels * TAPS)),
            root * rng.standard_normal((hidden, channels * TAPS)),
            root * rng.standard_normal((TAPS, hidden * TAPS)),
        )
        for _ in range(depth)
    ]


def run_network(layers: list[tuple[Array, Array, Array]], kind: str, maps: Array) -> Array:
    """The output of the stack; kind "sphere" or "linear"."""
    for kernels, first, second in layers:
        predictor = sphere_predictor if kind == "sphere" else linear_predictor
        maps = dynamic_layer(kernels, predictor(first, second, maps), maps)
    return maps


def homogeneity(layers: list[tuple[Array, Array, Array]], kind: str, maps: Array, large: float = 1e6) -> float:
    """Degree d of growth, |f(2 t x)| = 2^d |f(t x)| for large t."""
    sizes = [np.linalg.norm(run_network(layers, kind, t * maps)) for t in (large, 2 * large)]
    return float(np.log2(sizes[1] / sizes[0]))


def largest_output(seed: int, channels: int = 3, hidden: int = 6) -> tuple[float, float]:
    """Largest |M - I| for random weights and maps of sizes from 1e-6 to 1e6, and for kernels equal to a patch."""
    rng = np.random.default_rng(seed)
    size = 10.0 ** rng.uniform(-6, 6, 3)
    first, second = size[0] * rng.standard_normal((hidden, 27)), size[1] * rng.standard_normal((TAPS, hidden * TAPS))
    maps = size[2] * rng.standard_normal((channels, 6, 6))
    free = float(np.abs(sphere_predictor(first, second, maps)).max())
    middle = np.maximum(sphere_convolution(first, maps), 0)
    second[0] = patches(middle)[2, 3]
    return free, float(np.abs(sphere_predictor(first, second, maps)).max())


@claim(
    21,
    "bounded-predictor",
    statement="With a SphereNet predictor |M - I| <= 1 for any weights and inputs, and L stacked dynamic layers grow "
    "like the first power of their input at every depth; with a CNN predictor whose last layer is linear "
    "they grow like the power 2^L, which is what makes depth unstable.",
    source="paper, section 3.3 (bounded, stable); the degrees are ours",
    threshold="|M - I| <= 1 + 1e-12, and 1 reached to 1e-12 where a kernel equals a patch; degree 1, and 2, 4, 8, 16 "
    "at depth 1 to 4, to 1e-3; every seed",
    mutants=("linear head",),
)
def bounded_predictor(settings: Settings) -> Finding:
    seeds, depths = settings.seeds(10, 3), (1, 2, 3, 4)
    sphere = np.empty((len(seeds), len(depths)))
    linear = np.empty_like(sphere)
    for row, seed in enumerate(seeds):
        maps = np.random.default_rng(2100 + seed).standard_normal((3, 6, 6))
        for column, depth in enumerate(depths):
            layers = network(2150 + seed, depth)
            sphere[row, column] = homogeneity(layers, "sphere", maps)
            linear[row, column] = homogeneity(layers, "linear", maps)
    bounds = np.array([largest_output(2200 + seed) for seed in settings.seeds(200, 20)])
    off = np.abs(sphere - 1).max()
    powers = 2.0 ** np.array(depths)
    return Finding(
        verdict_of(
            bool(off < 1e-3),
            bool(np.max(np.abs(linear - powers)) < 1e-3),
            bool(np.max(bounds) <= 1 + 1e-12),
            bool(np.max(np.abs(bounds[:, 1] - 1)) < 1e-12),
        ),
        {
            "SphereNet: degree - 1, every depth (max)": float(off),
            **{f"linear head: degree at depth {d}": float(np.median(linear[:, k])) for k, d in enumerate(depths)},
            "|M - I|, random weights (max)": float(bounds[:, 0].max()),
            "|M - I|, kernel equal to a patch (max)": float(bounds[:, 1].max()),
        },
        f"{len(seeds)} random stacks of diagonal dynamic layers (3 channels, 6x6 maps, ReLU, predictors of two 3x3 "
        f"layers with 6 channels between), inputs of size 1e6 against 2e6; bound on {len(bounds)} predictors with "
        "weights and inputs of sizes 1e-6 to 1e6.",
        "A transcription in numpy of the paper's text (every product over the norms of kernel and patch, ReLU between, "
        "nothing after), without the small constants that implementations add under the root.",
    )
