"""A backend whose trainings are arithmetic: it shows the store and the executor at work without torch.

A step takes ``FAKE_STEP_SECONDS``; the state is kept in a checkpoint after every step, as the real training
does.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from reproduce.declare.runs import Run
from reproduce.run.files import write_text
from reproduce.tasks.task import Outcome


class FakeBackend:
    """Errors are a hash of model and seed; model options can ask for a crash, a failure or a divergence."""

    def fingerprint(self, run: Run, data: str | None) -> str:
        files = sorted(Path(data).glob("*.bin")) if data else []
        content = repr((sorted(run.dataset.items()), *(file.read_bytes() for file in files)))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def train(self, run: Run, data: str | None, checkpoint: Path, progress: bool) -> Outcome:
        if log := os.environ.get("FAKE_LOG"):
            with Path(log).open("a") as stream:
                stream.write(f"{run.model['name']} {run.seed}\n")
        if run.model["name"] == os.environ.get("FAKE_FAILS"):
            raise ValueError("the fake was told to fail.")
        if run.model["name"] == os.environ.get("FAKE_DIES"):
            os._exit(9)
        done, total = 0, int(run.recipe["iterations"])
        state = 0.0
        if checkpoint.exists():
            saved = json.loads(checkpoint.read_text())
            done, state = saved["done"], saved["state"]
        for step in range(done, total):
            key = f"{sorted(run.model.items())}{run.seed}{step}"
            state = 0.5 * state + int(hashlib.sha256(key.encode()).hexdigest()[:6], 16) / 16**6
            time.sleep(float(os.environ.get("FAKE_STEP_SECONDS", "0")))
            write_text(checkpoint, json.dumps({"done": step + 1, "state": state}))
        diverged = run.model["name"] == os.environ.get("FAKE_DIVERGES")
        images = run.images
        curve = [
            {
                "iteration": total * part // 2,
                "images": images * part // 2,
                "train_loss": 2.0 / part,
                "train_error": 40.0 / part,
                "test_error": 10 * state / part,
                "test_loss": 1.0 / part,
                "learning_rate": 0.1,
            }
            for part in (1, 2)
        ]
        result = {
            "test_error": float("nan") if diverged else 10 * state,
            "test_loss": state,
            "train_loss": state,
            "curve": curve,
            "diverged": diverged,
            "divergence": "loss is not finite at iteration 3" if diverged else None,
            "train_seconds": 1.0 + time.time() % 1,
            "evaluate_seconds": 0.1,
            "images_per_second": images / 2.0,
            "iterations_done": total,
        }
        parameters = {"cnn9": 1000, "cnn9pp": 3000}.get(run.model["name"], 2000)
        if run.model.get("sharing") == "shared":
            parameters = 1500
        observations = {"static": [{"layer": "conv1", "M": [[1.0] * 3] * 3}]}
        return Outcome(result, parameters, observations if "static" in run.model["name"] else {})

    def execution(self, run: Run) -> dict[str, str]:
        return {"device": "none", "kernels": os.environ.get("FAKE_KERNELS", "plain"), "matmul": "highest"}

    def environment(self) -> dict[str, Any]:
        return {"torch": "none", "device": "none", "threads": run_threads()}


def run_threads() -> int:
    """Threads that the executor gave this process."""
    return int(os.environ.get("OMP_NUM_THREADS", "0"))
