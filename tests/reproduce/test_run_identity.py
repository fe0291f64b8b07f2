"""A run is identified by what determines its numbers, and by nothing else."""

from __future__ import annotations

from dataclasses import replace

from reproduce import plan
from reproduce.runs import CLASSIFICATION, FEWSHOT, Run, model_config, run_id, training_images

RUN = Run(
    label="a label",
    dataset={"name": "cifar10"},
    model={"name": "cnn9"},
    recipe={"iterations": 10, "batch_size": 4, "learning_rate": 0.1},
    seed=0,
    threads=2,
)


def test_the_identity_of_a_configuration_is_pinned() -> None:
    # Stored records are found by this hash: a change of it would orphan all of them.
    assert run_id(RUN.config("0" * 16)) == "a845cb67e5470912"


def test_the_label_does_not_enter_the_identity() -> None:
    assert run_id(replace(RUN, label="another").config("f")) == run_id(RUN.config("f"))


def test_everything_else_enters_the_identity() -> None:
    others = [
        replace(RUN, dataset={"name": "cifar100"}).config("f"),
        replace(RUN, model={"name": "cnn9pp"}).config("f"),
        replace(RUN, recipe={**RUN.recipe, "learning_rate": 0.2}).config("f"),
        replace(RUN, seed=1).config("f"),
        replace(RUN, threads=1).config("f"),
        RUN.config("g"),
        replace(RUN, task=FEWSHOT).config("f"),
    ]
    assert len({run_id(config) for config in [RUN.config("f"), *others]}) == 8


def test_a_recipe_of_several_parts_counts_the_images_of_all() -> None:
    meta = {"iterations": 3, "tasks": 2, "way": 5, "shot": 1, "query": 4}
    assert training_images({"iterations": 10, "batch_size": 4}) == 40
    assert training_images({"pretrain": {"iterations": 10, "batch_size": 4}, "meta": meta, "episodes": {}}) == 40 + 150


def test_options_equal_to_the_default_are_dropped() -> None:
    spelled_out = {"width": 32, "predictor": "sphere", "sharing": "disjoint", "learn_shape": False}
    assert model_config("m", spelled_out) == {"name": "m"}
    assert model_config("m", {"width": 8, "predictor": "cnn"}) == {
        "name": "m",
        "width": 8,
        "predictor": "cnn",
    }


def test_a_run_that_several_tables_ask_for_is_planned_once() -> None:
    cpu = plan.profile("cpu")
    alone = [plan.planned_runs(cpu, (number,), 1) for number in plan.tables(CLASSIFICATION)]
    together = plan.planned_runs(cpu, plan.tables(CLASSIFICATION), 1)
    assert [len(runs) for runs in alone] == [4, 5, 3, 12, 3]
    assert len(together) == 20
