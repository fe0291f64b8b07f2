"""The layers' cost: the dynamic convolution alone, whole training steps, folded inference, the input pipeline.

Every table is measured in one run, its cases in turns. Notes carry the peak memory of a call beyond its inputs, and the
target where there is one.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from reproduce.bench.measure import Row, side_by_side
from reproduce.bench.memory import peaks

BATCH = 128
#: (channels, map size) of CNN-9's three stages.
SIZES = ((32, 32), (64, 16), (128, 8))
#: Largest ratio to `nn.Conv2d` aimed at, forward and backward, given M.
TARGETS = {("DNS", "fp32"): 1.8, ("DNS", "bf16"): 3.0, ("UNS", "fp32"): 4.0}
#: A training step may cost this much more than its multiply-adds say.
STEP_SLACK = 1.25


def has_bf16() -> bool:
    """Whether the CPU computes in bfloat16; without the instructions it is emulated, many times slower than fp32."""
    import torch

    found = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
    return platform.machine() not in ("x86_64", "AMD64") or any(ask is not None and ask() for ask in found)


def precisions() -> tuple[str, ...]:
    """What is measured here: fp32, and bf16 where the CPU has it; what is left out is said."""
    if has_bf16():
        return "fp32", "bf16"
    print("bf16 is left out: this CPU has no bfloat16 instructions.", flush=True)
    return ("fp32",)


def _noted(rows: list[Row], prefix: str, notes: dict[str, str]) -> list[Row]:
    return [replace(row, case=f"{prefix}: {row.case}", note=notes.get(row.case, "")) for row in rows]


def _mebibytes(size: int) -> str:
    return f"peak {size / 2**20:.0f} MiB"


def _expanded(input: Any, weight: Any, similarity: Any) -> Any:
    """As with the release's operators: a fixed convolution writes the K taps of every channel as channels of their own,
    the masks multiply them, a 1x1 convolution with the flattened kernel ends it. (The release expands the filters, to K
    times as many of one tap each; where there are as many filters as channels the numbers are as many.)"""
    import torch
    import torch.nn.functional as F

    channels, taps = weight.shape[1], weight[0, 0].numel()
    one_hot = torch.eye(taps, dtype=input.dtype).view(taps, 1, *weight.shape[2:]).repeat(channels, 1, 1, 1)
    expanded = F.conv2d(input, one_hot, padding=1, groups=channels)  # [B, C K, H, W]
    return F.conv2d(expanded * similarity.repeat(1, channels, 1, 1), weight.flatten(1)[:, :, None, None])


def convolution_cases(channels: int, size: int, precision: str) -> dict[str, Callable[[], Any]]:
    """Forward and backward of every formulation at one size, on the same tensors."""
    import torch
    import torch.nn.functional as F

    from nsl.kernels.convolution import by_patches, neural_similarity_conv2d

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    torch.manual_seed(0)
    x = torch.randn(BATCH, channels, size, size, dtype=dtype).contiguous(memory_format=torch.channels_last)
    w = torch.randn(channels, channels, 3, 3, dtype=dtype) * 0.05
    mask = torch.randn(BATCH, 9, size, size, dtype=dtype).contiguous(memory_format=torch.channels_last)
    # As a predictor makes it: the 81 numbers of a position side by side.
    matrix = torch.randn(BATCH, size, size, 9, 9, dtype=dtype).permute(0, 3, 4, 1, 2)
    g = torch.randn_like(x)
    for tensor in (x, w, mask, matrix):
        tensor.requires_grad_()
    geometry = ((1, 1), (1, 1), (1, 1), 1)
    forwards: dict[str, Callable[[], Any]] = {
        "Conv2d": lambda: F.conv2d(x, w, padding=1),
        "DNS": lambda: neural_similarity_conv2d(x, w, mask, padding=1),
        "UNS": lambda: neural_similarity_conv2d(x, w, matrix, padding=1),
        "DNS unfolded": lambda: by_patches(x, w, mask, *geometry),
        "DNS expanded": lambda: _expanded(x, w, mask),
    }

    def both(forward: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: forward().backward(g)

    return {name: both(forward) for name, forward in forwards.items()}


def dynamic_convolution() -> list[Row]:
    """Forward and backward given M: ours, unfold-multiply-matmul, and expanded channels."""
    rows: list[Row] = []
    for precision in precisions():
        for channels, size in SIZES:
            make = partial(convolution_cases, channels, size, precision)
            memory = peaks(make)
            measured = side_by_side(make(), "Conv2d", repeats=4)
            ours = next(row.seconds for row in measured if row.case == "DNS")
            notes = {name: _mebibytes(size_) for name, size_ in memory.items()}
            for name in ("DNS", "UNS"):
                target = TARGETS.get((name, precision))
                notes[name] = "; ".join(filter(None, [f"target {target}" if target else "", notes.get(name)]))
            for row in measured:
                if row.case.startswith("DNS "):
                    parts = [f"{row.seconds / ours:.1f} times ours", notes.get(row.case)]
                    if row.case == "DNS expanded":
                        parts.insert(1, "target at least 4")
                    notes[row.case] = "; ".join(filter(None, parts))
            rows += _noted(measured, f"{channels}ch {size}x{size} {precision}", notes)
    return rows


_DYNAMIC = ("nsn9_dynamic_diagonal", "nsn9_dynamic_unconstrained")
#: What a row trains: a model's name and options; the dynamic ones with both predictors.
NETWORKS: dict[str, tuple[str, dict[str, str]]] = {
    "cnn9": ("cnn9", {}),
    "nsn9_static_diagonal": ("nsn9_static_diagonal", {}),
    **{name: (name, {}) for name in _DYNAMIC},
    **{f"{name} (release's predictor)": (name, {"predictor": "release"}) for name in _DYNAMIC},
}


def _step(name: str, precision: str, **options: str) -> Callable[[], None]:
    """One training step (forward, backward, SGD) of the named network on synthetic images."""
    import torch
    import torch.nn.functional as F

    import nsl

    torch.manual_seed(0)
    images = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (BATCH,))
    model = nsl.create_model(name, 10, **options)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def call() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(images)
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels).backward()
        optimiser.step()

    return call


def _steps(precision: str) -> dict[str, Callable[[], None]]:
    return {row: _step(name, precision, **options) for row, (name, options) in NETWORKS.items()}


def training_step() -> list[Row]:
    """One step of each network against CNN-9's, beside the ratio of their multiply-adds."""
    import nsl
    from nsl.models.cost import count_multiply_adds

    count = {
        row: count_multiply_adds(nsl.create_model(name, 10, **options), 32)
        for row, (name, options) in NETWORKS.items()
    }
    rows: list[Row] = []
    for precision in precisions():
        memory = peaks(partial(_steps, precision))
        notes = {name: _mebibytes(size) for name, size in memory.items()}
        for name in list(NETWORKS)[1:]:
            ratio = count[name] / count["cnn9"]
            target = 1.05 if "static" in name else STEP_SLACK * ratio
            parts = [f"multiply-adds {ratio:.2f}", f"target {target:.2f}", notes.get(name)]
            if memory and "diagonal" in name:
                parts.append(f"{memory[name] / memory['cnn9'] - 1:+.2f} of CNN-9's, target +1.00")
            notes[name] = "; ".join(filter(None, parts))
        rows += _noted(side_by_side(_steps(precision), "cnn9", repeats=3), precision, notes)
    return rows


