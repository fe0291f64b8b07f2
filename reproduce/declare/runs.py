"""A run's identity: the hash of everything that determines its numbers.

A configuration has two halves. What is *declared* (data, model, recipe, seed, threads) is the same everywhere; how it
is *executed* (device, kernels, precision of products) is known only where it runs. A record is identified by both, and
a table finds its records by the first: two runs declared alike are the same run, whichever table asks for it, and a
record of it counts on whatever it was made. Model options equal to the default are left out of the configuration, so
that naming a default does not make another run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reproduce.run.files import digest

#: Raised by one whenever the code changes what a configuration computes; old records then no longer match.
NUMERICS = 2

#: Defaults of ``nsl.create_model``; options equal to these are dropped.
MODEL_DEFAULTS: dict[str, Any] = {
    "width": 32,
    "variant": "paper",
    "predictor": "sphere",
    "sharing": "disjoint",
    "adaptation": "layer",
    "learn_shape": False,
    "residual": True,
}


def model_config(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The model's part of a configuration: its name and the options that differ from the defaults."""
    kept = {key: value for key, value in options.items() if MODEL_DEFAULTS.get(key, _MISSING) != value}
    return {"name": name, **kept}


_MISSING = object()


#: What a run does. A classification is one training with one recipe; a few-shot run trains on base classes and
#: is measured on episodes of novel ones, with a recipe of several parts.
CLASSIFICATION, FEWSHOT = "classification", "few-shot"


def training_images(recipe: dict[str, Any]) -> int:
    """Training images that a recipe processes, whichever task it belongs to."""
    count = int(recipe.get("iterations", 0)) * int(recipe.get("batch_size", 0))
    if part := recipe.get("pretrain"):
        count += int(part["iterations"]) * int(part["batch_size"])
    if part := recipe.get("meta"):
        items = int(part["way"]) * (int(part["shot"]) + int(part["query"]))
        count += int(part["iterations"]) * int(part["tasks"]) * items
    return count


@dataclass(frozen=True)
class Run:
    """One training to be done: the configuration without the data's fingerprint, and what to call it.

    ``dataset`` is the name and options of the data set as ``nsl.data.load`` takes them (``load_fewshot`` for the
    task "few-shot"); the fingerprint joins them in :meth:`declared` once the data have been seen.
    """

    label: str
    dataset: dict[str, Any]
    model: dict[str, Any]
    recipe: dict[str, Any]
    seed: int
    threads: int
    task: str = CLASSIFICATION

    def declared(self, fingerprint: str) -> dict[str, Any]:
        """The configuration without the execution."""
        task = {} if self.task == CLASSIFICATION else {"task": self.task}
        return {
            **task,
            "numerics": NUMERICS,
            "dataset": {**self.dataset, "fingerprint": fingerprint},
            "model": self.model,
            "recipe": self.recipe,
            "seed": self.seed,
            "threads": self.threads,
        }

    def config(self, fingerprint: str, execution: dict[str, str]) -> dict[str, Any]:
        """The full configuration; its hash is the identity of the run's record."""
        return {**self.declared(fingerprint), "execution": execution}

    @property
    def images(self) -> int:
        """Training images the run processes: the budget."""
        return training_images(self.recipe)

    @property
    def name(self) -> str:
        """How the run is called in messages."""
        return f"{self.label} on {self.dataset['name']}, seed {self.seed}"


def run_id(config: dict[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of the configuration's canonical JSON."""
    return digest(config)[:16]


def declared_id(config: dict[str, Any]) -> str:
    """The same hash of a configuration's declared half: records of one run, however executed, have it in common."""
    return run_id({key: value for key, value in config.items() if key != "execution"})
