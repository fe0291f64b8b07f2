"""A run is identified by what determines its numbers, and by nothing else."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import partial

import pytest

from nsl.models.registry import builder, list_models
from reproduce import tasks
from reproduce.declare import plan
from reproduce.declare.runs import Run, declared_id, model_config, model_defaults, run_id
from reproduce.tasks import CLASSIFICATION

RUN = Run(
    label="a label",
    dataset={"name": "cifar10"},
    model={"name": "cnn9"},
    recipe={"iterations": 10, "batch_size": 4, "learning_rate": 0.1},
    seed=0,
    threads=2,
)


EXECUTION = {"device": "cpu", "kernels": "native", "matmul": "highest"}


def test_the_identity_of_a_configuration_is_pinned() -> None:
    # Stored records are found by these hashes: a change of them would orphan all of them.
    assert declared_id(RUN.declared("0" * 16)) == "a845cb67e5470912"
    assert run_id(RUN.config("0" * 16, EXECUTION)) == "f8c988f356bd63b9"


def test_the_label_does_not_enter_the_identity() -> None:
    assert replace(RUN, label="another").declared("f") == RUN.declared("f")


def test_everything_else_enters_the_identity() -> None:
    others = [
        replace(RUN, dataset={"name": "cifar100"}).declared("f"),
        replace(RUN, model={"name": "cnn9pp"}).declared("f"),
        replace(RUN, recipe={**RUN.recipe, "learning_rate": 0.2}).declared("f"),
        replace(RUN, seed=1).declared("f"),
        replace(RUN, threads=1).declared("f"),
        RUN.declared("g"),
        replace(RUN, task="few-shot").declared("f"),
    ]
    assert len({declared_id(config) for config in [RUN.declared("f"), *others]}) == 8
    executions = [EXECUTION, *({**EXECUTION, key: "other"} for key in EXECUTION)]
    assert len({run_id(RUN.config("f", execution)) for execution in executions}) == 4
    assert len({declared_id(RUN.config("f", execution)) for execution in executions}) == 1


def test_a_recipe_of_several_parts_counts_the_images_of_all() -> None:
    meta = {"iterations": 3, "tasks": 2, "way": 5, "shot": 1, "query": 4}
    assert tasks.named("classification").images({"iterations": 10, "batch_size": 4}) == 40
    parts = {"pretrain": {"iterations": 10, "batch_size": 4}, "meta": meta, "episodes": {}}
    assert tasks.named("few-shot").images(parts) == 40 + 150


def test_options_equal_to_the_default_are_dropped() -> None:
    spelled_out = {"width": 32, "predictor": "sphere", "sharing": "disjoint", "learn_shape": False}
    assert model_config("m", spelled_out) == {"name": "m"}
    assert model_config("m", {"width": 8, "predictor": "cnn"}) == {
        "name": "m",
        "width": 8,
        "predictor": "cnn",
    }


def test_what_is_dropped_is_what_the_network_is_without_it() -> None:
    """Over all networks that are declared: an option is left out only where the builder's default is the same."""
    from nsl.models.registry import _MODELS

    for profile in map(plan.profile, ("demo", "cpu", "paper")):
        for run in plan.planned_runs(profile, (*plan.tables(CLASSIFICATION), *plan.beyond())):
            if (build := _MODELS.get(run.model["name"])) is None:
                continue
            known = inspect.signature(build).parameters
            for option, value in model_defaults(run.model["name"], run.model).items():
                if option in known and option not in run.model:
                    assert known[option].default in (value, None), (run.name, option)


def test_the_releases_variant_keeps_a_predictor_that_is_not_its_own() -> None:
    assert model_config("m", {"variant": "release", "predictor": "sphere"})["predictor"] == "sphere"
    assert model_config("spherenet", {"width": 32}) == {"name": "spherenet", "width": 32}
    assert model_config("spherenet", {"width": 128}) == {"name": "spherenet"}


def test_a_run_that_several_tables_ask_for_is_planned_once() -> None:
    cpu = plan.profile("cpu")
    alone = [plan.planned_runs(cpu, (number,), 1) for number in plan.tables(CLASSIFICATION)]
    together = plan.planned_runs(cpu, plan.tables(CLASSIFICATION), 1)
    assert [run.key for run in together] == list(dict.fromkeys(run.key for runs in alone for run in runs))
    assert len(together) < sum(len(runs) for runs in alone) - 5  # CNN-9 alone is in four tables


@pytest.mark.parametrize("name", list_models())
def test_options_that_are_left_out_of_a_model_are_those_it_has_by_itself(name: str) -> None:
    build = builder(name)
    fixed = build.keywords if isinstance(build, partial) else {}
    taken = {key: found.default for key, found in inspect.signature(build).parameters.items() if key not in fixed}
    for key, value in model_defaults(name, {}).items():
        # A predictor that is not named is the variant's.
        if key in taken and (key, taken[key]) != ("predictor", None):
            assert taken[key] == value, key
