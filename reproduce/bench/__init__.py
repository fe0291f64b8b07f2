"""Side-by-side timings. A benchmark is a function in :data:`BENCHMARKS`; ``make bench`` runs them all.

Each function measures one subject and returns rows; a row is a case with its seconds and, where it makes
sense, the ratio to the case it is compared with. The rows are printed and stored in
``results/bench/NAME.json``.
"""

from __future__ import annotations

from reproduce.bench import fewshot, gpu, layers
from reproduce.bench.measure import Benchmark, Row, alternate, run_benchmarks, side_by_side

#: Every benchmark, by name.
BENCHMARKS: dict[str, Benchmark] = {
    "dynamic_convolution": layers.dynamic_convolution,
    "training_step": layers.training_step,
    "folded_inference": layers.folded_inference,
    "input_pipeline": layers.input_pipeline,
    "maml_iteration": fewshot.maml_iteration,
    "gpu": gpu.gpu,
    "gpu_steps": gpu.steps,
}

__all__ = ["BENCHMARKS", "Benchmark", "Row", "alternate", "run_benchmarks", "side_by_side"]
