"""Tables show the stored records, the paper's legible values and the verdicts, and nothing else."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from reproduce.declare import plan
from reproduce.declare.plan import Profile
from reproduce.run.store import RecordError, Store
from reproduce.show.claim_tables import markdown_claims
from reproduce.show.rows import make_table
from reproduce.show.tables import write_tables
from tests.reproduce.helpers import MARK, fill, put_record, write_profile

COLUMNS = (
    "table,dataset,method,metric,paper,ours_mean,ours_ci_low,ours_ci_high,level,seeds,seed_values,train_error,"
    "parameters,train_seconds,direction,note,scope"
)
TOP5 = ",paper_top5,ours_top5_mean,ours_top5_ci_low,ours_top5_ci_high"


def read(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return {f"{row['dataset']}/{row.get('method') or row['claim']}": row for row in csv.DictReader(stream)}


@pytest.fixture
def paper(tmp_path: Path) -> Profile:
    return plan.profile("paper")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results", "paper")


def test_the_columns_are_the_agreed_ones(paper: Profile, store: Store) -> None:
    write_tables((1,), paper, store)
    lines = (store.folder / "tables" / "table1.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == COLUMNS
    assert len(lines) == 1 + len(plan.experiment(1).methods)


def test_three_seeds_give_means_intervals_and_verdicts(paper: Profile, store: Store) -> None:
    fill(
        store,
        paper,
        1,
        {"cnn": [8.0, 8.1, 8.2], "dynamic_cnn": [7.4, 7.4, 7.5], "dynamic": [7.6, 7.65, 7.7]},
        dynamic=2000,
    )
    write_tables((1,), paper, store)
    rows = read(store.folder / "tables" / "table1.csv")
    baseline = rows["CIFAR-10/Baseline CNN"]
    assert (baseline["paper"], baseline["ours_mean"], baseline["direction"]) == ("7.78", "8.10", "reference")
    assert (baseline["ours_ci_low"], baseline["ours_ci_high"], baseline["level"]) == ("7.85", "8.35", "95")
    assert baseline["seed_values"] == "8.00, 8.10, 8.20"
    sphere = rows["CIFAR-10/Dynamic NSN (SphereNet predictor)"]
    assert (sphere["seeds"], sphere["parameters"], sphere["train_seconds"]) == ("3", "2000", "10.0")
    # It beats the CNN, but not the CNN predictor, which the paper also claims.
    assert sphere["direction"] == "disagrees"
    claims = read(store.folder / "tables" / "table1_claims.csv")
    rest = ["not run", "agrees", "agrees", "not run", "not run"]  # without the identity, converging, not converging
    assert [row["direction"] for row in claims.values()] == ["disagrees", "agrees", "agrees", *rest]
    first = next(iter(claims.values()))
    # Positive as claimed: the paper's SphereNet is better by 0.19, ours is worse by 0.22.
    assert (first["paper_difference"], first["difference"], first["seeds"]) == ("0.19", "-0.22", "3")
    assert (first["unit"], first["replicates"], first["seed_values"]) == ("seed", "3", "-0.20, -0.25, -0.20")


def test_the_levels_are_holms_over_the_claims_of_the_table(paper: Profile, store: Store) -> None:
    fill(
        store,
        paper,
        1,
        {"cnn": [8.0, 8.1, 8.2], "dynamic_cnn": [7.5, 7.5, 7.9], "dynamic": [7.0, 7.1, 7.3]},
    )
    table = make_table(1, paper, store)
    levels = [judged.difference.level for judged in table.claims[:3] if judged.difference]
    # Of four pairs, of which one is not run: the p values are below 5 % / 4, 5 % / 3 and 5 % / 2.
    assert levels == pytest.approx([1 - 0.05 / 3, 1 - 0.05 / 4, 0.975])
    directions = [str(judged.verdict.direction) for judged in table.claims]
    assert directions == [*3 * ["agrees"], "not run", "agrees", "agrees", "not run", "not run"]
    assert "98.33 %" in markdown_claims(table)


def test_one_seed_has_no_interval_and_no_verdict(paper: Profile, store: Store) -> None:
    fill(store, paper, 1, {"cnn": [8.0], "dynamic": [7.0]})
    write_tables((1,), paper, store)
    row = read(store.folder / "tables" / "table1.csv")["CIFAR-10/Dynamic NSN (SphereNet predictor)"]
    assert (row["ours_mean"], row["ours_ci_low"], row["ours_ci_high"]) == ("7.00", "", "")
    assert (row["direction"], row["note"]) == ("undecided", "one common seed, three decide")
    claim = read(store.folder / "tables" / "table1_claims.csv")[
        "CIFAR-10/Dynamic NSN with a SphereNet predictor beats the baseline CNN."
    ]
    assert (claim["difference"], claim["difference_ci_low"], claim["level"]) == ("1.00", "", "")


def test_two_seeds_are_shown_instead_of_an_interval(paper: Profile, store: Store) -> None:
    fill(store, paper, 1, {"cnn": [8.0, 8.5], "dynamic": [7.0, 7.4]})
    table = write_tables((1,), paper, store)[0]
    row = read(store.folder / "tables" / "table1.csv")["CIFAR-10/Baseline CNN"]
    assert (row["ours_mean"], row["ours_ci_low"], row["seed_values"]) == ("8.25", "", "8.00, 8.50")
    judged = table.claims[1]
    assert judged.verdict.short() == "undecided (2 common seeds, three decide)"
    assert "| 1.00, 1.10 |" in markdown_claims(table)


def test_what_was_not_run_is_empty(paper: Profile, store: Store) -> None:
    write_tables((2,), paper, store)
    rows = read(store.folder / "tables" / "table2.csv")
    assert {row["direction"] for row in rows.values()} == {"not run"}
    assert {row["ours_mean"] + row["parameters"] + row["train_seconds"] for row in rows.values()} == {""}


def test_illegible_paper_values_stay_empty(paper: Profile, store: Store) -> None:
    write_tables((2, 4), paper, store)
    assert read(store.folder / "tables" / "table2.csv")["CIFAR-10/Static NSN (J)"]["paper"] == ""
    table4 = read(store.folder / "tables" / "table4.csv")
    assert table4["CIFAR-100/Baseline CNN"]["paper"] == ""
    assert table4["CIFAR-10/Dynamic NSN w/ UNS"]["paper"] == ""


def test_other_data_and_widths_are_a_scope_beside_the_direction(tmp_path: Path) -> None:
    demo = plan.profile("demo")
    store = Store(tmp_path, "demo")
    fill(store, demo, 1, {"cnn": [9.0, 9.1, 9.0], "dynamic_cnn": [8.0, 8.1, 8.0], "dynamic": [7.0, 7.1, 7.0]})
    rows = write_tables((1,), demo, store)[0].rows
    # Of dynamic NSN the paper also says that it beats the one without identity, which is not run.
    directions = [str(row.verdict.direction) for row in rows]
    assert directions[:3] == ["reference", "agrees", "undecided"]
    assert set(directions[3:]) == {"not run"}
    scope = str(rows[1].verdict.scope)
    assert scope.startswith("digits for CIFAR-10, width 8 (full: 32), ")
    assert scope.endswith(" % of the paper's training")
    assert rows[0].dataset == "digits (for CIFAR-10)"


def test_a_diverged_run_is_shown_as_such(paper: Profile, store: Store) -> None:
    fill(store, paper, 1, {"cnn": [8.0, 8.1, 8.2], "dynamic": [7.0, 7.1, 7.2]})
    run = paper.run(plan.experiment(1).method("dynamic"), "cifar10", 3)
    put_record(store, run, float("nan"), status="diverged")
    write_tables((1,), paper, store)
    row = read(store.folder / "tables" / "table1.csv")["CIFAR-10/Dynamic NSN (SphereNet predictor)"]
    assert (row["direction"], row["note"]) == ("undecided", "a run diverged; 1 of 4 runs diverged")
    assert (row["seeds"], row["ours_mean"]) == ("4", "7.10")


def test_the_summary_says_what_the_shared_predictor_saves_without_any_run(paper: Profile, store: Store) -> None:
    table = make_table(3, paper, store)
    saving = next(judged for judged in table.claims if judged.claim.kind == "fewer_parameters")
    assert str(saving.verdict.direction) in ("agrees", "disagrees")
    assert saving.difference is not None
    assert f"| {saving.difference.mean:.1f} % fewer parameters: " in markdown_claims(table)


def test_a_run_shared_by_tables_gives_the_same_row_in_each(paper: Profile, store: Store) -> None:
    fill(store, paper, 1, {"cnn": [8.0, 8.5]})
    found = [make_table(number, paper, store).row("cifar10", "cnn").values() for number in (1, 2, 3, 4)]
    assert found == 4 * [{0: 8.0, 1: 8.5}]


def test_records_of_another_declaration_or_other_data_are_not_used(tmp_path: Path) -> None:
    profile = plan.profile("tiny", write_profile(tmp_path, iterations=6))
    store = Store(tmp_path / "results", "tiny")
    fill(store, profile, 1, {"cnn": [8.0]})
    longer = plan.profile("tiny", write_profile(tmp_path, iterations=7))
    assert make_table(1, longer, store).row("cifar10", "cnn").records == {}
    (store.folder / "data.json").write_text((store.folder / "data.json").read_text().replace(MARK, "f" * 16))
    assert make_table(1, profile, store).row("cifar10", "cnn").records == {}


def test_a_damaged_record_stops_the_table(paper: Profile, store: Store) -> None:
    fill(store, paper, 1, {"cnn": [8.0]})
    next(store.runs.iterdir()).write_text("{", encoding="utf-8")
    with pytest.raises(RecordError, match="delete the file to run it again"):
        make_table(1, paper, store)


def test_the_summary_names_every_table_and_its_budget(paper: Profile, store: Store) -> None:
    fill(store, paper, 1, {"cnn": [8.0]})
    write_tables((1,), paper, store)
    text = (store.folder / "summary.md").read_text(encoding="utf-8")
    assert [f"## Table {number}" in text for number in plan.tables()] == len(plan.tables()) * [True]
    assert "64000 iterations of 128 images (8,192,000 images, 100 % of the paper's)" in text


def test_table_5_has_top_5_errors_and_multiply_adds_beside_the_papers(paper: Profile, store: Store) -> None:
    experiment = plan.experiment(5)
    fill(store, paper, 5, {})
    for key, error, top5 in (("cnn", 43.0, 19.0), ("cnnpp", 42.0, 18.5), ("dynamic", 40.0, 17.5)):
        for seed in range(3):
            run = paper.run(experiment.method(key), "imagenet", seed)
            record = put_record(store, run, error + seed / 10)
            result = {**record["result"], "test_top5_error": top5 + seed / 10}
            store.write({**record, "result": result, "multiply_adds": 600_000_000})
    table = write_tables((5,), paper, store)[0]
    lines = (store.folder / "tables" / "table5.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == COLUMNS.replace(",seeds", TOP5 + ",seeds").replace("parameters", "parameters,multiply_adds")
    row = read(store.folder / "tables" / "table5.csv")["ImageNet/Dynamic NSN w/ DNS"]
    assert (row["paper"], row["ours_mean"], row["paper_top5"], row["ours_top5_mean"]) == (
        "40.61",
        "40.10",
        "18.04",
        "17.60",
    )
    assert row["multiply_adds"] == "600000000"
    assert [str(judged.verdict.direction) for judged in table.claims] == 6 * ["agrees"]
    papers = [judged.paper for judged in table.claims]
    assert papers.pop(2) is None  # the baseline's top-1 error is illegible
    assert papers == pytest.approx([1.50, 0.94, 1.07, 0.13, 1.04], abs=0.01)


def test_a_row_beyond_the_paper_that_no_claim_is_about_says_so(paper: Profile, store: Store) -> None:
    fill(store, paper, 1, {"cnn": [8.0], "dynamic_release": [9.0]})
    verdicts = {row.method.key: row.verdict.direction for row in make_table(1, paper, store).rows}
    assert verdicts["dynamic_release"] == "no claim"
    assert verdicts["dynamic_no_identity"] == "not run"
