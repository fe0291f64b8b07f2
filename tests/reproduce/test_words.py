"""The sentence of a claim says what its row of the CSV says: the same numbers, the same verdict, the same scope."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jupytext
import pytest

from reproduce.declare import plan
from reproduce.run.store import Store
from reproduce.show import words
from reproduce.show.claim_tables import claim_rows
from reproduce.show.overview import distinct, elsewhere, overview
from reproduce.show.report import Report
from reproduce.show.rows import Table, make_table, make_tables
from reproduce.show.tables import summary, write_tables
from reproduce.verdicts.statistics import Direction, Verdict
from tests.reproduce.helpers import fill
from tests.reproduce.test_fewshot_table import put

CNN = [8.0, 8.1, 8.3]
#: Errors of static NSN beside the CNN's, whose difference is 0.63 in the paper, with what its claim comes to.
CASES = {
    "agrees": [7.0, 7.12, 7.25],
    "agrees in direction, smaller than the paper's 0.63": [7.7, 7.79, 8.01],
    "agrees in direction, larger than the paper's 0.63": [6.0, 6.08, 6.31],
    "disagrees": [9.0, 9.05, 9.35],
    "no effect of the paper's size": [8.02, 8.1, 8.29],
    "undecided (the interval holds 0 and the paper's difference)": [6.0, 8.8, 8.3],
    "undecided (2 common seeds, three decide)": [7.0, 7.4],
    "undecided (one common seed, three decide)": [7.0],
    "Not run on": [],
}


def csv_rows(store: Store, number: int) -> list[dict[str, str]]:
    with (store.folder / "tables" / f"table{number}_claims.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def made(tmp_path: Path, **errors: list[float]) -> tuple[Table, Store]:
    """Table 4 of the paper profile from records with these errors."""
    profile, store = plan.profile("paper"), Store(tmp_path, "paper")
    fill(store, profile, 4, errors)
    return write_tables((4,), profile, store)[0], store


def check(text: str, row: dict[str, str]) -> None:
    """Whether a sentence says what a row of the CSV says."""
    lower_is_better = "error" in row["quantity"]
    text, _, _ = text.partition("; beside our control")
    assert row["better"] in text
    assert row["worse"] in text
    if row["direction"] == "not run":
        assert text.startswith("Not run on ")
        assert not re.search(r"\[|seed", text)
        return
    assert row["direction"].split(" ")[0] in text
    if row["observed"]:
        assert row["observed"] in text
        return
    for part in filter(None, row["scope"].split(", ")):
        assert part in text
    placed = re.search(r"(\d+\.\d\d) points (below|above)", text)
    assert bool(placed) == bool(row["difference"])
    if placed is None:
        return
    better_side = "below" if lower_is_better else "above"
    gain = float(placed[1]) * (1 if placed[2] == better_side else -1)
    assert f"{gain:.2f}".removeprefix("-0.00") == row["difference"].removeprefix("-0.00")
    ends = re.search(r"\[(-?\d+\.\d\d), (-?\d+\.\d\d)\](?: at ([\d.]+) %)?", text)
    assert bool(ends) == bool(row["difference_ci_low"])
    if ends is not None:
        low, high = float(ends[1]), float(ends[2])
        low, high = (low, high) if gain > 0 or not row["difference"].startswith("-") else (-high, -low)
        assert (f"{low:.2f}", f"{high:.2f}") == (row["difference_ci_low"], row["difference_ci_high"])
        assert (ends[3] or "95") == row["level"]
    if row["unit"] == "episode":
        assert f"{row['replicates']} episodes" in text
    else:
        seeds = int(row["seeds"])
        assert f"{words.number_word(seeds)} seed{'' if seeds == 1 else 's'}" in text
    in_the_paper = re.search(r"in the paper (\d+\.\d\d) (below|above)", text)
    if in_the_paper is not None:
        sign = 1 if in_the_paper[2] == better_side else -1
        assert f"{sign * float(in_the_paper[1]):.2f}" == row["paper_difference"]


@pytest.mark.parametrize("said", CASES)
def test_every_verdict_has_a_sentence_that_equals_its_row_of_the_csv(said: str, tmp_path: Path) -> None:
    table, store = made(tmp_path, cnn=CNN, static=CASES[said])
    rows = csv_rows(store, 4)
    assert len(rows) == len(table.claims)
    for judged, row in zip(table.claims, rows):
        check(words.sentence(judged), row)
    assert said in words.sentence(table.claims[0])


def test_a_claim_of_similarity_says_within_what(tmp_path: Path) -> None:
    def of(*errors: float) -> str:
        table, store = made(tmp_path, static=CNN, static_uns=list(errors))
        similar = next(judged for judged in table.claims if judged.claim.kind == "similar")
        row = csv_rows(store, 4)[table.claims.index(similar)]
        check(words.sentence(similar), row)
        return words.sentence(similar)

    assert "agrees: similar within 0.25 points" in of(8.01, 8.1, 8.29)
    assert "disagrees: not similar within" in of(9.0, 9.11, 9.31)
    assert "undecided (the interval is not within" in of(8.0, 9.0, 7.0)


def test_a_diverged_run_is_said_to_leave_no_difference(tmp_path: Path) -> None:
    from tests.reproduce.helpers import put_record

    _, store = made(tmp_path, cnn=CNN, static=CNN)
    profile = plan.profile("paper")
    run = profile.run(plan.experiment(4).method("static"), "cifar10", 2)
    put_record(store, run, float("nan"), status="diverged")
    table = write_tables((4,), profile, store)[0]
    text = words.sentence(table.claims[0])
    check(text, csv_rows(store, 4)[0])
    assert "undecided (a run diverged)" in text


def test_few_shot_sentences_are_of_these_trainings_and_their_episodes(tmp_path: Path) -> None:
    profile, store = plan.profile("cpu"), Store(tmp_path, "cpu")
    put(store, profile, "static", [70, 71, 69])
    put(store, profile, "finetune", [50, 52, 48])
    put(store, profile, "dynamic", [50, 50, 50])
    put(store, profile, "linear", [51, 52, 50])
    table = write_tables((6,), profile, store)[0]
    texts = [words.sentence(judged) for judged in table.claims]
    for text, row in zip(texts, csv_rows(store, 6)):
        check(text, row)
    scope = "3 episodes, other widths than full, in bfloat16, these trainings only, one a method"
    assert f"{scope}: Static NSN" in texts[0]
    assert "points above Finetuning baseline in accuracy" in texts[0]
    control = next(text for text, judged in zip(texts, table.claims) if judged.claim.control)
    assert control.endswith("a control of ours, no claim of the paper.")


def test_the_count_names_every_claim_of_the_paper_once(tmp_path: Path) -> None:
    table, _ = made(tmp_path, cnn=CNN, static=CASES["disagrees"])
    text = words.count(table.claims)
    numbers = [int(found) for found in re.findall(r"\d+", re.sub(r" \([^)]*\)", "", text))]
    assert numbers[0] == sum(numbers[1:]) == len(table.claims)
    assert words.count([]) == "No claim of the paper is about this."


def test_the_count_says_which_verdicts_needed_no_training(tmp_path: Path) -> None:
    table, _ = made(tmp_path)
    text = words.count(table.claims)
    chosen = r"; \d+ by how our networks were chosen, the paper giving no sizes"
    assert re.search(rf" \d+ agree \(all counted or computed, without training{chosen}\)", text)
    table, _ = made(tmp_path, cnn=CNN, static=CASES["agrees"])
    text = words.count(table.claims)
    assert re.search(rf" \d+ agree \(\d+ of them counted or computed, without training{chosen}\)", text)


def test_what_no_run_decides_is_in_the_summary_of_every_profile_without_records(tmp_path: Path) -> None:
    text = summary(plan.profile("cpu"), Store(tmp_path, "cpu"))
    for key in plan.beyond():
        assert f"## Beyond the paper: {plan.experiment(key).title}" in text
    assert "Computed in float64, without data or training: " in text
    assert "Of 8 claims 1 agrees (computed, without training) and 7 were not run; two controls of ours not" in text
    assert "no claim of the paper; the paper names the application and reports no result; the dynamic network" in text
    assert "illegible" not in text.partition("## Beyond")[2]


def test_the_overview_puts_every_claim_of_the_paper_under_what_came_out(tmp_path: Path) -> None:
    table, _ = made(tmp_path, cnn=CNN, static=CASES["agrees"], static_uns=CASES["disagrees"], dynamic=[7.0])
    text = overview([table])
    assert words.count(table.claims) in text
    parts = dict(re.findall(r"^\*\*(What[^*]+)\*\*\n\n(.*?)(?=^\*\*|\Z)", text, flags=re.DOTALL | re.MULTILINE))
    named = {Direction.AGREES: "What stands", Direction.DISAGREES: "What does not stand"}
    for judged in table.claims:
        if judged.verdict.direction in named:
            assert judged.claim.words.rstrip(".") in parts[named[judged.verdict.direction]]
            if not judged.verdict.counted:
                assert words.sentence(judged) in parts[named[judged.verdict.direction]]
    few = [judged for judged in table.claims if judged.verdict.direction == Direction.UNDECIDED]
    assert f"Undecided: {words.number_word(len(few))} comparison" in parts["What is open"]
    left = sum(judged.verdict.direction == Direction.NOT_RUN for judged in table.claims)
    assert f"Not run: {left} claims" in parts["What is open"]


def test_claims_of_several_tables_about_the_same_runs_are_told_once(tmp_path: Path) -> None:
    profile, store = plan.profile("paper"), Store(tmp_path, "paper")
    fill(store, profile, 1, {"cnn": [8.0], "dynamic": [7.0]})
    tables = [make_table(number, profile, store) for number in (1, 2, 3, 4)]
    undecided = [shown for shown in distinct(tables) if shown.judged.verdict.direction == Direction.UNDECIDED]
    same = [shown for shown in undecided if shown.judged.claim.kind == "better"]
    assert [shown.where for shown in same] == ["Tables 1, 2, 3 and 4"]
    said = "two comparisons (claimed 5 times, since tables share runs), all with fewer than three seeds"
    assert said in overview(tables)


def test_the_stored_results_say_in_words_what_their_csv_says() -> None:
    profile, store = plan.profile("cpu"), Store(Path(__file__).parents[2] / "results", "cpu")
    for number in plan.every():
        table = make_table(number, profile, store)
        for judged, row in zip(table.claims, claim_rows(table)):
            check(words.sentence(judged), row)


def test_the_answer_stands_in_the_summary_and_ends_every_tables_notebook(tmp_path: Path) -> None:
    table, store = made(tmp_path, cnn=CNN, static=CASES["agrees"])
    answer = words.answer(table, {})
    assert words.sentence(table.claims[0]) in answer
    assert answer in summary(plan.profile("paper"), store)
    assert Report(4, "paper", tmp_path).answer().data == answer
    for number in plan.tables():
        cells = jupytext.read(Path(__file__).parents[2] / "notebooks" / f"table{number}.py").cells
        assert cells[-1].source == "report.answer()"


def test_a_table_names_what_others_say_of_the_same_runs(tmp_path: Path) -> None:
    profile, store = plan.profile("paper"), Store(tmp_path, "paper")
    # A gap that Table 3, with fewest comparisons, decides and Table 4 does not.
    fill(store, profile, 3, {"cnn": [8.0, 8.1, 8.3], "dynamic": [7.65, 7.62, 7.95]})
    tables = make_tables(plan.every(), profile, store)
    said = elsewhere(tables)
    directions = {
        table.experiment.table: judged.verdict.direction
        for table in tables
        for judged in table.claims
        if (judged.better.key, judged.worse.key, judged.slot) == ("dynamic", "cnn", "cifar10")
    }
    assert len(set(directions.values())) > 1, directions
    for table in tables:
        answer = words.answer(table, said)
        for place, judged in enumerate(table.claims):
            other = said.get((table.experiment.table, place), "")
            assert bool(other) == (other in answer and other != "")
            assert f"{judged.verdict.direction} in" not in other
    assert Report(3, "paper", tmp_path).answer().data == words.answer(tables[2], said)
    assert "undecided in Table 4 and beyond the paper, among other claims." in words.answer(tables[2], said)


def test_values_of_common_seeds_are_said_where_a_row_has_others(tmp_path: Path) -> None:
    table, _ = made(tmp_path, cnn=CNN, static=CASES["undecided (2 common seeds, three decide)"])
    assert "(seed 0 7.00 against 8.00, seed 1 7.40 against 8.10)" in words.sentence(table.claims[0])
    same, _ = made(tmp_path / "same", cnn=CNN, static=CASES["agrees"])
    assert "(seed" not in words.sentence(same.claims[0])


def test_a_claim_of_more_parameters_says_how_many_more(tmp_path: Path) -> None:
    table, _ = made(tmp_path, cnn=CNN)
    more = [judged for judged in table.claims if judged.claim.more]
    found = {(judged.dataset, judged.claim.words): words.sentence(judged) for judged in more}
    said = found["CIFAR-10", "Dynamic NSN with DNS has slightly more parameters than the baseline CNN."]
    assert "the second has 74.0 % more parameters: 889,632 against 511,200 (1.74 times)" in said
    assert all("fewer" not in sentence for sentence in found.values())


def test_decided_claims_of_methods_that_did_nothing_of_their_own_are_counted_apart() -> None:
    def judged(direction: Direction, *vain: str) -> Any:
        claim = SimpleNamespace(control=False, kind="better", built=False)
        return SimpleNamespace(claim=claim, verdict=Verdict(direction, vain=vain))

    every = [judged(Direction.AGREES), judged(Direction.AGREES, "A"), judged(Direction.UNDECIDED, "A")]
    assert words.count(every) == (
        "Of 3 claims 2 agree (1 of a method that did nothing of what it is about) and 1 is undecided."
    )
