"""A training step on the card as a ladder: what each means brings, for the networks of Table 4.

    plain            PyTorch's own operations, one chunk
    plain, compiled  the same through torch.compile
    kernels          the fused kernels, launched one by one
    graph            the fused kernels, the whole step (forward, backward, optimiser) captured as a CUDA graph
    compiled, graph  torch.compile around the kernels, captured
    two streams      two such networks side by side, a graph and a stream each; the time is that of one of the two steps
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from reproduce.bench.card import captured, ratio, seconds
from reproduce.bench.measure import Row

NETWORKS = ("cnn9", "nsn9_dynamic_diagonal", "nsn9_dynamic_unconstrained")
BATCH = 128
#: Seconds of a captured step aimed at on one H100, bfloat16.
TARGETS = {"cnn9": 0.6e-3, "nsn9_dynamic_diagonal": 1.5e-3, "nsn9_dynamic_unconstrained": 3.5e-3}
RUNGS = ("plain", "plain, compiled", "kernels", "graph", "compiled, graph", "two streams")


def make_step(
    name: str, precision: str, compiled: bool = False, device: str = "cuda", batch: int = BATCH
) -> Callable[[], None]:
    """One training step (forward, backward, SGD) on tensors that stay on the device, without a number read back."""
    import torch
    import torch.nn.functional as F

    import nsl

    torch.manual_seed(0)
    images = torch.randn(batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), device=device)
    model = nsl.create_model(name, 10).to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    forward = torch.compile(model) if compiled else model

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            logits = forward(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimiser.step()

    return step


def _two(steps: list[Callable[[], None]]) -> Callable[[], None]:
    """Both on streams of their own, the present stream waiting for them."""
    import torch

    streams = [torch.cuda.Stream() for _ in steps]

    def call() -> None:
        now = torch.cuda.current_stream()
        for stream, step in zip(streams, steps):
            stream.wait_stream(now)
            with torch.cuda.stream(stream):
                step()
        for stream in streams:
            now.wait_stream(stream)

    return call


def _rung(rung: str, name: str, precision: str) -> Callable[[], None]:
    if rung == "two streams":
        return _two([captured(make_step(name, precision)) for _ in range(2)])
    step = make_step(name, precision, compiled="compiled" in rung)
    return captured(step) if "graph" in rung else step


def _measure(rung: str, name: str, precision: str) -> tuple[list[float], float]:
    """Seconds of the rung's steps, and the peak memory in MiB."""
    import torch

    from nsl.kernels import paths

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    with paths.only("plain" if rung.startswith("plain") else "triton"):
        call = _rung(rung, name, precision)
        times = seconds({rung: call}, repeats=20)[rung]
    peak = torch.cuda.max_memory_allocated() / 2**20
    torch.compiler.reset()
    return ([time / 2 for time in times], peak) if rung == "two streams" else (times, peak)


def ladder() -> list[Row]:
    """Every network's rungs in bfloat16 and TF32; the ratio is to CNN-9 on the same rung."""
    from nsl.kernels.precision import using_float32_products

    rows = []
    with using_float32_products("tf32"):  # autocast's bfloat16 does not ask
        for precision in ("bf16", "tf32"):
            for rung in RUNGS:
                base: list[float] = []
                for name in NETWORKS:
                    case = f"step {precision}, {rung}: {name}"
                    try:
                        times, peak = _measure(rung, name, precision)
                    except Exception as error:  # one rung that fails must not cost what the others measured
                        why = " ".join(str(error).split())[:200]
                        rows.append(Row(case, 0.0, None, f"failed: {type(error).__name__}: {why}"))
                        continue
                    base = times if name == "cnn9" else base
                    target = f"target {1e3 * TARGETS[name]:.1f} ms; " if (precision, rung) == ("bf16", "graph") else ""
                    note = f"{target}peak {peak:.0f} MiB"
                    fraction = ratio(times, base) if base and name != "cnn9" else None
                    rows.append(Row(case, median(times), fraction, note))
    return rows
