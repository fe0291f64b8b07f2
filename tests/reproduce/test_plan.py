"""The declared experiments and profiles are complete and say what the paper says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reproduce import commands
from reproduce.declare import plan
from reproduce.tasks import CLASSIFICATION
from tests.reproduce.helpers import write_profile

PROFILES = ("demo", "cpu", "paper")


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_fills_every_slot_of_every_table(name: str) -> None:
    profile = plan.profile(name)
    runs = plan.planned_runs(profile, plan.tables(CLASSIFICATION))
    assert len(runs) >= 22 * profile.seeds + 1  # a row beyond the paper has one seed
    few_shot = plan.planned_runs(profile, plan.tables("few-shot"))
    assert len(few_shot) == len(plan.experiment(6).methods) * profile.slots["mini_imagenet"].seeds


@pytest.mark.parametrize("name", PROFILES)
def test_every_method_of_a_table_sees_the_same_number_of_images(name: str) -> None:
    profile = plan.profile(name)
    for slot in ("cifar10", "cifar100"):
        methods = plan.experiment(4).methods
        assert len({profile.run(method, slot, 0).images for method in methods}) == 1


@pytest.mark.parametrize("name", PROFILES)
def test_recipes_and_models_are_known_to_nsl(name: str) -> None:
    import nsl
    from nsl.training import Recipe

    profile = plan.profile(name)
    for run in plan.planned_runs(profile, plan.tables(CLASSIFICATION), 1):
        assert Recipe(**run.recipe).as_dict() == run.recipe
        assert run.model["name"] in nsl.list_models()


def test_the_paper_profile_is_the_papers_protocol() -> None:
    paper = plan.profile("paper")
    recipe = paper.slots["cifar10"].recipe
    assert (recipe["iterations"], recipe["batch_size"], recipe["learning_rate"]) == (64_000, 128, 0.1)
    assert [milestone * 64_000 for milestone in recipe["milestones"]] == [34_000, 54_000]
    assert (recipe["momentum"], recipe["schedule"], recipe["label_smoothing"]) == (0.9, "steps", 0.0)
    assert (paper.seeds, paper.width, paper.slots["cifar10"].budget) == (5, 32, 1.0)
    photos = paper.slots["imagenet"].recipe
    assert (photos["iterations"], photos["batch_size"], photos["learning_rate"]) == (600_000, 128, 0.1)
    assert [round(milestone * 600_000) for milestone in photos["milestones"]] == [200_000, 375_000, 550_000]
    assert photos["augment"] == "window_flip"
    few = paper.slots["mini_imagenet"]
    episodes = few.recipe["episodes"]
    assert [episodes[name] for name in ("way", "shot", "query", "count")] == [5, 5, 15, 600]
    assert few.width_of(plan.experiment(6).method("proto")) == 32


@pytest.mark.parametrize("name", PROFILES)
def test_another_budget_is_the_same_run_with_other_iterations(name: str) -> None:
    profile, declared = plan.profile(name), plan.experiment("budget").within(name)
    for method in declared.methods:
        whole = profile.run(plan.experiment(4).method(method.key), "cifar10", 0)
        assert profile.run(method, "cifar10", 0).declared("") == whole.declared("")
        for slot in (found for found in declared.datasets if found in profile.slots):
            run, times = profile.run(method, slot, 0), profile.slots[slot].times
            iterations = round(times * whole.recipe["iterations"])
            assert run.declared("") == replace(whole, recipe={**whole.recipe, "iterations": iterations}).declared("")
            assert profile.slots[slot].budget == pytest.approx(times * profile.slots["cifar10"].budget, rel=1e-3)
    titles = [profile.slots[slot].title for slot in declared.datasets if slot in profile.slots]
    assert titles[0] == f"{profile.slots['cifar10'].title}, {'1/5' if name == 'demo' else '1/4'} of the budget"
    assert len(set(titles)) == len(titles)


def test_a_budget_of_a_slot_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = write_profile(tmp_path)
    path.write_text(path.read_text("utf-8") + '[tiny.slot.long]\nof = "cifar11"\ntimes = 4.0\n', "utf-8")
    with pytest.raises(ValueError, match=r"profiles.toml: profile 'tiny' is incomplete or misspelt \('cifar11'\)"):
        plan.profile("tiny", path)


def test_illegible_paper_values_are_absent() -> None:
    assert plan.experiment(2).method("static_joint").paper == {}
    assert "cifar100" not in plan.experiment(4).method("cnn").paper
    assert "cifar10" not in plan.experiment(4).method("dynamic_uns").paper


def test_a_method_has_the_same_paper_value_in_every_table() -> None:
    values: dict[tuple[str, str], set[float]] = {}
    for number in plan.tables():
        for method in plan.experiment(number).methods:
            for slot, value in method.paper.items():
                key = method.model + method.backbone + str(method.options)
                values.setdefault((key, slot), set()).add(value)
    assert all(len(found) == 1 for found in values.values())


@pytest.mark.parametrize(
    ("text", "numbers"),
    [(None, plan.tables()), ("", plan.tables()), ("2", (2,)), ("1-3", (1, 2, 3)), ("4,1 4", (4, 1))],
)
def test_tables_are_chosen_by_numbers_lists_and_ranges(text: str | None, numbers: tuple[int, ...]) -> None:
    assert plan.parse_tables(text) == numbers


@pytest.mark.parametrize(
    ("text", "word"), [("one", "not understood"), ("1-x", "not understood"), ("9", "not declared")]
)
def test_tables_that_do_not_exist_are_refused(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        plan.parse_tables(text)


@pytest.mark.parametrize(("text", "words"), [("3-1", "runs backwards at 3-1"), ("1-300000000", "table 300000000")])
def test_ranges_that_run_backwards_or_far_beyond_the_tables_are_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plan.parse_tables(text)


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"PROFILE='nope' is unknown; choose one of: demo, cpu, paper, paper-bf16\."):
        plan.profile("nope")


def test_a_misspelt_profile_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "profiles.toml"
    path.write_text("[demo]\nwidht = 8\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"profiles\.toml: profile 'demo' is incomplete or misspelt"):
        plan.profile("demo", path)


def test_runs_that_would_wait_for_anothers_pretraining_come_last() -> None:
    profile = plan.profile("cpu")
    runs = plan.planned_runs(profile, (6,), 1)
    jobs = [(run, "") for run in runs]
    ordered = [run.model["name"] for run, _ in sorted(jobs, key=commands._shares(jobs))]
    # Baseline++ and discriminative k-shot have classifiers of their own and wait for nobody.
    late = {"nearest", "static_nsn", "meta_static_nsn", "meta_dynamic_nsn", "finetune_classifier"}
    assert set(ordered[-6:]) == late
    classification = [(run, "") for run in plan.planned_runs(profile, (1, 4), 1)]
    assert sorted(classification, key=commands._shares(classification)) == classification


def test_the_few_shot_table_has_its_own_number_of_processes() -> None:
    profile = plan.profile("cpu")
    assert (profile.jobs_for((6,)), profile.jobs_for((1, 6)), profile.jobs_for((4,))) == (2, 2, 2)
    assert {run.threads for run in plan.planned_runs(profile, (6,), 1)} == {1}
    assert plan.profile("demo").jobs_for((6,)) == plan.profile("demo").jobs


def test_the_paper_profile_finishes_a_table_before_the_next_and_the_others_go_seed_by_seed() -> None:
    runs = plan.planned_runs(plan.profile("paper"), (5, 1, 2))
    assert [run.dataset["name"] for run in runs] == sorted(run.dataset["name"] for run in runs)  # ImageNet last
    seeds = [run.seed for run in runs]
    first = len(plan.planned_runs(plan.profile("paper"), (2,)))  # the smaller one of the two
    assert seeds[:first] == sorted(seeds[:first])
    assert (seeds[first - 1], seeds[first]) == (4, 0)
    others = [run.seed for run in plan.planned_runs(plan.profile("cpu"), (1, 2))]
    assert others == sorted(others)


def test_another_precision_is_another_profile_and_nothing_else_differs() -> None:
    paper, other = plan.profile("paper"), plan.profile("paper-bf16")
    for first, second in zip(plan.planned_runs(paper, plan.tables()), plan.planned_runs(other, plan.tables())):
        if first.model["name"] in ("leo", "meta_static_nsn"):  # meta-trained in float32 everywhere
            assert [second.recipe[part]["precision"] for part in ("pretrain", "meta")] == ["bfloat16", "float32"]
            meta = {**first.recipe["meta"], "precision": "bfloat16"}
            second = replace(second, recipe={**second.recipe, "meta": meta})
        assert repr(first).replace("'float32'", "'bfloat16'") == repr(second)


def test_tables_beyond_the_paper_are_chosen_by_their_names_and_are_no_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reproduce.declare import experiments

    text = (Path(__file__).parent / "beyond_toys.toml").read_text(encoding="utf-8")
    text = text.replace('"toy"', '"classification"').replace("0.3", "0.2")
    for path in plan.EXPERIMENTS.glob("table*.toml"):
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    for name in ("robust", "long"):
        (tmp_path / f"beyond_{name}.toml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(experiments, "EXPERIMENTS", tmp_path)
    for cached in (experiments.experiment, experiments.tables, experiments.beyond):
        cached.cache_clear()
    try:
        assert plan.parse_tables(None) == (1, 2, 3, 4, 5, 6)
        assert plan.parse_tables("beyond") == ("long", "robust")
        assert plan.parse_tables("1 robust beyond_long") == (1, "robust", "long")
        assert plan.experiment("robust").stem == "beyond_robust"
        (tmp_path / "table7.toml").write_text(text, encoding="utf-8")
        experiments.tables.cache_clear()
        with pytest.raises(ValueError, match=r"the paper has 6 tables.*call a table of your own beyond_NAME\.toml"):
            plan.parse_tables(None)
    finally:
        for cached in (experiments.experiment, experiments.tables, experiments.beyond):
            cached.cache_clear()


@pytest.mark.parametrize("text", [",", "-", "1-", "-1", "1.5", "\u00b2", "1--2", "0", "beyond_none", "1" * 30])
def test_every_wrong_table_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="TABLES"):
        plan.parse_tables(text)
