"""Table 6 from records: accuracies with intervals over episodes, what adapting costs, and paired differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reproduce.declare import plan
from reproduce.show.cells import as_csv, as_markdown, level_of, number
from reproduce.show.claim_tables import CLAIM_COLUMNS, claim_rows
from reproduce.show.metrics import METRICS, episode_accuracies, replicates
from reproduce.show.rows import Row, Table, dataset_title
from reproduce.show.statistics import Interval, mean_interval

COLUMNS = (
    "table",
    "dataset",
    "method",
    "backbone",
    "metric",
    "shots",
    "paper",
    "paper_interval",
    "published",
    "published_interval",
    "ours_mean",
    "ours_ci_low",
    "ours_ci_high",
    "level",
    "unit",
    "episodes",
    "seeds",
    "seed_values",
    "parameters",
    "adapted_parameters",
    "adapt_milliseconds",
    "train_seconds",
    "direction",
    "note",
    "scope",
)

#: How backbones are written, and the width that the paper or the method's own paper gives them.
BACKBONES = {
    "cnn4": ("CNN-4", 32),
    "cnn9": ("CNN-9", 32),
    "resnet12": ("ResNet-12", 64),
    "resnet34": ("ResNet-34", 64),
    "wrn28_10": ("WRN-28-10", 160),
}


@dataclass(frozen=True)
class Measured:
    """What the records of one row come to for one number of shots: ``unit`` is what the interval is over."""

    accuracy: Interval
    unit: str
    episodes: int


def finished(row: Row) -> dict[int, dict[str, Any]]:
    """The row's records by seed, without those that diverged."""
    return {seed: record for seed, record in row.records.items() if record["status"] == "finished"}


def measured(row: Row) -> Measured | None:
    """Mean accuracy with its interval, over seeds from three on, else over episodes; None when nothing is stored."""
    found = replicates(METRICS["accuracy"], row.records)
    if found is None:
        return None
    episodes = sum(len(episode_accuracies(record)) for record in finished(row).values())
    return Measured(mean_interval(found.values), found.unit, episodes)


def backbone_title(profile: plan.Profile, method: plan.Method) -> str:
    """A backbone as it is written, with its width where that is not the paper's."""
    title, usual = BACKBONES[method.backbone]
    width = profile.width_of(method)
    return title if width == usual else f"{title} (width {width}, paper {usual})"


def _published(profile: plan.Profile, row: Row, shot: str) -> tuple[float, float] | None:
    name = str(profile.slots[row.slot]["name"])
    found = row.method.published.get(name, {}).get(shot)
    return None if found is None else (float(found[0]), float(found[1]))


def _mean(row: Row, key: str) -> float | None:
    values = [float(record["result"][key]) for record in finished(row).values()]
    return sum(values) / len(values) if values else None


def table_rows(table: Table) -> list[dict[str, str]]:
    """The rows of ``table6.csv`` as text, by column."""
    profile = table.profile
    shot = str(profile.fewshot["episodes"]["shot"]) if profile.fewshot else ""
    found = []
    for row in table.rows:
        ours = measured(row)
        published = _published(profile, row, shot)
        claimed = any(judged.better == row.method for judged in table.claims)
        # The paper compares a competitor with nothing: its row has a measurement and no verdict.
        judged = claimed or row.method.key == table.experiment.baseline or not row.records
        adapt = _mean(row, "adapt_seconds")
        adapted = _mean(row, "adapted_parameters")
        accuracy = None if ours is None else ours.accuracy
        values = (
            str(table.experiment.table),
            dataset_title(profile, row.slot),
            row.method.label,
            backbone_title(profile, row.method),
            METRICS["accuracy"].label,
            shot,
            number(row.paper),
            number(row.method.interval.get(row.slot)),
            number(published[0] if published else None, 1),
            number(published[1] if published else None, 1),
            number(accuracy.mean if accuracy else None),
            number(accuracy.low if accuracy else None),
            number(accuracy.high if accuracy else None),
            level_of(accuracy),
            "" if ours is None else ours.unit,
            "0" if ours is None else str(ours.episodes),
            str(len(row.records)),
            row.seed_values("accuracy"),
            "" if row.parameters is None else str(row.parameters),
            "" if adapted is None else f"{adapted:.0f}",
            number(None if adapt is None else 1000 * adapt, 1),
            number(row.train_seconds, 1),
            str(row.verdict.direction) if judged else "",
            row.verdict.note(),
            str(row.verdict.scope) if judged else "",
        )
        found.append(dict(zip(COLUMNS, values)))
    return found


