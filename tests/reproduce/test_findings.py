"""The page of what stands says of every claim what its verdict says, and what would decide those that are open."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import scipy.stats

from reproduce.declare import plan
from reproduce.run.store import Store
from reproduce.show import decision, findings, flat, words
from reproduce.show.overview import distinct
from reproduce.show.rows import shown_tables
from reproduce.show.tables import write_tables
from reproduce.verdicts.judge import Judged
from reproduce.verdicts.statistics import Direction, Interval, Verdict, mean_interval
from tests.reproduce.helpers import fill, put_record
from tests.reproduce.test_fewshot_table import put

RESULTS = Path(__file__).parents[2] / "results"
PAPER = plan.profile("paper")


def sections(page: str) -> dict[str, str]:
    """The text below every heading."""
    parts = re.split(r"^## (.*)$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def check(page: str, profile: plan.Profile, store: Store) -> None:
    """Whether a page has every claim once, under the heading of its direction, in the verdict's own sentence."""
    tables, found = shown_tables(profile, store), sections(page)
    told = distinct(tables)
    claims = [shown.judged for shown in told]
    counts = re.findall(r"^- .*: \*\*(Of .*?)\*\*", page.partition("\n## ")[0], flags=re.MULTILINE)
    own = sum(not judged.claim.control for judged in claims)
    assert sum(int(text.split()[1]) for text in counts) == own
    untrained = [judged for judged in claims if judged.claim.kind in ("fewer_parameters", "computed")]
    untrained = [judged for judged in untrained if not judged.claim.control]
    if untrained:
        assert f"- Sizes of networks and identities: **{words.count(untrained)}**" in page
    lines = [line for text in found.values() for line in text.splitlines() if line.startswith("- ")]
    ledger = sum(line.startswith("- **") for line in lines)
    every = [row for text in found.values() for row in rows(text)]
    assert len(lines) - ledger + len(every) == len(claims)
    for shown in told:
        judged, verdict = shown.judged, shown.judged.verdict
        (heading,) = [name for name, those in findings.HEADINGS.items() if verdict.direction in those]
        text = found["Controls of ours" if judged.claim.control else heading]
        if not (judged.claim.control or verdict.counted or verdict.direction in findings.OPEN):
            assert f"*{judged.claim.words}* {words.sentence(judged).removesuffix('.')}" in text
            continue
        # Bars are escaped in cells.
        told_of = [row for row in rows(text) if row[1].replace("\\|", "|") == judged.claim.words]
        cells = [cell.replace("\\|", "|") for row in told_of for cell in row]
        assert judged.dataset in " ".join(cells)
        seen = words.observed(judged) if verdict.counted else words.signed(judged)
        assert (seen or "–") in cells
        assert any(verdict.note() in cell for cell in cells)


def rows(text: str) -> list[list[str]]:
    """The cells of the rows of a text's tables."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| Where |")]
    return [re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |")) for line in lines]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Records of Table 4 of which some claims agree, disagree, are undecided or were not run."""
    made = Store(tmp_path, "paper")
    errors = {"cnn": [8.0, 8.1, 8.3], "static": [7.0, 7.1, 7.3], "static_uns": [9.0, 9.1, 9.3]}
    fill(made, PAPER, 4, {**errors, "cnnpp": [7.0, 9.0, 8.1], "dynamic": [7.5]})
    return made


def test_every_claim_stands_under_the_heading_of_its_verdict(store: Store) -> None:
    write_tables((4,), PAPER, store)
    page = (store.folder / "findings.md").read_text("utf-8")
    check(page, PAPER, store)
    assert set(findings.HEADINGS) - {"Where no effect of the paper's size is seen"} < set(sections(page))


def test_the_pages_of_the_stored_results_say_what_the_verdicts_say() -> None:
    cpu = plan.profile("cpu")
    page = findings.page(cpu, Store(RESULTS, "cpu"))
    check(page, cpu, Store(RESULTS, "cpu"))
    ledger = json.loads((RESULTS / "theory" / "claims.json").read_text("utf-8"))["claims"]
    text = sections(page)["Section 5, numerically"]
    for claim in ledger:
        assert (f"- **{claim['verdict']}** (claim {claim['number']};" in text) == ("paper" in claim["source"])