def folded_inference() -> list[Row]:
    """Inference of a static NSN with every layer folded, against CNN-9's."""
    import torch
    from torch import nn

    import nsl

    images = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    plain = nsl.create_model("cnn9", 10).eval()
    static = nsl.fold(nsl.create_model("nsn9_static_diagonal", 10).eval())

    def call(model: nn.Module) -> Callable[[], Any]:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        def infer() -> Any:
            with torch.inference_mode():
                return model(images)

        return infer

    return side_by_side({"cnn9": call(plain), "folded static NSN": call(static)}, "cnn9", repeats=15)


def input_pipeline() -> list[Row]:
    """Making a batch of 128 augmented 32x32 images, against one CNN-9 training step (in bfloat16 where the CPU can)."""
    import torch

    from nsl.data.augment import normalise
    from nsl.training import Recipe, batches

    images = torch.randint(0, 256, (5000, 3, 32, 32), dtype=torch.uint8)
    stream = batches(images, torch.zeros(5000, dtype=torch.int64), Recipe(iterations=10**6), seed=0)

    def batch() -> None:
        chosen, _ = next(stream)
        normalise(chosen, (0.5,) * 3, (0.25,) * 3, channels_last=True)

    return side_by_side({"cnn9 step": _step("cnn9", precisions()[-1]), "input batch": batch}, "cnn9 step")