SHOT_COLUMNS = (
    "table",
    "dataset",
    "method",
    "shots",
    "published",
    "published_interval",
    "ours_mean",
    "ours_half_width",
    "seeds",
)


def shot_rows(table: Table) -> list[dict[str, str]]:
    """Accuracy against the number of shots at test time; training episodes keep their number."""
    found = []
    for row in table.rows:
        for shot in table.profile.fewshot.get("episodes", {}).get("shots", []):
            published = _published(table.profile, row, str(shot))
            ours = [record["result"]["shots"][str(shot)] for record in finished(row).values()]
            mean = sum(pair[0] for pair in ours) / len(ours) if ours else None
            half = ours[0][1] if len(ours) == 1 else None
            values = (
                str(table.experiment.table),
                dataset_title(table.profile, row.slot),
                row.method.label,
                str(shot),
                number(published[0] if published else None, 1),
                number(published[1] if published else None, 1),
                number(mean),
                number(half),
                str(len(ours)),
            )
            found.append(dict(zip(SHOT_COLUMNS, values)))
    return found


def files(table: Table) -> dict[str, str]:
    """File names and contents of the table."""
    stem = f"table{table.experiment.table}"
    return {
        f"{stem}.csv": as_csv(COLUMNS, table_rows(table)),
        f"{stem}_shots.csv": as_csv(SHOT_COLUMNS, shot_rows(table)),
        f"{stem}_claims.csv": as_csv(CLAIM_COLUMNS, claim_rows(table)),
    }


HEADINGS = {
    "method": "method",
    "backbone": "backbone",
    "paper_text": "paper, Mini-ImageNet",
    "published_text": "published, same data",
    "ours_text": "ours",
    "over": "interval over",
    "episodes": "episodes",
    "seeds": "seeds",
    "adapted_parameters": "adapted parameters",
    "adapt_milliseconds": "to adapt, ms",
    "parameters": "parameters",
    "train_seconds": "training, s",
    "verdict": "verdict",
    "scope": "scope",
}


def _with(value: str, half: str) -> str:
    return f"{value} ± {half}" if value and half else value


def markdown(table: Table) -> str:
    """Paper against ours as a Markdown table."""
    rows = []
    for row, cells in zip(table.rows, table_rows(table)):
        half = ""
        if cells["ours_ci_low"]:
            half = number((float(cells["ours_ci_high"]) - float(cells["ours_ci_low"])) / 2)
        rows.append(
            {
                **cells,
                "paper_text": _with(cells["paper"], cells["paper_interval"]),
                "published_text": _with(cells["published"], cells["published_interval"]),
                "ours_text": _with(cells["ours_mean"], half),
                "over": f"{cells['unit']}s" if half else "",
                "verdict": row.verdict.short() if cells["direction"] else row.verdict.note(),
            }
        )
    headings = dict(HEADINGS)
    if not any(row["published"] for row in rows):
        headings.pop("published_text")
    return as_markdown(headings, rows)


def scope_sentence(table: Table) -> str:
    """What the profile trains on and how it tests, beside the paper."""
    profile = table.profile
    if not profile.fewshot:
        return f"Profile {profile.name} declares no few-shot data."
    episodes = profile.fewshot["episodes"]
    sets = ", ".join(dataset_title(profile, slot) for slot in table.experiment.datasets if slot in profile.slots)
    reduced = [
        f"{title} {profile.fewshot['width'][name]} (paper {usual})"
        for name, (title, usual) in BACKBONES.items()
        if profile.fewshot["width"][name] != usual
    ]
    widths = f"Other widths than the paper's: {', '.join(reduced)}." if reduced else "All widths are the paper's."
    return (
        f"Profile {profile.name}, {sets}: {episodes['way']}-way {episodes['shot']}-shot, {episodes['query']} queries a "
        f"class, {episodes['count']} test episodes of the novel classes, the same for every method. {widths}"
    )
