"""The GPU path: is it right on this card, and how fast is it there. `python -m reproduce bench gpu gpu_steps`.

1. Correctness: every kernel against the definition in float64 on the CPU, fresh inputs, outputs in memory that held
   NaN, a second run that must be equal bit for bit. A wrong case ends the benchmark; nothing is stored then.
2. Forward and backward of the dynamic convolution against cuDNN's at the three layer sizes, as captured graphs.
3. `gpu_steps`: a training step as a ladder, see there.

All with the settings of the tables' runs (`nsl.training.execution.deterministic`), cuDNN's convolution included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from reproduce.bench import gpu_steps
from reproduce.bench.card import captured, peaks, ratio, require_card, seconds
from reproduce.bench.layers import BATCH, SIZES
from reproduce.bench.measure import Row

if TYPE_CHECKING:
    from torch import Tensor

    from nsl.kernels.precision import Products

    Function = Callable[..., list[Tensor]]

#: Arithmetic by name: type of the tensors and float32 products.
PRECISIONS: dict[str, tuple[str, Products]] = {
    "bf16": ("bfloat16", "ieee"),
    "fp16": ("float16", "ieee"),
    "tf32": ("float32", "tf32"),
    "fp32": ("float32", "ieee"),
}
#: Those that are timed.
TIMED = ("bf16", "tf32", "fp32")
#: Largest error allowed, relative to the result's norm. TF32 rounds operands to 10 bits, bfloat16 to 7, float16 to 10.
ALLOWED = {"fp32": 2e-6, "tf32": 2e-3, "bf16": 1e-2, "fp16": 1e-3}
#: Largest ratio to cuDNN's Conv2d aimed at, forward and backward, given M.
TARGETS = {("DNS", "bf16"): 1.5, ("DNS", "tf32"): 1.5, ("UNS", "bf16"): 4.0, ("UNS", "tf32"): 4.0}
#: batch, height, width, channels, filters, kernel, stride, padding, dilation
GEOMETRIES = (
    (2, 7, 5, 5, 7, (3, 3), (1, 1), (1, 1), (1, 1)),
    (3, 19, 18, 3, 33, (3, 3), (2, 1), (1, 0), (1, 2)),
    (2, 21, 17, 17, 4, (3, 5), (2, 3), (2, 2), (2, 1)),
    (2, 16, 16, 40, 20, (1, 1), (1, 1), (0, 0), (1, 1)),
    (2, 15, 16, 24, 16, (2, 4), (1, 2), (0, 3), (1, 1)),
    (2, 13, 13, 140, 150, (3, 3), (1, 1), (1, 1), (1, 1)),
    (1, 3, 3, 2, 3, (3, 3), (3, 3), (4, 4), (2, 2)),
    (4, 32, 32, 32, 32, (3, 3), (1, 1), (1, 1), (1, 1)),
    (4, 16, 16, 64, 64, (3, 3), (1, 1), (1, 1), (1, 1)),
    (4, 8, 8, 128, 128, (3, 3), (1, 1), (1, 1), (1, 1)),
)


@contextmanager
def poisoned() -> Iterator[None]:
    """New tensors hold NaN inside, so that an element that no kernel writes shows itself."""
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def compare(kernels: Function, exact: Function, leaves: list[Tensor], device: str, seed: int) -> tuple[float, bool]:
    """The largest relative error of outputs and gradients, and whether a second run is equal bit for bit.

    Args:
        kernels: what computes on the device, from leaves to outputs.
        exact: the same by the definition, in float64 on the CPU.
        leaves: on the CPU, in the types that the kernels take.
        seed: of the outputs' slopes.
    """
    import torch

    runs: list[list[Tensor]] = []
    slopes: list[Tensor] = []
    with poisoned():
        for _ in range(2):
            here = [leaf.to(device).requires_grad_() for leaf in leaves]
            outputs = kernels(*here)
            draw = torch.Generator().manual_seed(seed)
            slopes = [torch.randn(y.shape, generator=draw).to(y.dtype) for y in outputs]
            runs.append([*outputs, *torch.autograd.grad(outputs, here, [slope.to(device) for slope in slopes])])
    wide = [leaf.double().requires_grad_() for leaf in leaves]
    outputs = exact(*wide)
    wanted = [*outputs, *torch.autograd.grad(outputs, wide, [slope.double() for slope in slopes])]
    errors = [
        ((found.cpu().double() - true).norm() / true.norm().clamp_min(1e-30)).item()
        for found, true in zip(runs[0], wanted)
    ]
    # NaN compares as smaller than nothing: an element that was not written must not pass.
    worst = max(error if error == error else float("inf") for error in errors)
    return worst, all(torch.equal(one, other) for one, other in zip(*runs))


def check_convolution(
    geometry: tuple[Any, ...], dtype: Any, device: str, seed: int, block: int = 1
) -> tuple[float, bool]:
    """`compare` for y, dx, dw and dm; `block` is the number of axes of taps that m has."""
    import torch

    from nsl.kernels import operators
    from nsl.kernels.geometry import output_size

    batch, height, width, channels, filters, *window = geometry
    (kh, kw), stride, padding, dilation = window
    out, taps = output_size((height, width), *window), kh * kw
    draw = torch.Generator().manual_seed(seed)
    shapes = ((batch, height, width, channels), (taps, channels, filters), (batch, *out, *(taps,) * block))
    leaves = [torch.randn(shape, generator=draw).to(dtype) for shape in shapes]
    flat = [kh, kw, *stride, *padding, *dilation]
    return compare(
        lambda x, w, m: [operators.similarity_conv(x, w, m, flat)],
        lambda x, w, m: [operators.definition(x, w, m, flat)],
        leaves,
        device,
        seed,
    )


def check_predictor(geometry: tuple[Any, ...], dtype: Any, device: str, seed: int) -> tuple[float, bool]:
    """`compare` for the hyperspherical predictor's operators: norms of patches and kernels, scaling, energies."""
    import torch

    from nsl.kernels import sphere
    from nsl.kernels.geometry import output_size

    batch, height, width, channels, filters, *window = geometry
    (kh, kw), stride, padding, dilation = window
    out, flat, epsilon = [*output_size((height, width), *window)], [kh, kw, *stride, *padding, *dilation], 1e-4
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, height, width, channels, generator=draw).to(dtype)
    s, w = torch.rand(batch, height, width, generator=draw), torch.randn(filters, kh, kw, channels, generator=draw)
    columns, rows = -(-channels // 2), -(-filters // 8) * 8

    def kernels(x: Tensor, s: Tensor, w: Tensor) -> list[Tensor]:
        inverse = sphere.inverse_norms(sphere.row_energy(x), out, flat, epsilon)
        hidden, energy = sphere.scale_rows(x, s, "relu", channels, True)
        first, _ = sphere.scale_rows(x, s, "clamp", columns, False)
        return [inverse, hidden, energy, first, sphere.unit_rows(w, rows, dtype, epsilon)]

    def exact(x: Tensor, s: Tensor, w: Tensor) -> list[Tensor]:
        scaled = x * s.unsqueeze(-1)
        inverse = sphere.inverse_definition(x.square().sum(-1), out, flat, epsilon)
        unit = sphere.unit_definition(w, rows, torch.float64, epsilon)
        hidden = scaled.relu()
        return [inverse, hidden, hidden.square().sum(-1), scaled[..., :columns].clamp(-1, 1), unit]

    return compare(kernels, exact, [x, s, w], device, seed)


def correctness(
    device: str = "cuda", geometries: tuple[Any, ...] = GEOMETRIES, precisions: tuple[str, ...] = tuple(PRECISIONS)
) -> list[Row]:
    """One row a group of kernels and precision.

    Raises:
        ValueError: a result is wrong or does not repeat; the sentence names the case and the error.
    """
    import secrets

    import torch

    from nsl.kernels.paths import UNCONSTRAINED_TAPS
    from nsl.kernels.precision import using_float32_products

    few = tuple(geometry for geometry in geometries if geometry[5][0] * geometry[5][1] <= UNCONSTRAINED_TAPS)
    groups = (
        ("DNS", check_convolution, geometries),
        ("UNS", partial(check_convolution, block=2), few),
        ("predictor", check_predictor, geometries),
    )
    rows = []
    for name, check, chosen in groups:
        for precision in precisions:
            kind, products = PRECISIONS[precision]
            worst, seed = 0.0, secrets.randbits(31)
            for geometry in chosen:
                with using_float32_products(products):
                    error, same = check(geometry, getattr(torch, kind), device, seed)
                if error > ALLOWED[precision] or not same:
                    wrong = error > ALLOWED[precision]
                    what = f"differs from float64 by {error:.1e}" if wrong else "does not repeat bit for bit"
                    raise ValueError(f"{name} {precision} {geometry} {what} (seed {seed}); nothing was stored.")
                worst = max(worst, error)
            note = f"largest error {worst:.1e}, allowed {ALLOWED[precision]:.0e}; {len(chosen)} geometries, repeats"
            rows.append(Row(f"correct: {name} {precision}", 0.0, None, f"{note} equal bit for bit; seed {seed}"))
    return rows


def _cases(channels: int, size: int, kind: str) -> dict[str, Callable[[], Any]]:
    """Forward and backward of every formulation at one size, on the same tensors."""
    import torch
    import torch.nn.functional as F

    from nsl.kernels.convolution import neural_similarity_conv2d

    dtype = getattr(torch, kind)
    draw = torch.Generator("cuda").manual_seed(0)

    def random(*shape: int) -> Any:
        return torch.randn(*shape, generator=draw, device="cuda", dtype=dtype)

    def maps(*shape: int) -> Any:
        return random(*shape).contiguous(memory_format=torch.channels_last).requires_grad_()

    x, w, mask = maps(BATCH, channels, size, size), maps(channels, channels, 3, 3), maps(BATCH, 9, size, size)
    matrix = random(BATCH, size, size, 9, 9).permute(0, 3, 4, 1, 2).requires_grad_()
    gradient = maps(BATCH, channels, size, size).detach()
    hidden = maps(BATCH, 64, size, size)
    heads = {filters: (maps(filters, 64, 3, 3), maps(BATCH, filters, size, size).detach()) for filters in (9, 16)}

    def both(forward: Callable[[], Any], inputs: list[Any], slope: Any) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(forward(), inputs, slope)

    cases = {
        "Conv2d": both(lambda: F.conv2d(x, w, padding=1), [x, w], gradient),
        "DNS": both(lambda: neural_similarity_conv2d(x, w, mask, padding=1), [x, w, mask], gradient),
        "UNS": both(lambda: neural_similarity_conv2d(x, w, matrix, padding=1), [x, w, matrix], gradient),
    }
    for filters, (head, slope) in heads.items():
        forward = partial(F.conv2d, hidden, head, padding=1)
        cases[f"64 to {filters} filters"] = both(forward, [hidden, head], slope)
    return cases


def _share(name: str, channels: int, size: int, precision: str, time: float) -> str:
    """Achieved share of the card's peaks, for the convolution's own operations and least traffic."""
    peak = peaks()
    if not peak or name not in ("Conv2d", "DNS", "UNS"):
        return ""
    positions, element = BATCH * size * size, 2 if precision == "bf16" else 4
    operations = 3 * 2 * 9 * channels * channels * positions
    similarity = {"Conv2d": 0, "DNS": 9, "UNS": 81}[name]
    # Forward reads x and m and writes y; backward reads x, m and dy twice and writes dx and dm.
    traffic = element * positions * (2 * channels + similarity + 5 * channels + 3 * similarity)
    arithmetic_share = operations / time / peak[precision] / 1e12
    return f"{arithmetic_share:.0%} of peak arithmetic, {traffic / time / peak['memory'] / 1e12:.0%} of bandwidth"


def convolutions() -> list[Row]:
    """Forward and backward against cuDNN's Conv2d of the same arithmetic."""
    import torch

    from nsl.kernels.precision import using_float32_products

    rows = []
    for precision in TIMED:
        kind, products = PRECISIONS[precision]
        for channels, size in SIZES:
            with using_float32_products(products):
                measured = seconds({name: captured(call) for name, call in _cases(channels, size, kind).items()})
            torch.cuda.empty_cache()
            for name, times in measured.items():
                base = "64 to 9 filters" if name.startswith("64") else "Conv2d"
                target = TARGETS.get((name, precision))
                notes = [f"target {target}" if target else "", _share(name, channels, size, precision, median(times))]
                rows.append(
                    Row(
                        f"{channels}ch {size}x{size} {precision}: {name}",
                        median(times),
                        None if name == base else ratio(times, measured[base]),
                        "; ".join(filter(None, notes)),
                    )
                )
    return rows


def gpu() -> list[Row]:
    """Whether the kernels are right and how fast a convolution is; see the module."""
    _prepare()
    return [*correctness(), *convolutions()]


def steps() -> list[Row]:
    """Training steps; see the module. Apart, so that what was measured before is stored whatever happens here."""
    _prepare()
    return gpu_steps.ladder()


def _prepare() -> None:
    from nsl.training.execution import deterministic

    require_card()
    deterministic()  # as the tables' runs; before the first product
