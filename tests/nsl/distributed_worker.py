"""What torchrun starts in the tests: trains a network without batch norm and writes its losses.

Arguments: folder, steps, and the step at which process 1 kills itself once (0: never).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from nsl import DynamicNSConv2d, NSConv2d
from nsl.training import Execution, Recipe, train
from nsl.training.distributed import joined, world
from tests.nsl.test_training import tiny


class Network(nn.Module):
    """Plain, static and dynamic layers, whose result for an image does not depend on its neighbours in the batch."""

    def __init__(self) -> None:
        super().__init__()
        options = {"hidden": 4, "batch_norm": False}
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            NSConv2d(8, 8, 3, padding=1, similarity="unconstrained"),
            nn.ReLU(),
            # Not the bounded predictor: its kernels start so short that their directions turn far in a step, and fifty
            # steps make 1e-3 of a rounding error.
            DynamicNSConv2d(8, 8, 3, padding=1, predictor="release", predictor_options=options),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(8 * 8 * 8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.layers(images))


def main(folder: Path, steps: int, dies_at: int, accumulate: int = 1) -> None:
    torch.set_num_threads(1)
    done = 0

    def penalty(model: nn.Module) -> Tensor:
        """Called once a step by every process."""
        nonlocal done
        done += 1
        marker = folder / "died"
        if world().rank == 1 and done == dies_at and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(())

    losses = folder / "losses.jsonl"

    def log(step: int, values: dict[str, float]) -> None:
        with losses.open("a") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")

    with joined("cpu"):
        torch.manual_seed(0)
        recipe = Recipe(iterations=steps, batch_size=15, learning_rate=0.05, augment="crop_flip", evaluations=2)
        result = train(
            Network(),
            tiny(),
            recipe,
            seed=0,
            execution=Execution(
                device="cpu",
                checkpoint=folder / "run.pt",
                checkpoint_minutes=0.0,
                progress=False,
                accumulate=accumulate,
            ),
            penalty=penalty,
            log=log,
        )
        # Every process must have found the same.
        (folder / f"result{world().rank}.json").write_text(json.dumps(result.as_dict()["curve"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
