"""A run's identity: the hash of everything that determines its numbers.

A configuration has two halves. What is *declared* (data, model, recipe, seed, threads) is the same everywhere; how it
is *executed* (device, kernels, precision of products) is known only where it runs. A record is identified by both, and
a table finds its records by the first: two runs declared alike are the same run, whichever table asks for it, and a
record of it counts on whatever it was made. Options of image classifiers equal to the default are left out of the
configuration, so that naming a default does not make another run; options of other tasks stay as they are declared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reproduce import tasks
from reproduce.run.files import digest

#: Raised by one whenever the code changes what all configurations compute; old records then no longer match.
NUMERICS = 2

#: The same by model, raised where the code changes what one of them computes: 1 for those that became their authors'
#: code on 2026-11-30.
REVISIONS = {"baseline_pp": 1, "leo": 1, "spherenet": 1, "tadam": 1}

#: Defaults of ``nsl.create_model``, and those of models that have their own; options equal to them are dropped.
MODEL_DEFAULTS: dict[str, Any] = {
    "width": 32,
    "variant": "paper",
    "predictor": "sphere",
    "sharing": "disjoint",
    "adaptation": "layer",
    "learn_shape": False,
    "residual": True,
}
OWN_DEFAULTS: dict[str, dict[str, Any]] = {
    "spherenet": {"width": 128},
    # Each its paper's.
    **{name: {"width": None} for name in ("cnn4", "nsn4_static", "nsn4_dynamic", "resnet12", "resnet34", "wrn28_10")},
}


def model_defaults(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The defaults of a model's options, beside the options that are given."""
    found = MODEL_DEFAULTS | OWN_DEFAULTS.get(name, {})
    if options.get("variant") == "release":  # whose predictor is the release's
        del found["predictor"]
    return found


def model_config(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The model's part of a configuration: its name and the options that differ from the defaults."""
    defaults = model_defaults(name, options)
    kept = {key: value for key, value in options.items() if defaults.get(key, _MISSING) != value}
    return {"name": name, **kept}


_MISSING = object()


@dataclass(frozen=True)
class Run:
    """One training to be done: the configuration without the data's fingerprint, and what to call it.

    ``dataset`` is the name and options of the data set as its task loads it; the fingerprint joins them in
    :meth:`declared` once the data have been seen. ``task`` names a file of ``reproduce/tasks``.
    """

    label: str
    dataset: dict[str, Any]
    model: dict[str, Any]
    recipe: dict[str, Any]
    seed: int
    threads: int
    task: str = tasks.CLASSIFICATION

    def declared(self, fingerprint: str) -> dict[str, Any]:
        """The configuration without the execution."""
        task = {} if self.task == tasks.CLASSIFICATION else {"task": self.task}
        revision = REVISIONS.get(self.model["name"])
        return {
            **task,
            "numerics": NUMERICS,
            **({} if revision is None else {"revision": revision}),
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
    def options(self) -> dict[str, Any]:
        """The model's options, without its name."""
        return {name: value for name, value in self.model.items() if name != "name"}

    @property
    def key(self) -> str:
        """The same for runs that are declared alike on the same data, whichever table asks for them."""
        return repr(self.declared(""))

    @property
    def images(self) -> int:
        """Training images the run processes: the budget."""
        return tasks.named(self.task).images(self.recipe)

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
