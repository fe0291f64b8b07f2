"""Which runs of Table 6 start from one training on the base classes: as the methods themselves decide it."""

from __future__ import annotations

import json
from dataclasses import replace

from nsl.fewshot import METHODS, Settings
from reproduce.declare import plan
from reproduce.declare.runs import Run
from reproduce.tasks.accuracy import base_training


def runs() -> list[Run]:
    return [run for run in plan.planned_runs(plan.profile("demo"), (6,), 1) if "pretrain" in run.recipe]


def asked(run: Run) -> str:
    """What the method itself tells its classifier of the base classes apart by."""
    settings = Settings(image_size=16, backbone=run.model["backbone"], width=run.model["width"])
    options = {name: value for name, value in run.model.items() if name not in ("name", "backbone", "width")}
    return json.dumps([METHODS[run.model["name"]](settings, **options).identity(), run.recipe["pretrain"]])


def test_runs_share_a_training_where_their_methods_do() -> None:
    every = runs()
    assert len(every) > 9
    for first in every:
        for second in every:
            same = base_training(first.declared("")) == base_training(second.declared(""))
            assert same == (asked(first) == asked(second)), (first.label, second.label)


def test_what_a_declaration_leaves_out_is_the_methods_default() -> None:
    (dynamic,) = [run for run in runs() if run.model["name"] == "dynamic_nsn" and run.model["backbone"] == "cnn4"]
    bare = replace(dynamic, model={key: value for key, value in dynamic.model.items() if key != "predictor"})
    assert base_training(bare.declared("")) == base_training(dynamic.declared(""))
    other = replace(dynamic, model={**dynamic.model, "predictor": "cnn"})
    assert base_training(other.declared("")) != base_training(dynamic.declared(""))
