"""What a plan says before anything runs: work counted exactly, time from a calibration, disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from reproduce import tasks
from reproduce.__main__ import main
from reproduce.declare import plan
from reproduce.declare.runs import Run
from reproduce.declare.shapes import shape
from reproduce.run import costs
from reproduce.run.files import canonical_json
from tests.reproduce.helpers import write_profile


def run_of(table: int, key: str, profile: str = "demo") -> Run:
    chosen, experiment = plan.profile(profile), plan.experiment(table)
    return chosen.run(experiment.method(key), experiment.datasets[0], 0)


@pytest.mark.parametrize("name", ["demo", "cpu", "paper"])
def test_the_sizes_of_every_declared_data_set_are_known(name: str) -> None:
    for run in plan.planned_runs(plan.profile(name), plan.every(), 1):
        assert tasks.named(run.task).shape(run.dataset).train > 0


def test_the_sizes_of_made_sets_are_those_they_have() -> None:
    from nsl.data import load, load_fewshot

    papers = {slot for table in plan.tables() for slot in plan.experiment(table).datasets}
    for slot, place in plan.profile("demo").slots.items():
        if slot not in papers:
            continue
        dataset = place.data
        options = {key: value for key, value in dataset.items() if key != "name"}
        sizes = shape(dataset)
        if slot == "mini_imagenet":
            few = load_fewshot(dataset["name"], **options)
            found = (few.image_size, few.base.num_classes, len(few.base.labels), len(few.novel.labels))
        else:
            data = load(dataset["name"], **options)
            found = (data.image_size, data.num_classes, len(data.train_labels), len(data.test_labels))
        said = (sizes.image_size, sizes.classes, sizes.train, sizes.test)
        assert found == pytest.approx(said, rel=0.01)


def test_a_classification_costs_three_passes_a_training_image_and_one_a_test_image() -> None:
    import nsl

    run = run_of(5, "dynamic")
    work = costs.work(run)
    assert work.passes == 3 * 250 * 32 + 5 * 20 * 40
    model = nsl.create_model("nsn10_dynamic_diagonal", 20, image_size=16, width=4)
    assert work.pass_cost == nsl.count_multiply_adds(model, 16)
    assert work.parameters == nsl.count_parameters(model)


def test_second_order_meta_learning_costs_more_than_first_order_and_adapting_more_than_features() -> None:
    second = run_of(6, "maml")
    first = replace(second, model={**second.model, "first_order": True})
    assert costs.work(second).passes > costs.work(first).passes
    assert costs.work(run_of(6, "finetune")).passes > costs.work(run_of(6, "nearest")).passes


def test_the_plan_says_runs_work_time_and_disk_by_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "CALIBRATION_SECONDS", 0.2)
    profiles = write_profile(tmp_path, seeds=2, jobs=1)
    assert main(["plan", "tiny", "--tables", "1,2", "--profiles", str(profiles)]) == 0
    lines = capsys.readouterr().out.splitlines()
    tiny = plan.profile("tiny", profiles)
    every, first = (str(len(plan.planned_runs(tiny, tables))) for tables in ((1, 2), (1,)))
    told = [line.split()[:2] for line in lines[1:4]]
    assert told == [["1", first], ["2", str(int(every) - int(first))], ["all", every]]
    assert int(every) >= 19
    assert lines[4].startswith("Here: 1 side by side with 1 threads each")
    assert lines[5].startswith("H100: 10 % of its dense peak")
    assert lines[6].startswith("Disk: data 0 bytes")
    assert list(tmp_path.glob("tiny*")) == []


class Inline:
    """A context of multiprocessing whose pool works in this process."""

    def __init__(self) -> None:
        self.processes = 0

    @contextmanager
    def Pool(self, processes: int) -> Iterator[Any]:
        self.processes = processes
        yield SimpleNamespace(map=lambda function, items, chunksize: [function(item) for item in items])


def test_with_a_card_the_plan_calibrates_there_in_one_process_what_runs_there(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: dict[str, bool] = {}

    def made_up(run: Run, threads: int, seconds: float, card: bool = False) -> float:
        measured[run.task] = card
        return 1e-6

    context = Inline()
    monkeypatch.setattr(costs, "cards", lambda: 1)
    monkeypatch.setattr(costs.multiprocessing, "get_context", lambda kind: context)
    monkeypatch.setattr(costs, "pass_seconds", made_up)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A Card")
    demo = plan.profile("demo")
    found = costs.estimate(demo, (1, "sequences"), 1, 2)
    assert (context.processes, measured) == (1, {"classification": True, "sequences": False})
    runs = plan.planned_runs(demo, (1,), 1)
    assert found.costs[0].here == pytest.approx(sum(1e-6 * costs.work(run).passes for run in runs))  # no two at a time
    assert costs.lines(found, demo, 2)[4].startswith("Here: on A Card, captured steps, as if one run followed")


def test_a_backbone_that_methods_start_from_is_paid_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "cards", lambda: 0)
    monkeypatch.setattr(costs.multiprocessing, "get_context", lambda kind: Inline())
    monkeypatch.setattr(costs, "pass_seconds", lambda *_: 1e-6)
    demo = plan.profile("demo")
    (one,) = costs.estimate(demo, (6,), 1, 1, methods=("finetune",)).costs
    (two,) = costs.estimate(demo, (6,), 1, 1, methods=("finetune", "nearest")).costs
    (seeds,) = costs.estimate(demo, (6,), 2, 1, methods=("finetune",)).costs
    assert (one.images, two.images, seeds.images) == (one.images, one.images, 2 * one.images)
    alone, beside = (costs.work(run_of(6, name)) for name in ("finetune", "nearest"))
    assert alone.images == beside.images == one.images
    assert two.here == pytest.approx(1e-6 * (alone.passes + beside.passes - 3 * one.images))


def test_no_more_processes_calibrate_than_there_are_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    context = Inline()
    monkeypatch.setattr(costs, "cards", lambda: 0)
    monkeypatch.setattr(costs.multiprocessing, "get_context", lambda kind: context)
    monkeypatch.setattr(costs, "pass_seconds", lambda *_: 1e-6)
    runs = [run_of(1, "cnn"), replace(run_of(1, "cnn"), seed=1), run_of(1, "dynamic")]
    costs.calibrate(runs, 500, 1)
    assert context.processes == 3
    costs.calibrate(runs, 2, 1)
    assert context.processes == 2


def test_on_a_card_blocks_of_steps_are_timed_after_the_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands in for the card; half a second passes with every step."""
    steps, looks = [0], []

    def step(_: Any) -> None:
        steps[0] += 1

    def clock(device: torch.device, threads: int) -> float:
        looks.append(steps[0])
        return 0.5 * steps[0]

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    monkeypatch.setattr(costs, "_seconds", clock)
    run = run_of(1, "cnn")
    batch = int(run.recipe["batch_size"])
    assert costs.pass_seconds(run, 1, 1e-3, card=True) == pytest.approx(0.5 / batch / 3)
    assert looks[0] > 3  # warm, and captured
    assert {later - sooner for sooner, later in zip(looks[::2], looks[1::2])} == {costs.CARD_STEPS}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_calibration_of_a_card_names_it() -> None:
    found = costs.calibrate([run_of(1, "cnn"), run_of(1, "dynamic")], 2, 1, 1.0)
    assert found.card == torch.cuda.get_device_name()
    assert min(found.passes.values()) > 0


@pytest.mark.parametrize("name", ["demo", "cpu", "paper"])
def test_runs_that_are_calibrated_together_have_one_network_and_its_work(name: str) -> None:
    together: dict[str, set[tuple[str, str]]] = {}
    for run in plan.planned_runs(plan.profile(name), plan.every(), 2):
        together.setdefault(costs.network_key(run), set()).add((run.task, canonical_json(run.model)))
    assert {len(networks) for networks in together.values()} == {1}


def test_a_run_that_tables_share_is_paid_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    demo = plan.profile("demo")

    def made_up(runs: list[Run], jobs: int, threads: int, seconds: float = 1.0) -> costs.Calibration:
        return costs.Calibration({costs.network_key(run): 1e-3 for run in runs}, 1.0)

    monkeypatch.setattr(costs, "calibrate", made_up)
    found = costs.estimate(demo, (1, 2, 3, 4, 5), 2, 2)
    assert sum(cost.runs for cost in found.costs) == len(plan.planned_runs(demo, (1, 2, 3, 4, 5), 2))
    for cost in found.costs:
        assert cost.here > 0
        assert cost.h100 > 0
