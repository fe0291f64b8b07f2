"""A run's identity: the hash of everything that determines its numbers.

Two runs with equal configurations are the same run, whichever table asks for it, and execute once. Model
options equal to the default are left out of the configuration, so that naming a default does not make
another run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reproduce.files import digest

#: Raised by one whenever the code changes what a configuration computes; old records then no longer match.
NUMERICS = 2

#: Defaults of ``nsl.create_model``; options equal to these are dropped.
MODEL_DEFAULTS: dict[str, Any] = {
    "width": 32,
    "variant": "paper",
    "predictor": "sphere",
    "sharing": "disjoint",
    "learn_shape": False,
}


def model_config(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The model's part of a configuration: its name and the options that differ from the defaults."""
    kept = {key: value for key, value in options.items() if MODEL_DEFAULTS.get(key, _MISSING) != value}
    return {"name": name, **kept}


_MISSING = object()


@dataclass(frozen=True)
class Run:
    """One training to be done: the configuration without the data's fingerprint, and what to call it.

    ``dataset`` is the name and options of the data set as ``nsl.data.load`` takes them; the fingerprint
    joins them in :meth:`config` once the data have been seen.
    """

    label: str
    dataset: dict[str, Any]
    model: dict[str, Any]
    recipe: dict[str, Any]
    seed: int
    threads: int

    def config(self, fingerprint: str) -> dict[str, Any]:
        """The full configuration; its hash is the run's identity."""
        return {
            "numerics": NUMERICS,
            "dataset": {**self.dataset, "fingerprint": fingerprint},
            "model": self.model,
            "recipe": self.recipe,
            "seed": self.seed,
            "threads": self.threads,
        }

    @property
    def images(self) -> int:
        """Training images the run processes: the budget."""
        return int(self.recipe["iterations"]) * int(self.recipe["batch_size"])

    @property
    def name(self) -> str:
        """How the run is called in messages."""
        return f"{self.label} on {self.dataset['name']}, seed {self.seed}"


def run_id(config: dict[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of the configuration's canonical JSON."""
    return digest(config)[:16]
