"""The tables beyond the paper: their declarations, and the tasks that only they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nsl.data import make_dataset
from nsl.training import load_checkpoint
from reproduce import tasks
from reproduce.declare import plan
from reproduce.declare.sizes import count
from reproduce.run.costs import pass_seconds
from reproduce.run.rehearsal import rehearse_run
from reproduce.show import notebooks
from reproduce.tasks.robustness import attacked
from reproduce.tasks.segmentation import class_ious
from reproduce.tasks.stages import ROUTES
from tests.reproduce.helpers import TwoClasses

DEMO = plan.profile("demo")
NEW_TASKS = ("sequences", "segmentation", "robustness", "stages", "metric")
ROWS = [
    (key, method.key)
    for key in plan.beyond()
    for method in plan.experiment(key).methods
    if plan.experiment(key).task in NEW_TASKS
]


def run_of(key: str, method: str) -> Any:
    declared = plan.experiment(key).within(DEMO.name)
    return DEMO.run(declared.method(method), declared.datasets[-1], 0)


@pytest.mark.parametrize("key", plan.beyond())
def test_every_claim_names_the_place_in_the_paper(key: str) -> None:
    declared = plan.experiment(key)
    assert declared.claims
    for claim in declared.claims:
        assert claim.source[0].isdigit() or claim.source.startswith("ours:"), claim.source
        assert ":" in claim.source


@pytest.mark.parametrize("profile", ["demo", "cpu"])
@pytest.mark.parametrize("key", plan.beyond())
def test_both_small_profiles_run_every_table(key: str, profile: str) -> None:
    chosen = plan.profile(profile)
    assert set(plan.experiment(key).within(chosen.name).datasets) <= set(chosen.slots)


@pytest.mark.parametrize(("key", "method"), ROWS)
def test_an_interrupted_run_goes_on_to_the_same_numbers(key: str, method: str, tmp_path: Path) -> None:
    found = rehearse_run(run_of(key, method), None, tmp_path)
    assert found.problem == ""


@pytest.mark.parametrize(("key", "method"), [row for row in ROWS if row[1] != "euclidean"])
def test_networks_are_counted_without_training(key: str, method: str) -> None:
    run = run_of(key, method)
    assert count(run, "parameters") > 0
    assert count(run, "multiply_adds") > 0


@pytest.mark.parametrize("key", plan.beyond())
def test_costs_are_timed_on_every_network(key: str) -> None:
    for method in plan.experiment(key).methods[-1:]:
        assert pass_seconds(run_of(key, method.key), 1, 0.01) > 0


def test_every_route_from_a_pretrained_network_has_three_stages_of_equal_length() -> None:
    assert {len(stages) for stages in ROUTES.values()} == {3}
    assert {stages[0] for stages in ROUTES.values()} == {"pretrain"}


def test_training_m_alone_leaves_the_pretrained_kernels_as_they_are(tmp_path: Path) -> None:
    task = tasks.named("stages")
    run = task.shortened(run_of("stages", "similarity"), 2)
    outcome = task.train(run, task.load(run.dataset, None), tmp_path / "state.pt", 1.0, False)
    before, after = (load_checkpoint(tmp_path / f"state.{number}.pt")["model"] for number in (0, 2))
    fixed = [name for name in before if "running" not in name and "num_batches" not in name]
    assert fixed
    assert all(torch.equal(before[name], after[name]) for name in fixed)
    assert [stage["stage"] for stage in outcome.result["stages"]] == ["pretrain", "similarity", "similarity"]


def test_an_attack_on_a_linear_classifier_is_the_one_that_algebra_gives() -> None:
    """Two classes, logit difference w.x: a change of every pixel by r moves it by r |w|_1 at most."""
    torch.manual_seed(0)

    images = torch.randint(40, 200, (60, 3, 8, 8), dtype=torch.uint8)
    model = TwoClasses(torch.randn(3 * 8 * 8))
    zeros = torch.zeros(60, dtype=torch.int64)
    probe = make_dataset("probe", images, zeros, images, zeros, ["a", "b"])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (probe.mean, probe.std))
    score = ((images.float() / 255 - mean) / std).flatten(1) @ model.weight.detach()
    labels = (score < 0).long()  # all are right without attack
    data = make_dataset("probe", images, labels, images, labels, ["a", "b"])
    radii = [1, 4]
    found = attacked(model, data, {"radii": radii, "steps": 10, "images": 50}, 0)["attack"]
    assert found["clean"] == [0.0]
    largest = (model.weight.detach().view(3, 8, 8).abs() / std).sum()
    for place, radius in enumerate(radii):
        expected = 100 * float((score[:50].abs() < radius / 255 * largest).float().mean())
        assert found["fgsm"][place] == pytest.approx(expected)
        assert found["pgd"][place] == pytest.approx(expected)


def test_intersection_over_union_by_hand() -> None:
    truth = torch.tensor([[0, 0, 1], [1, 1, 2]])
    predicted = torch.tensor([[0, 1, 1], [1, 0, 2]])
    assert class_ious(predicted, truth, 4) == [pytest.approx(100 / 3), 50.0, 100.0, None]


def test_notebooks_belong_to_the_tables_that_they_read() -> None:
    assert notebooks.read_tables("table6") == (6,)
    assert set(notebooks.read_tables("related_work")) >= {"dynamic", "structures", "connected", "stages", "metric"}
    assert notebooks.names(("dynamic",)) == ["related_work"]
    assert notebooks.names((2,)) == ["table2"]
    known = {"budget", "related_work", "robustness", "segmentation", "sequences"}
    assert known <= set(notebooks.names(plan.beyond()))
    assert not set(notebooks.names(plan.tables())) & set(notebooks.names(plan.beyond()))


def test_the_demo_has_one_seed_of_the_tables_beyond_and_more_where_they_are_asked_for() -> None:
    for profile in (DEMO, plan.profile("demo+width=4")):
        assert {run.seed for run in plan.planned_runs(profile, ("dynamic",))} == {0}
        assert {run.seed for run in plan.planned_runs(profile, ("dynamic",), 3)} == {0, 1, 2}
    assert {run.seed for run in plan.planned_runs(plan.profile("cpu"), ("dynamic",))} == {0, 1, 2}


def test_demo_and_cpu_take_a_part_of_their_budget_where_a_table_says_so_and_no_other_profile_does() -> None:
    whole = DEMO.slots["cifar10"].recipe["iterations"]
    for key in ("dynamic", "structures", "robustness", "stages"):
        assert {run.recipe["iterations"] for run in plan.planned_runs(DEMO, (key,))} == {whole // 5}
        assert plan.experiment(key).within("demo+width=4").datasets == ("cifar10_fifth",)
        assert plan.experiment(key).within("cpu").datasets == ("cifar10_quarter",)
        assert plan.experiment(key).within("paper").datasets == plan.experiment(key).datasets == ("cifar10",)