def takes(page: str, words: str, data: str = "", table: str = "4") -> str:
    """What a decision takes, of the row with these words in a table of open claims."""
    of_claim = [row for row in rows(page) if row[1] == words and re.match(rf"Tables? [^:]*{table}\b", row[0])]
    (found,) = [row for row in of_claim if f"{row[2]} ".startswith(data)]
    return found[-1]


def test_too_few_seeds_ask_for_the_missing_runs_and_their_time(store: Store) -> None:
    page = findings.page(PAPER, store)
    open_ = takes(page, "Dynamic NSN with DNS beats the baseline CNN.", "CIFAR-10;")
    assert open_ == "3 seeds of each: 2 more runs, about 24 s"
    unknown = takes(page, "Dynamic NSN with UNS beats the baseline CNN.", "CIFAR-10 ")
    assert unknown == "3 seeds of each: 3 more runs, for which no stored run tells the time"


def test_the_number_of_seeds_is_the_first_whose_interval_is_shorter_than_the_papers_difference(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision, "MOST", 1000)
    table = next(table for table in shown_tables(PAPER, store) if table.experiment.table == 4)
    judged = next(j for j in table.claims if j.claim.words == "CNN++ beats the baseline CNN." and j.slot == "cifar10")
    text = takes(findings.page(PAPER, store), judged.claim.words, "CIFAR-10;")
    found = re.search(r"^at most (\d+) seeds: (\d+) more runs", text)
    assert found is not None
    assert judged.paper == pytest.approx(0.49)
    assert judged.verdict.interval is not None
    count, level = int(found[1]), judged.verdict.interval.level
    assert int(found[2]) == 2 * (count - 3)
    first = [8.0 - 7.0, 8.1 - 9.0, 8.3 - 8.1]
    middle = sum(first) / 3
    spread = (sum((value - middle) ** 2 for value in first) / 2) ** 0.5

    def length(replicates: int) -> float:
        # Values with the same spread: half of them above, half below.
        half = spread * ((replicates - 1) / replicates) ** 0.5
        interval = mean_interval([half, -half] * (replicates // 2), level)
        assert interval.low is not None
        assert interval.high is not None
        return interval.high - interval.low

    even = count + count % 2
    assert length(even) < 0.49 < length(even - 4 if count % 2 == 0 else even - 2)


def test_a_seed_more_of_a_pair_brings_two_thirds_of_a_degree_of_freedom_to_a_shared_spread(tmp_path: Path) -> None:
    made = Store(tmp_path, "paper")
    errors = {"cnn": [8.0, 8.6, 8.2], "static": [7.5, 7.9, 8.3], "static_uns": [8.1, 7.3, 7.6]}
    fill(made, PAPER, 4, errors)
    table = next(table for table in shown_tables(PAPER, made) if table.experiment.table == 4)
    judged = next(j for j in table.claims if j.claim.words == "Static NSN with DNS beats the baseline CNN.")
    assert judged.gains is not None
    assert judged.gains.freedom == pytest.approx(2 / 3 * 4)
    text = takes(findings.page(PAPER, made), judged.claim.words, "CIFAR-10;")
    found = re.search(r"^at most (\d+) seeds", text)
    assert found is not None
    assert judged.verdict.interval is not None
    count, level = int(found[1]), judged.verdict.interval.level

    def half(seeds: int) -> float:
        assert judged.gains is not None
        freedom = max(seeds - 1, 2 / 3 * (4 + seeds - 3))
        return float(scipy.stats.t.ppf((1 + level) / 2, freedom)) * judged.gains.spread / seeds**0.5

    assert judged.paper == pytest.approx(7.78 - 7.15)
    assert half(count) < 0.63 / 2 <= half(count - 1)


def test_more_seeds_than_fifty_are_not_counted_out(store: Store) -> None:
    fill(store, PAPER, 4, {"cnn": [8.0, 8.9, 8.3], "cnnpp": [7.0, 9.6, 8.1]})
    text = takes(findings.page(PAPER, store), "CNN++ beats the baseline CNN.", "CIFAR-10;")
    assert text == "more than 50 seeds"


def test_what_decided_verdicts_rest_on_is_counted() -> None:
    interval = Interval(1.0, 0.5, 1.5, 3)
    decided = [Verdict(Direction.AGREES, interval=interval, unit="episode", seeds=1)]
    decided += 2 * [Verdict(Direction.DISAGREES, interval=interval, unit="seed", seeds=3, alone="undecided")]
    said = findings.basis([*decided, Verdict(Direction.UNDECIDED, unit="seed")])
    assert said.startswith("Of the three decided ones one rests on the test episodes of one or two trainings a method")
    assert "two on the spread over seeds that all methods show together, without which" in said
    assert said.endswith("none on the seeds of the pair alone and none on how many runs fail.")
    assert findings.basis([]) == ""


def test_a_diverged_run_asks_for_no_number_of_seeds(store: Store) -> None:
    put_record(store, PAPER.run(plan.experiment(4).method("static"), "cifar10", 2), float("nan"), status="diverged")
    text = takes(findings.page(PAPER, store), "Static NSN with DNS beats the baseline CNN.", "CIFAR-10;")
    assert text == "a training that does not diverge: a diverged run has no error"


def test_what_no_number_of_seeds_decides_is_said(store: Store) -> None:
    fill(store, PAPER, 1, {"cnn": [8.0, 8.1, 8.3], "dynamic_cnn_trivial": [90.0, 8.0, 90.0]})
    page = findings.page(PAPER, store)
    (text,) = [line for line in page.splitlines() if "trivially applied CNN predictor. |" in line]
    assert text.endswith("| no number of seeds can be named |")
    assert "some runs converge" in text


def test_few_shot_claims_ask_for_one_training_or_for_three(tmp_path: Path) -> None:
    cpu, made = plan.profile("cpu"), Store(tmp_path, "cpu")
    put(made, cpu, "static", [70, 60, 64])
    put(made, cpu, "relation", [66, 64, 63])
    page = findings.page(cpu, made)
    text = takes(page, "Static NSN beats RelationNet.", table="6")
    assert text.startswith("3 seeds of each: 4 more runs")
    text = takes(page, "Static NSN beats MAML.", table="6")
    assert text.startswith("one training of each, whose test episodes decide: 1 more run, ")


def test_the_committed_pages_are_those_of_the_committed_records() -> None:
    """`python -m reproduce tables --profile cpu` writes them; readers come to them from the README."""
    store = Store(RESULTS, "cpu")
    assert findings.page(plan.profile("cpu"), store) == (store.folder / "findings.md").read_text("utf-8")
    assert flat.csv_of(store) == (store.folder / "records.csv").read_text("utf-8")


def test_what_takes_from_a_claim_is_said_where_claims_are_listed() -> None:
    def judged(
        direction: Direction, controls: tuple[Judged, ...] = (), vain: tuple[str, ...] = (), late: bool = False
    ) -> Judged:
        better, worse = SimpleNamespace(label="A"), SimpleNamespace(label="B (not in the paper)")
        claim: Any = None
        verdict = Verdict(direction, vain=vain)
        if late:
            verdict = replace(verdict, handicap="B is handicapped: less", late="declared when runs of it were known")
        return Judged("", "", claim, better, worse, "", None, verdict, controls=controls)  # type: ignore[arg-type]

    def though(of: Judged) -> str:
        shown: Any = SimpleNamespace(judged=of)
        return findings._though(shown)

    assert though(judged(Direction.AGREES, vain=("A",))) == ", though A did nothing of what it is about: see below"
    assert though(judged(Direction.AGREES)) == ""
    late = ", though its rival is handicapped and it was declared when runs of it were known: see below"
    assert though(judged(Direction.AGREES, late=True)) == late
    controls = tuple(map(judged, (Direction.AGREES, Direction.DISAGREES, Direction.UNDECIDED)))
    said = ", though our control, B, beats A and A is not shown to beat our control, B: see below"
    assert though(judged(Direction.AGREES, controls)) == said
