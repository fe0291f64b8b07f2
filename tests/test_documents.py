"""Numbers in the documents are those that are declared, stored or computed."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import nsl
from nsl.data import load
from nsl.data.augment import normalise
from nsl.training import Recipe
from reproduce.declare import plan
from reproduce.run.store import Store

ROOT = Path(__file__).parents[1]

#: What a recipe says of a training; others measure more after it.
FIELDS = {field.name for field in fields(Recipe)}


def flat(page: str) -> str:
    return " ".join((ROOT / "docs" / page).read_text("utf-8").split())


def ratios(bench: str) -> dict[str, str]:
    rows = json.loads((ROOT / "results" / "bench" / f"{bench}.json").read_text("utf-8"))["rows"]
    return {row["case"]: f"{row['ratio']:.2f}" for row in rows if row["ratio"] is not None}


def test_the_page_on_speed_says_what_the_stored_benchmarks_measured() -> None:
    convolution, step, folded = (ratios(n) for n in ("dynamic_convolution", "training_step", "folded_inference"))
    sizes = ("32ch 32x32", "64ch 16x16", "128ch 8x8")

    def listed(kind: str, precision: str) -> str:
        first, second, third = (convolution[f"{size} {precision}: {kind}"] for size in sizes)
        return f"{first}, {second} and {third}"

    def times(network: str, precision: str) -> str:
        return f"{float(step[f'{precision}: {network}']):.1f}"

    dynamic, release = "nsn9_dynamic_diagonal", "nsn9_dynamic_diagonal (release's predictor)"
    unconstrained = {times("nsn9_dynamic_unconstrained", precision) for precision in ("fp32", "bf16")}
    text = flat("speed.md")
    for said in (
        f"diagonal convolution takes {listed('DNS', 'fp32')} in float32 and {listed('DNS', 'bf16')} in bfloat16",
        f"unconstrained one {listed('UNS', 'fp32')} in float32",
        f"takes {times(dynamic, 'fp32')} times CNN-9's in float32 and {times(dynamic, 'bf16')} times in bfloat16",
        f"({times(release, 'fp32')} and {times(release, 'bf16')} with the release's)",
        f"the unconstrained one {unconstrained.pop()} times in both",
        f"trains like CNN-9 ({step['fp32: nsn9_static_diagonal']})",
    ):
        assert said in text
    assert not unconstrained
    assert any(f"runs like CNN-9 ({ratio})" in text for ratio in folded.values())


@pytest.mark.parametrize("name", ["demo", "cpu", "paper", "paper-bf16"])
def test_the_guide_says_a_profiles_seeds_and_widths(name: str) -> None:
    row = next(line for line in (ROOT / "docs" / "guide.md").read_text("utf-8").splitlines() if f"| `{name}` |" in line)
    profile = plan.profile(name)
    seeds = {table: len({run.seed for run in plan.planned_runs(profile, (table,), None)}) for table in (4, 6)}
    expected = f"{seeds[4]}" if seeds[4] == seeds[6] else f"{seeds[4]}, Table 6: {seeds[6]}"
    assert row.rstrip(" |").endswith(f"| {expected}")
    if "width" in row:
        assert f"width {profile.width}" in row
        wide = profile.slots["imagenet"].width
        assert (f"Table 5: {wide}" in row) == (wide != profile.width) or name == "paper"
    budgets = {slot: profile.slots[slot].recipe for slot in ("cifar10", "cifar100")}
    first, second = (recipe["iterations"] * recipe["batch_size"] for recipe in budgets.values())
    said = re.search(r"([\d,]+) (?:images|iterations of (\d+))", row)
    if said is not None:
        found = int(said[1].replace(",", "")) * int(said[2] or 1)
        assert found == first
        assert (f"Table 4: {second:,}" in row) == (second != first)


def test_the_same_seed_on_another_processor_is_told_as_far_away_as_it_ends() -> None:
    """docs/determinism.md, of stored runs that differ in nothing but the processor and what is measured after them."""
    store = Store(ROOT / "results", "cpu")
    errors: dict[str, dict[str, float]] = {}
    for record in store.records():
        if record["config"].get("task", "robustness") == "robustness" and record["status"] == "finished":
            config = {key: value for key, value in record["config"].items() if key not in ("task", "revision")}
            recipe = {key: value for key, value in config["recipe"].items() if key in FIELDS}
            key = json.dumps(config | {"recipe": recipe}, sort_keys=True)
            makers = {attempt["cpu"].split()[0] for attempt in record["attempts"]}
            if len(makers) == 1:
                errors.setdefault(key, {})[makers.pop()] = record["result"]["curve"][-1]["test_error"]
    apart = max(max(found.values()) - min(found.values()) for found in errors.values())
    assert f"up to {apart:.2f} points of test error" in (ROOT / "docs" / "determinism.md").read_text("utf-8")


def test_some_two_fifths_of_all_predicted_numbers_vanish_in_bfloat16_at_the_start() -> None:
    """DISCREPANCIES.md, precision of the trainings; here on digits, three starts together."""
    digits = load("digits", image_size=32)
    x = normalise(digits.train_images[:8], digits.mean, digits.std)
    gone = total = 0
    for seed in range(3):
        torch.manual_seed(seed)
        network, inputs = nsl.create_model("nsn9_dynamic_diagonal").eval(), []
        layers = [module for module in network.modules() if isinstance(module, nsl.DynamicNSConv2d)]
        for layer in layers:
            layer.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))  # noqa: B023
        with torch.no_grad():
            network(x)
            for layer, seen in zip(layers, inputs):
                distance = layer.predict_similarity(seen) - 1
                total += int(distance.count_nonzero())
                gone += int(distance.count_nonzero() - ((1 + distance).bfloat16() - 1).count_nonzero())
    assert 0.3 < gone / total < 0.5
    assert "some two fifths of all predicted numbers vanish" in (ROOT / "DISCREPANCIES.md").read_text("utf-8")


def test_the_epsilon_under_the_norms_makes_small_starts_small() -> None:
    """DISCREPANCIES.md, SphereNet predictor: by how much the outputs of a new predictor are shortened."""

    def spread(**options: bool) -> float:
        torch.manual_seed(0)
        predictor = nsl.SpherePredictor(32, 9, 3, padding=1, **options)
        with torch.no_grad():
            return float(predictor(torch.randn(8, 32, 16, 16)).std())

    assert f"at some {spread() / spread(small=False):.2f} of what the angle gives" in (
        ROOT / "DISCREPANCIES.md"
    ).read_text("utf-8")
