"""What the notebooks beyond the paper show of their tables, beside what every table's notebook shows."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from reproduce.declare.shapes import CATALOGUE
from reproduce.show import beyond, budget
from reproduce.show.report import Report, layer_name, show, text

NOTHING = "Not recorded."


def _first(report: Report, key: str, slot: str | None = None) -> dict[str, Any]:
    """The record of a row's first stored seed; empty where there is none."""
    return next(iter(_all(report, key, slot)), {})


def _all(report: Report, key: str, slot: str | None = None) -> list[dict[str, Any]]:
    """The records of all stored seeds of a row."""
    slot = report.table.experiment.datasets[0] if slot is None else slot
    records = report.table.row(slot, key).records
    return [dict(records[seed]) for seed in sorted(records)]


def _results(report: Report, part: str) -> dict[str, list[Any]]:
    """A part of the results of all stored seeds, by the rows' labels; of rows that have it."""
    found = {
        label: [record["result"][part] for record in _all(report, key) if part in record["result"]]
        for key, label in labels(report).items()
    }
    return {label: results for label, results in found.items() if results}


def labels(report: Report) -> dict[str, str]:
    """The rows' labels by their keys."""
    return {method.key: method.label for method in report.table.experiment.methods}


def moved_taps(report: Report, shapes: Report, key: str = "deformable", shape_key: str = "static_joint") -> Any:
    """Mean offsets of a deformable row's layers, and the shapes that a row of Table 2 learned."""
    layers = [
        (layer_name(item["layer"]), item["mean"])
        for item in report.observations(key).get("other", [])
        if "first" in item
    ]
    kept = [
        (layer_name(item["layer"]), item["shape"])
        for item in shapes.observations(shape_key).get("static", [])
        if "shape" in item
    ]
    return show(beyond.moved_taps(layers, kept)) if layers else text(NOTHING)


def attack_curves(report: Report) -> Any:
    """Error against the attack's radius, over all seeds."""
    rows = _results(report, "attack")
    return show(beyond.attack_curves(rows)) if rows else text(NOTHING)


def segmentations(report: Report) -> Any:
    """Three test images with the classes that every row predicts."""
    seen = {label: report.observations(key) for key, label in labels(report).items()}
    seen = {label: item for label, item in seen.items() if "predicted" in item}
    if not seen:
        return text(NOTHING)
    first = next(iter(seen.values()))
    predicted = {label: item["predicted"] for label, item in seen.items()}
    return show(beyond.segmentations(first["images"], first["truth"], predicted))


def class_bars(report: Report) -> Any:
    """Intersection over union of every class, the mean of all seeds."""
    rows = _results(report, "class_iou")
    return show(beyond.class_bars(rows, beyond.CLASS_NAMES)) if rows else text(NOTHING)


def state_masks(report: Report, key: str, slot: str) -> Any:
    """What a dynamic cell predicts along the first test sequence."""
    seen = _first(report, key, slot).get("observations", {})
    if "masks" not in seen:
        return text(NOTHING)
    channels = ("number", "mark") if slot == "adding" else ()
    return show(beyond.state_masks(seen["sequence"], seen["masks"], labels(report)[key], channels))


def spectrum(report: Report) -> Any:
    """Eigenvalues of the learned metrics."""
    found = {label: report.observations(key) for key, label in labels(report).items()}
    rows = {label: item["eigenvalues"] for label, item in found.items() if "eigenvalues" in item}
    return show(beyond.spectrum(rows)) if rows else text(NOTHING)


def stage_curves(report: Report) -> Any:
    """Test error over the stages."""
    found = {label: _first(report, key) for key, label in labels(report).items()}
    rows = {label: record["result"]["curve"] for label, record in found.items() if record}
    return show(beyond.stage_curves(rows)) if rows else text(NOTHING)


def mixtures(report: Report) -> Any:
    """How often gates are on and how a mixture's weights vary, layer by layer, as a table."""
    lines = []
    for key in ("selection", "mixture"):
        for item in report.observations(key).get("other", []):
            mean = item["mean"]
            label, place = labels(report)[key], layer_name(item["layer"])
            if key == "selection":
                share = sum(mean) / len(mean)
                always = sum(value > 0.99 for value in mean)
                lines.append(f"| {label} | {place} | {100 * share:.0f} % on, {always} of {len(mean)} always |")
            else:
                values = ", ".join(f"{m:.2f} (spread {s:.2f})" for m, s in zip(mean, item["std"]))
                lines.append(f"| {label} | {place} | {values} |")
    if not lines:
        return text(NOTHING)
    return text("\n".join(["| row | layer | over 64 test images |", "| --- | --- | --- |", *lines]))


def budget_curves(report: Report) -> Any:
    """Errors, and the difference that is asked about, against the budget; the paper's where the data are its own."""
    table = report.table
    methods, images = table.experiment.methods, budget.images(table)
    errors = {
        method.label: {
            count: list(table.row(slot, method.key).values().values())
            for slot, count in images.items()
            if table.row(slot, method.key).values()
        }
        for method in methods
    }
    if not any(errors.values()):
        return text("No run is stored yet.")
    found = budget.budgets(table)
    differences = {
        each.images: (each.verdict.interval, list(each.gains.values()))
        for each in found
        if each.verdict.interval is not None
    }
    seeds = budget.trend(found).seeds
    common = {each.images: fmean(each.gains[seed] for seed in seeds) for each in found} if seeds else {}
    # Where every budget has the same seeds, there is one mean.
    common = common if any(len(each.gains) > len(seeds) for each in found) else {}
    paper: dict[str, float] = {}
    if all(slot.same_data for slot in table.slots):
        place = table.slots[0].place
        printed = {method.key: method.printed(table.metric, place) for method in methods}
        known = {key: value for key, value in printed.items() if value is not None}
        paper = {method.label: known[method.key] for method in methods if method.key in known}
        if budget.BETTER in known and budget.WORSE in known:
            paper[""] = table.metric.gain(known[budget.BETTER], known[budget.WORSE])
    what = " minus ".join(table.experiment.method(key).label for key in (budget.WORSE, budget.BETTER))
    full = CATALOGUE[table.slots[0].place].paper_images
    return show(beyond.budget_curves(errors, differences, paper, full, what, common))


def budget_answer(report: Report) -> Any:
    """Whether the difference grows or vanishes with training, in a sentence."""
    return text(f"**{budget.answer(report.table)}**")
