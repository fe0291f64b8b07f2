"""Each kind of claim asks of records and networks what it says, and the declared claims are sound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reproduce import tasks
from reproduce.declare import experiments, plan, sizes
from reproduce.run.store import Store
from reproduce.show.rows import Row, make_table
from reproduce.show.words import sentence
from reproduce.studies import CHECKS
from reproduce.verdicts import claims
from reproduce.verdicts.claims import KINDS, Case
from reproduce.verdicts.judge import judge
from reproduce.verdicts.metrics import Replicates, gains, replicates
from reproduce.verdicts.statistics import Direction, Scope, Verdict
from tests.reproduce.helpers import METRICS, fill, put_record


def record(error: float | None) -> dict[str, object]:
    """A record with this test error; None is a run that diverged."""
    status = "diverged" if error is None else "finished"
    return {**observed("cnn9", {}, test_error=error), "status": status}


def row(key: str, errors: list[float | None], *, paper: float | None = None, handicap: str = "") -> Row:
    values = {} if paper is None else {"cifar10": paper}
    method = plan.Method(key, key.upper(), "cnn9", paper=values, handicap=handicap)
    return Row(1, "cifar10", "CIFAR-10", method, dict(enumerate(map(record, errors))), Verdict(Direction.REFERENCE))


def case(kind: str, better: Row, worse: Row, **more: object) -> Case:
    claim = plan.Claim("words", kind, better.method.key, worse.method.key, "source", METRICS["test_error"])
    return Case(replace(claim, **more), plan.profile("paper"), Scope(), better, worse)  # type: ignore[arg-type]


def verdict(kind: str, better: Row, worse: Row, **more: object) -> Verdict:
    return judge([case(kind, better, worse, **more)])[0].verdict


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_gain_is_positive_when_the_first_method_is_better(name: str) -> None:
    metric = METRICS[name]
    higher, lower = metric.gain(70.0, 60.0), metric.gain(60.0, 70.0)
    assert (higher > 0) == metric.higher_is_better
    assert higher == -lower
    assert metric.error(70.0) == (30.0 if metric.higher_is_better else 70.0)


def test_only_common_seeds_of_finished_runs_are_paired() -> None:
    better = {0: record(1.0), 1: record(2.0), 4: record(None), 5: record(9.0)}
    worse = {0: record(2.0), 1: record(4.0), 4: record(1.0), 6: record(0.0)}
    step = (100 / 10_000) / 12**0.5  # a whole image of CIFAR-10's test set, in each of the two errors
    floor = pytest.approx(step * 2**0.5)
    assert gains(METRICS["test_error"], better, worse) == Replicates((1.0, 2.0), "seed", {0: 1.0, 1: 2.0}, floor)
    assert gains(METRICS["test_error"], {0: record(1.0)}, {1: record(1.0)}) is None
    assert replicates(METRICS["test_error"], {0: record(None)}) is None


def test_what_is_common_to_both_methods_cancels_seed_by_seed() -> None:
    worse = [5.0, 9.0, 7.0]
    found = verdict("better", row("a", [value - 0.5 for value in worse]), row("b", list(worse)))
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((0.5, 0.5), abs=0.02)


@pytest.mark.parametrize("kind", ["better", "similar"])
def test_what_cannot_be_compared_is_not_run_or_undecided_with_its_reason(kind: str) -> None:
    three: list[float | None] = [8.0, 8.1, 8.2]
    found = {
        "not run": verdict(kind, row("a", []), row("b", three)),
        "no common seed": verdict(kind, row("a", three), replace(row("b", three), records={7: record(1.0)})),
        "one common seed, three decide": verdict(kind, row("a", [7.0]), row("b", three)),
        "2 common seeds, three decide": verdict(kind, row("a", [7.0, 7.2]), row("b", three)),
        "a run diverged": verdict(kind, row("a", [7.0, 7.1, 7.2, None]), row("b", [8.0, 8.1, 8.2, 8.3])),
    }
    assert found.pop("not run").direction == Direction.NOT_RUN
    assert {reason: item.reason for reason, item in found.items()} == {reason: reason for reason in found}
    assert {item.direction for item in found.values()} == {Direction.UNDECIDED}
    two = found["2 common seeds, three decide"]
    assert two.values == pytest.approx((1.0, 0.9))
    assert two.interval is not None
    assert (two.interval.low, two.interval.high) == (None, None)


def test_a_difference_of_minus_0_30_give_or_take_0_15_beats_and_is_not_similar() -> None:
    """Seeds whose 95 % interval is 0.30 +- 0.15."""
    differences = [0.30 - 0.0604, 0.30, 0.30 + 0.0604]
    worse = row("b", [8.0, 8.0, 8.0])
    better = row("a", [8.0 - gain for gain in differences])
    cases = [case("better", better, worse), case("similar", better, worse, margin=0.25)]
    first, second = judge(cases)
    assert first.difference == second.difference
    assert first.difference is not None
    assert first.difference.level == pytest.approx(0.95)  # one pair, however many claims are about it
    assert first.difference.high == pytest.approx(0.45, abs=2e-4)
    assert [item.verdict.direction for item in (first, second)] == [Direction.AGREES, Direction.UNDECIDED]


def test_the_loser_of_a_decided_claim_names_its_handicap() -> None:
    good: list[float | None] = [7.0, 7.1, 7.2]
    bad: list[float | None] = [8.0, 8.2, 8.1]
    phrase = "B is handicapped: a tenth of its episodes"
    weak = "a tenth of its episodes"
    assert verdict("better", row("a", good), row("b", bad, handicap=weak)).handicap == phrase
    assert phrase in verdict("better", row("a", good), row("b", bad, handicap=weak)).short()
    # A handicapped method that wins is not excused.
    assert verdict("better", row("a", good, handicap=weak), row("b", bad)).handicap == ""
    assert verdict("better", row("b", bad, handicap=weak), row("a", good)).handicap == phrase


def test_of_two_methods_that_are_alike_the_one_behind_names_its_handicap() -> None:
    weak = "a tenth of its episodes"
    good: list[float | None] = [7.0, 7.1, 7.2]
    ahead, behind = row("a", good), row("b", [7.02, 7.12, 7.21], handicap=weak)
    for pair in ((ahead, behind), (behind, ahead)):
        found = verdict("similar", *pair, margin=0.25)
        # A difference within the margin, of which the handicap may be why.
        assert (found.direction, found.handicap) == (Direction.AGREES, f"B is handicapped: {weak}")
    level = row("b", [7.02, 7.09, 7.22], handicap=weak)
    for pair in ((ahead, level), (level, ahead)):
        found = verdict("similar", *pair, margin=0.25)
        assert (found.direction, found.handicap) == (Direction.AGREES, f"B is handicapped: {weak}")
    far = row("b", [9.0, 9.1, 9.3], handicap=weak)
    assert verdict("similar", ahead, far, margin=0.25).handicap == f"B is handicapped: {weak}"
    assert verdict("similar", row("a", good, handicap=weak), row("b", [9.0, 9.1, 9.3]), margin=0.25).handicap == ""


def test_equal_gains_of_a_few_seeds_are_no_certainty() -> None:
    """Three gains of three test images each, of 359: they are equal by chance, and their spread is unknown."""
    step = 100 / 359

    def of(wrong: list[int]) -> Row:
        records = {seed: observed("cnn9", {}, "digits", test_error=count * step) for seed, count in enumerate(wrong)}
        return replace(row("a", []), records=records)

    found = gains(METRICS["test_error"], of([10, 6, 4]).records, of([13, 9, 7]).records)
    assert found is not None
    assert max(found.values) - min(found.values) < 1e-9
    interval = found.interval()
    assert interval.high is not None
    assert interval.low is not None
    # Of three values with the deviation of two roundings; its t quantile is 4.30.
    assert (interval.high - interval.low) / 2 == pytest.approx(4.303 * step / 6**0.5 / 3**0.5, rel=1e-3)
    assert 0.05 / 15 < found.p < 0.01  # with the pairs of six methods it decides nothing


def test_a_claim_of_one_data_set_is_not_made_of_the_other() -> None:
    declared = {judged.slot for judged in make_table(4, plan.profile("cpu"), Store(Path("none"), "cpu")).claims
                if judged.claim.words == "CNN++ beats the baseline CNN."}  # fmt: skip
    assert declared == {"cifar10"}


def test_what_is_undecided_names_the_handicaps_of_both() -> None:
    first = row("a", [7.0, 7.1, 7.2], handicap="few steps")
    second = row("b", [7.1, 7.0, 7.3], handicap="few images")
    found = verdict("better", first, second)
    assert (found.direction, found.handicap) == (
        Direction.UNDECIDED,
        "A is handicapped: few steps; B is handicapped: few images",
    )


def test_what_has_not_run_yet_belongs_to_the_family_from_the_start() -> None:
    first, second = row("a", [7.0, 7.1, 7.2]), row("b", [7.6, 7.5, 7.9])
    cases = [case("better", first, second), case("similar", first, row("c", [8.0]))]
    cases += [case("better", second, row("d", [])), case("better", second, first)]
    cases += [case("does_not_converge", row("e", []), first)]
    levels = [item.difference.level for item in judge(cases) if item.difference and item.difference.low is not None]
    assert levels == pytest.approx([1 - 0.05 / 3] * 2)  # three pairs, one of them twice


@pytest.mark.parametrize(
    ("errors", "direction"),
    [
        ([None, None, None], Direction.AGREES),
        ([None, 90.0, 25.0], Direction.AGREES),
        ([None, 90.0, 10.0], Direction.UNDECIDED),
        ([9.0, 8.0, 10.0], Direction.DISAGREES),
        ([None, None], Direction.UNDECIDED),
        ([], Direction.NOT_RUN),
    ],
)
def test_not_converging_is_diverging_or_an_error_above_the_multiple(
    errors: list[float | None], direction: Direction
) -> None:
    found = verdict("does_not_converge", row("a", errors), row("b", [8.0, 8.0, 8.0]), multiple=3.0)
    assert found.direction == direction


@pytest.mark.parametrize(
    ("errors", "direction"),
    [
        ([8.0, 23.9, 9.0], Direction.AGREES),
        ([None, 90.0, 25.0], Direction.DISAGREES),
        ([8.0, 90.0, 8.0], Direction.UNDECIDED),
        ([8.0, 8.0], Direction.UNDECIDED),
        ([], Direction.NOT_RUN),
    ],
)
def test_converging_is_failing_in_no_run(errors: list[float | None], direction: Direction) -> None:
    found = verdict("converges", row("a", errors), row("b", [8.0, 8.0, 8.0]), multiple=3.0)
    assert found.direction == direction


def test_a_failure_to_converge_is_put_in_numbers() -> None:
    found = verdict("does_not_converge", row("a", [None, 90.0, 25.0]), row("b", [8.0, 8.0, 8.0]), multiple=3.0)
    assert found.observed == "3 of 3 runs fail: 1 diverged, 2 above 3 times the error of B"
    # Without the baseline's error of a seed there is nothing to compare with.
    found = verdict("does_not_converge", row("a", [None, 90.0, 25.0]), row("b", [8.0, None, 8.0]), multiple=3.0)
    assert (found.direction, found.seeds) == (Direction.UNDECIDED, 2)


def test_a_failure_beside_no_finished_baseline_is_not_counted_without_training() -> None:
    found = verdict("does_not_converge", row("a", [None, None, None]), row("b", [None, None, None]), multiple=3.0)
    assert found.direction == "undecided"
    assert not found.counted
    assert found.reason.startswith("no common seed of which")


def test_table_1_says_that_the_trivial_predictor_does_not_converge(tmp_path: Path) -> None:
    profile, store = plan.profile("paper"), Store(tmp_path, "paper")
    fill(store, profile, 1, {"cnn": [8.0, 8.1, 8.2], "dynamic_cnn_trivial": [90.0, 88.0]})
    run = profile.run(plan.experiment(1).method("dynamic_cnn_trivial"), "cifar10", 2)
    put_record(store, run, float("nan"), status="diverged")
    table = make_table(1, profile, store)
    judged = next(item for item in table.claims if item.claim.kind == "does_not_converge")
    assert judged.verdict.direction == Direction.AGREES
    assert table.row("cifar10", "dynamic_cnn_trivial").verdict.direction == Direction.AGREES


@pytest.mark.parametrize("name", ["demo", "cpu", "paper"])
def test_counted_claims_are_decided_without_any_run(name: str, tmp_path: Path) -> None:
    profile, store = plan.profile(name), Store(tmp_path, name)
    counted = [
        item
        for number in (3, 4, 5, 6)
        for item in make_table(number, profile, store).claims
        if item.claim.kind == "fewer_parameters"
    ]
    assert len(counted) == 1 + 2 * 6 + 1 + 1
    assert {item.verdict.direction for item in counted} <= {Direction.AGREES, Direction.DISAGREES}
    assert all(item.verdict.observed for item in counted)
    if name == "paper":
        against = {item.worse.key: item for item in counted}
        assert str(against["cnnpp"].verdict.direction) == "agrees"
        # Table 5 of the paper: 9.61M against 9.71M.
        assert against["cnnpp"].difference is not None
        assert against["cnnpp"].difference.mean == pytest.approx(against["cnnpp"].paper, abs=1.0)
        assert against["leo"].verdict.short() == "agrees"
        assert against["leo"].verdict.observed.startswith("97.")


def test_counts_are_those_of_the_networks_that_would_be_trained() -> None:
    import nsl

    run = plan.profile("paper").run(plan.experiment(4).method("static_uns"), "cifar100", 0)
    network = nsl.create_model("nsn9_static_unconstrained", 100)
    assert sizes.count(run, "parameters") == nsl.count_parameters(network)
    assert sizes.count(run, "multiply_adds") == nsl.count_multiply_adds(network, 32)
    with pytest.raises(ValueError, match="quantity='weight' is unknown; use one of parameters, multiply_adds"):
        sizes.count(run, "weight")


def test_a_folded_network_of_three_shifts_a_layer_has_a_third_of_its_convolutions_multiply_adds() -> None:
    declared, profile = plan.experiment("structures"), plan.profile("demo")
    runs = [profile.run(declared.method(key), "cifar10", 0) for key in ("cnn", "static", "few_taps")]
    plain, static, few = (sizes.count(run, "folded_multiply_adds") for run in runs)
    assert plain == static == sizes.count(runs[0], "multiply_adds")
    nine = 9 * 8 * 8 * (3 * 16**2 + (2 + 4 * 2) * 8**2 + (8 + 16 * 2) * 4**2)  # at width 8 on 16 x 16 pixels
    assert plain - few == nine * 2 // 3


def test_what_is_computed_is_decided_without_any_run_and_stands_for_no_row(tmp_path: Path) -> None:
    profile, store = plan.profile("demo"), Store(tmp_path, "demo")
    found = [
        (table, item)
        for table in (make_table(key, profile, store) for key in plan.every())
        for item in table.claims
        if item.claim.kind == "computed"
    ]
    assert {item.claim.check for _, item in found} == set(CHECKS)
    for table, item in found:
        assert item.verdict.direction == Direction.AGREES
        assert item.dataset == "no data"
        assert table.row(item.slot, item.better.key).verdict.direction == Direction.NOT_RUN


def test_the_count_of_a_few_shot_network_is_that_of_its_backbone() -> None:
    from nsl.models.backbones import create_backbone

    run = plan.profile("demo").run(plan.experiment(6).method("dynamic_cnn9"), "mini_imagenet", 0)
    options = {"predictor_options": run.model.get("predictor_options")}
    backbone = create_backbone("cnn9", width=run.model["width"], kind="dynamic", **options)
    assert sizes.count(run, "parameters") == sum(p.numel() for p in backbone.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "nicer"}, "claim kind 'nicer' is unknown; use one of better, similar"),
        ({"kind": "similar"}, "margin is 0; .* above 0 and at most 0.25 points"),
        ({"kind": "similar", "margin": 0.5}, "margin is 0.5; .* above 0 and at most 0.25 points"),
        ({"kind": "does_not_converge"}, "multiple is 0; declare one above 1"),
        ({"kind": "fewer_parameters", "quantity": "bytes"}, "quantity 'bytes' is unknown; use one of parameters"),
        ({"kind": "fewer_parameters", "saving": (0.5, 0.2)}, r"saving is \[0.5, 0.2\]; give the least and the largest"),
        ({"kind": "computed", "check": "magic"}, "check 'magic' is unknown; use one of attention"),
    ],
)
def test_a_claim_that_is_declared_wrongly_is_refused_in_a_sentence(change: dict[str, object], message: str) -> None:
    import re

    sound = plan.Claim("A beats B.", "better", "a", "b", "source", METRICS["test_error"])
    assert claims.check(sound) == ""
    assert re.search(message, claims.check(replace(sound, **change)))  # type: ignore[arg-type]


def test_no_similar_claim_allows_more_than_another_calls_an_advantage() -> None:
    every = [claim for number in plan.tables() for claim in plan.experiment(number).claims]
    margins = {claim.metric.name: claim.margin for claim in every if claim.margin}
    assert margins == {"test_error": 0.25, "accuracy": 0.25}
    declared = plan.experiment(6)
    advantages = [
        METRICS["accuracy"].gain(*(declared.method(key).paper["mini_imagenet"] for key in (claim.better, claim.worse)))
        for claim in declared.claims
        if KINDS[claim.kind].ranks and not claim.control
    ]
    assert margins["accuracy"] <= min(advantages) + 1e-9
    assert margins["accuracy"] <= declared.method("dynamic_cnn9").interval["mini_imagenet"]


def test_a_wrong_claim_in_a_table_names_its_file() -> None:
    path = Path("table9.toml")
    sound = {"words": "A beats B.", "kind": "better", "better": "a", "worse": "b", "source": "7"}
    assert experiments._claim(sound, METRICS, path).metric.name == "test_error"
    with pytest.raises(ValueError, match=r"table9\.toml: claim metric 'speed' is unknown; use one of test_error"):
        experiments._claim({**sound, "metric": "speed"}, METRICS, path)
    with pytest.raises(ValueError, match=r"table9\.toml: claim 'A beats B\.' is incomplete or misspelt .*wrose"):
        experiments._claim({**sound, "wrose": "b"}, METRICS, path)
    with pytest.raises(ValueError, match=r"table9\.toml: claim kind 'beter' is unknown"):
        experiments._claim({**sound, "kind": "beter"}, METRICS, path)


def observed(model: str, observations: dict[str, object], data: str = "cifar10", **result: object) -> dict[str, Any]:
    """A record of one network with what it was seen to do."""
    config = {"model": {"name": model}, "dataset": {"name": data, "length": 20}}
    return {"status": "finished", "result": result, "observations": observations, "config": config}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (observed("nsn9_static_diagonal", {"static": [{"shape": [True]}, {"shape": [True]}]}), "D keeps all taps"),
        (observed("nsn9_static_diagonal", {"static": [{"shape": [True, False]}, {"shape": [True]}]}), ""),
        (observed("selected9", {"other": [{"mean": [1.0, 0.0]}]}), "gates are the same for all images"),
        (observed("selected9", {"other": [{"mean": [1.0, 0.4]}]}), ""),
        (observed("mixture9", {"other": [{"mean": [0.5], "std": [0.001, 0.002]}]}), "the mixture is the same"),
        (observed("mixture9", {"other": [{"mean": [0.5], "std": [0.001, 0.2]}]}), ""),
        (observed("rnn", {}, "adding", test_error=89.2), "no better than without the marks"),
        (observed("rnn", {}, "adding", test_error=20.0), ""),
        (observed("rnn", {}, "digit_rows", test_error=89.0), ""),
    ],
)
def test_a_training_that_did_nothing_of_what_it_is_about_is_known_by_its_record(
    record: dict[str, Any], words: str
) -> None:
    name = "sequences" if record["config"]["model"]["name"] == "rnn" else "classification"
    found = tasks.named(name).idle(record)
    assert found.startswith(words)
    assert bool(found) == bool(words)


def test_a_verdict_says_which_method_did_nothing_of_what_it_is_about() -> None:
    kept = {"static": [{"shape": [True, True]}]}
    lost = {"static": [{"shape": [True, False]}]}
    records = {
        seed: observed("nsn9_static_diagonal", shape, test_error=8.0) for seed, shape in enumerate((kept, lost, kept))
    }
    joint = replace(row("a", []), records=records)
    assert joint.idle == "D keeps all taps in 2 of 3 trainings"
    found = verdict("better", joint, row("b", [9.0, 9.1, 9.2]))
    assert found.direction == Direction.AGREES
    assert found.note() == "A: D keeps all taps in 2 of 3 trainings"


def test_what_did_nothing_is_said_beside_every_direction_and_is_taken_for_no_other_remark() -> None:
    kept = {"static": [{"shape": [True, True]}]}
    joint = replace(row("a", []), records={seed: observed("nsn9", kept, test_error=8.0) for seed in range(3)})
    for kind, errors in (("better", [9.0, 9.1, 9.2]), ("better", [7.0, 7.1, 7.2]), ("similar", [8.01, 7.99, 8.02])):
        judged = judge([case(kind, joint, row("b", list(errors)), margin=0.25)])[0]
        assert "smaller than the paper" not in sentence(judged)
        assert "A: D keeps all taps in 3 of 3 trainings" in sentence(judged)
