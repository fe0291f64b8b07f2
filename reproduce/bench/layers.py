"""The layers' cost: the dynamic convolution alone, whole training steps, folded inference, the input pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from reproduce.bench.measure import Row, side_by_side

BATCH = 128
#: (channels, map size) of CNN-9's three stages.
SIZES = ((32, 32), (64, 16), (128, 8))


def _named(rows: list[Row], prefix: str) -> list[Row]:
    return [replace(row, case=f"{prefix}: {row.case}") for row in rows]


def dynamic_convolution() -> list[Row]:
    """Forward and backward given M, against nn.Conv2d of the same size and against unfold-multiply-matmul."""
    import torch
    import torch.nn.functional as F

    from nsl.functional import _unfolded, neural_similarity_conv2d

    rows: list[Row] = []
    for dtype in (torch.float32, torch.bfloat16):
        for channels, size in SIZES:
            torch.manual_seed(0)
            x = torch.randn(BATCH, channels, size, size, dtype=dtype).contiguous(memory_format=torch.channels_last)
            w = torch.randn(channels, channels, 3, 3, dtype=dtype) * 0.05
            mask = torch.randn(BATCH, 9, size, size, dtype=dtype)
            matrix = torch.randn(BATCH, 9, 9, size, size, dtype=dtype)
            g = torch.randn_like(x)
            for tensor in (x, w, mask, matrix):
                tensor.requires_grad_()

            def both(forward: Callable[[], Any], g: Any = g) -> Callable[[], None]:
                return lambda: forward().backward(g)

            cases = {
                "Conv2d": both(lambda x=x, w=w: F.conv2d(x, w, padding=1)),  # type: ignore[misc]
                "dynamic DNS": both(
                    lambda x=x, w=w, m=mask: neural_similarity_conv2d(x, w, m, padding=1)  # type: ignore[misc]
                ),
                "dynamic UNS": both(
                    lambda x=x, w=w, m=matrix: neural_similarity_conv2d(x, w, m, padding=1)  # type: ignore[misc]
                ),
                "unfolded DNS": both(
                    lambda x=x, w=w, m=mask: _unfolded(x, w, m, (1, 1), (1, 1), (1, 1), 1)  # type: ignore[misc]
                ),
            }
            name = f"{channels}ch {size}x{size} {'bf16' if dtype == torch.bfloat16 else 'fp32'}"
            rows += _named(side_by_side(cases, "Conv2d", repeats=5), name)
    return rows


def _step(name: str) -> Callable[[], None]:
    """One training step (forward, backward, SGD) of the named network on synthetic images, bfloat16 autocast."""
    import torch
    import torch.nn.functional as F

    import nsl

    torch.manual_seed(0)
    images = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (BATCH,))
    model = nsl.create_model(name, 10)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def call() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images)
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels).backward()
        optimiser.step()

    return call


def training_step() -> list[Row]:
    """One step of each network, against CNN-9's."""
    names = ("cnn9", "nsn9_static_diagonal", "nsn9_dynamic_diagonal", "nsn9_dynamic_unconstrained")
    return side_by_side({name: _step(name) for name in names}, "cnn9", repeats=5)


def folded_inference() -> list[Row]:
    """Inference of a static NSN with every layer folded, against CNN-9's."""
    import torch
    from torch import nn

    import nsl

    def folded(module: nn.Module) -> None:
        for name, child in module.named_children():
            if isinstance(child, nsl.NSConv2d):
                setattr(module, name, child.fold())
            else:
                folded(child)

    images = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    plain, static = nsl.create_model("cnn9", 10).eval(), nsl.create_model("nsn9_static_diagonal", 10).eval()
    folded(static)

    def call(model: nn.Module) -> Callable[[], Any]:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        def infer() -> Any:
            with torch.inference_mode():
                return model(images)

        return infer

    return side_by_side({"cnn9": call(plain), "folded static NSN": call(static)}, "cnn9", repeats=15)


def input_pipeline() -> list[Row]:
    """Making a batch of 128 augmented 32x32 images, against one CNN-9 training step in bfloat16."""
    import torch

    from nsl.data.augment import normalise
    from nsl.training import Recipe, batches

    images = torch.randint(0, 256, (5000, 3, 32, 32), dtype=torch.uint8)
    stream = batches(images, torch.zeros(5000, dtype=torch.int64), Recipe(iterations=10**6), seed=0)

    def batch() -> None:
        chosen, _ = next(stream)
        normalise(chosen, (0.5,) * 3, (0.25,) * 3, channels_last=True)

    return side_by_side({"cnn9 step": _step("cnn9"), "input batch": batch}, "cnn9 step")

