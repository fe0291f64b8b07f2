"""Claim 21: the bound of a SphereNet predictor, and the degree of stacks of dynamic layers (paper, section 3.3)."""

from __future__ import annotations

import itertools

import numpy as np

from theory.arrays import Array
from theory.claims.ledger import Finding, Settings, claim, verdict_of

TAPS = 9


def patches(maps: Array) -> Array:
    """The 3x3 patches of `maps` [..., C, H, W] with periodic borders, [..., H, W, C * 9]."""
    shifts = [np.roll(maps, (1 - k // 3, 1 - k % 3), axis=(-2, -1)) for k in range(TAPS)]
    *batch, channels, height, width = maps.shape
    rows = np.stack(shifts, axis=-3).reshape(*batch, channels * TAPS, height, width)
    return np.moveaxis(rows, -3, -1)


def sphere_convolution(kernels: Array, maps: Array) -> Array:
    """Each product over the norms of kernel and patch (paper, 3.1 and 3.3.1): [..., F, H, W], between -1 and 1.

    Args:
        kernels: [F, C * 9]. maps: [..., C, H, W]. A patch or kernel that is zero gives zero.
    """
    rows = patches(maps)
    size = np.linalg.norm(rows, axis=-1)[..., None] * np.linalg.norm(kernels, axis=1)
    return np.moveaxis(np.divide(rows @ kernels.T, size, out=np.zeros(size.shape), where=size > 0), -1, -3)


def convolution(kernels: Array, maps: Array) -> Array:
    """The plain 3x3 convolution, [..., F, H, W]."""
    return np.moveaxis(patches(maps) @ kernels.T, -1, -3)


def sphere_predictor(first: Array, second: Array, maps: Array) -> Array:
    """M - I for every position, [..., 9, H, W]: two hyperspherical convolutions with ReLU between, nothing after."""
    return sphere_convolution(second, np.maximum(sphere_convolution(first, maps), 0))


def linear_predictor(first: Array, second: Array, maps: Array) -> Array:
    """The same with plain convolutions: its output is not bounded."""
    return convolution(second, np.maximum(convolution(first, maps), 0))


def dynamic_convolution(kernels: Array, mask: Array, maps: Array) -> Array:
    """W^T diag(1 + mask) X (DNS), [..., F, H, W]; mask [..., 9, H, W] = M - I."""
    channels = maps.shape[-3]
    masked = patches(maps) * np.moveaxis(np.tile(1 + mask, (channels, 1, 1)), -3, -1)
    return np.moveaxis(masked @ kernels.T, -1, -3)


def batch_norm(maps: Array) -> Array:
    """Every channel of [..., C, H, W] with mean 0 and variance 1 over the batch and all positions, as in training."""
    axes = tuple(axis for axis in range(maps.ndim) if axis != maps.ndim - 3)
    centred = maps - maps.mean(axis=axes, keepdims=True)
    size = np.sqrt(np.mean(centred**2, axis=axes, keepdims=True))
    return np.divide(centred, size, out=np.zeros(maps.shape), where=size > 0)


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


def run_network(layers: list[tuple[Array, Array, Array]], kind: str, maps: Array, *, norm: bool = False) -> Array:
    """The output of the stack, ReLU after every layer; kind "sphere" or "linear". norm: batch norm before each ReLU."""
    for kernels, first, second in layers:
        predictor = sphere_predictor if kind == "sphere" else linear_predictor
        maps = dynamic_convolution(kernels, predictor(first, second, maps), maps)
        maps = np.maximum(batch_norm(maps) if norm else maps, 0)
    return maps


def homogeneity(
    layers: list[tuple[Array, Array, Array]], kind: str, maps: Array, large: float = 1e6, *, norm: bool = False
) -> float:
    """Degree d of growth, |f(2 t x)| = 2^d |f(t x)| for large t."""
    sizes = [np.linalg.norm(run_network(layers, kind, t * maps, norm=norm)) for t in (large, 2 * large)]
    return float(np.log2(sizes[1] / sizes[0]))


def change_by_doubling(layers: list[tuple[Array, Array, Array]], kind: str, maps: Array, size: float) -> float:
    """|f(2 t x) - f(t x)| / |f(t x)| at t = size, with batch norm: 0 where the stack does not see the input's size.

    The degree alone says little here: batch norm fixes the size of its output, whatever comes in.
    """
    single, double = (run_network(layers, kind, t * maps, norm=True) for t in (size, 2 * size))
    return float(np.linalg.norm(double - single) / np.linalg.norm(single))


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
    statement="With a SphereNet predictor |M - I| <= 1 in every entry, for any weights and inputs. Without "
    "normalisation, L stacked dynamic layers then grow like the first power of their input at every depth, and with a "
    "CNN predictor whose last layer is linear like the power 2^L. Batch norm after every convolution, which the "
    "networks of the tables have, removes this growth with either predictor (degree 0), so it does not show why a "
    "network diverges there.",
    source="paper, section 3.3 (bounded, stable); the degrees are ours",
    threshold="every |M - I| <= 1 + 1e-12, and 1 reached to 1e-12 where a kernel equals a patch; without normalisation "
    "degree 1, and 2, 4, 8, 16 at depth 1 to 4, to 1e-3; with batch norm degree 0, and an output that changes by less "
    "than 1e-3 of itself where a large input is doubled, SphereNet's by less than 1e-9 at size 1 too; every seed",
    mutants=("linear head",),
)
def bounded_predictor(settings: Settings) -> Finding:
    seeds, depths = settings.seeds(10, 3), (1, 2, 3, 4)
    kinds = ("sphere", "linear")
    plain = {kind: np.empty((len(seeds), len(depths))) for kind in kinds}
    normed = {kind: np.empty_like(rows) for kind, rows in plain.items()}
    changed = {place: np.empty((len(seeds), len(depths))) for place in itertools.product(kinds, (1.0, 1e6))}
    for row, seed in enumerate(seeds):
        batch = np.random.default_rng(2100 + seed).standard_normal((4, 3, 6, 6))
        for column, depth in enumerate(depths):
            layers = network(2150 + seed, depth)
            for kind in kinds:
                plain[kind][row, column] = homogeneity(layers, kind, batch[0])
                normed[kind][row, column] = homogeneity(layers, kind, batch, norm=True)
            for (kind, size), rows in changed.items():
                rows[row, column] = change_by_doubling(layers, kind, batch, size)
    bounds = np.array([largest_output(2200 + seed) for seed in settings.seeds(200, 20)])
    off = np.abs(plain["sphere"] - 1).max()
    powers = 2.0 ** np.array(depths)
    degree = max(np.abs(rows).max() for rows in normed.values())
    exact = max(changed["sphere", size].max() for size in (1.0, 1e6))
    return Finding(
        verdict_of(
            bool(off < 1e-3),
            bool(np.max(np.abs(plain["linear"] - powers)) < 1e-3),
            bool(degree < 1e-3),
            bool(exact < 1e-9),
            bool(changed["linear", 1e6].max() < 1e-3),
            bool(np.max(bounds) <= 1 + 1e-12),
            bool(np.max(np.abs(bounds[:, 1] - 1)) < 1e-12),
        ),
        {
            "SphereNet: degree - 1, every depth (max)": float(off),
            **{
                f"linear head: degree at depth {d}": float(np.median(plain["linear"][:, k]))
                for k, d in enumerate(depths)
            },
            "batch norm: degree, either predictor, every depth (max)": float(degree),
            "batch norm, SphereNet: change by doubling, size 1 or 1e6 (max)": float(exact),
            "batch norm, linear head: change by doubling, size 1e6 (max)": float(changed["linear", 1e6].max()),
            "batch norm, linear head: change by doubling, size 1 (median)": float(np.median(changed["linear", 1.0])),
            "|M - I|, random weights (max)": float(bounds[:, 0].max()),
            "|M - I|, kernel equal to a patch (max)": float(bounds[:, 1].max()),
        },
        f"{len(seeds)} random stacks of diagonal dynamic layers (3 channels, 6x6 maps, ReLU, predictors of two 3x3 "
        "layers with 6 channels between), inputs of size 1e6 against 2e6; the same stacks with batch norm before every "
        f"ReLU, on batches of 4; bound on {len(bounds)} predictors with weights and inputs of sizes 1e-6 to 1e6.",
        "A transcription in numpy of the paper's text (every product over the norms of kernel and patch, ReLU between, "
        "nothing after), without the small constants that implementations add under the root. Batch norm is that of "
        "training; with stored statistics, as in evaluation, it is an affine map and the degrees are those without it.",
    )
