"""Table 6 from records: accuracies with intervals over episodes, what adapting costs, and paired differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reproduce import plan
from reproduce.statistics import Interval, mean_interval
from reproduce.tables import CLAIM_COLUMNS, Judged, Row, Table, as_csv, as_markdown, dataset_title, number

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
    "episodes",
    "seeds",
    "parameters",
    "adapted_parameters",
    "adapt_milliseconds",
    "train_seconds",
    "verdict",
)
METRIC = "accuracy (%), higher is better"

#: How backbones are written, and the width that the paper or the method's own paper gives them.
BACKBONES = {
    "cnn4": ("CNN-4", 32),
    "cnn9": ("CNN-9", 32),
    "resnet12": ("ResNet-12", 64),
    "resnet34": ("ResNet-34", 64),
    "wrn28_10": ("WRN-28-10", 160),
}
SETS = {"cifar_fs": "CIFAR-FS", "glyphs_fs": "glyphs", "tiny_imagenet_25_fs": "Tiny-ImageNet-25"}


@dataclass(frozen=True)
class Measured:
    """What the records of one row come to for one number of shots."""

    accuracy: Interval
    episodes: int


def accuracies(record: dict[str, Any]) -> list[float]:
    """Accuracy of every test episode in percent."""
    result = record["result"]
    return [100.0 * right / result["queries"] for right in result["right"]]


def finished(row: Row) -> dict[int, dict[str, Any]]:
    """The row's records by seed, without those that diverged."""
    return {seed: record for seed, record in row.records.items() if record["status"] == "finished"}


def measured(row: Row) -> Measured | None:
    """Mean accuracy over the episodes of all seeds; None when nothing is stored."""
    values = [value for record in finished(row).values() for value in accuracies(record)]
    return Measured(mean_interval(values), len(values)) if values else None


def episode_difference(better: Row, worse: Row) -> Interval | None:
    """Mean difference of accuracies over the same episodes of the same seeds, better minus worse."""
    first, second = finished(better), finished(worse)
    pairs = [
        a - b
        for seed in sorted(first.keys() & second.keys())
        for a, b in zip(accuracies(first[seed]), accuracies(second[seed]))
    ]
    return mean_interval(pairs) if pairs else None


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
        verdict = str(row.verdict) if claimed or row.method.key == table.experiment.baseline or not row.records else ""
        if row.diverged:
            verdict = f"{verdict}; {row.diverged} of {len(row.records)} runs diverged".removeprefix("; ")
        adapt = _mean(row, "adapt_seconds")
        adapted = _mean(row, "adapted_parameters")
        accuracy = None if ours is None else ours.accuracy
        values = (
            str(table.experiment.table),
            set_title(profile, row.slot),
            row.method.label,
            backbone_title(profile, row.method),
            METRIC,
            shot,
            number(row.paper),
            number(row.method.interval.get(row.slot)),
            number(published[0] if published else None, 1),
            number(published[1] if published else None, 1),
            number(accuracy.mean if accuracy else None),
            number(accuracy.low if accuracy else None),
            number(accuracy.high if accuracy else None),
            "0" if ours is None else str(ours.episodes),
            str(len(row.records)),
            "" if row.parameters is None else str(row.parameters),
            "" if adapted is None else f"{adapted:.0f}",
            number(None if adapt is None else 1000 * adapt, 1),
            number(row.train_seconds, 1),
            verdict,
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
                set_title(table.profile, row.slot),
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


def claim_rows(table: Table) -> list[dict[str, str]]:
    """The rows of ``table6_claims.csv``: differences of accuracy over the same episodes, better minus worse."""
    found = []
    for judged in table.claims:
        difference = episode_difference(*_pair(table, judged))
        paper = None if judged.paper is None else judged.paper
        values = (
            str(table.experiment.table),
            set_title(table.profile, judged.slot),
            judged.claim.words,
            judged.better.label,
            judged.worse.label,
            "percentage points of accuracy",
            number(paper),
            number(difference.mean if difference else None),
            number(difference.low if difference else None),
            number(difference.high if difference else None),
            "0" if judged.difference is None else str(judged.difference.count),
            str(judged.verdict),
            judged.claim.source,
        )
        found.append(dict(zip(CLAIM_COLUMNS, values)))
    return found


def _pair(table: Table, judged: Judged) -> tuple[Row, Row]:
    return table.row(judged.slot, judged.better.key), table.row(judged.slot, judged.worse.key)


def set_title(profile: plan.Profile, slot: str) -> str:
    """The data set, and which one it stands for."""
    name = str(profile.slots[slot]["name"])
    return dataset_title(profile, slot).replace(name, SETS.get(name, name))


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
    "episodes": "episodes",
    "adapted_parameters": "adapted parameters",
    "adapt_milliseconds": "to adapt, ms",
    "parameters": "parameters",
    "train_seconds": "training, s",
    "verdict": "verdict",
}


def _with(value: str, half: str) -> str:
    return f"{value} ± {half}" if value and half else value


def markdown_accuracies(table: Table) -> str:
    """Paper against ours as a Markdown table."""
    rows = []
    for row in table_rows(table):
        half = ""
        if row["ours_ci_low"]:
            half = number((float(row["ours_ci_high"]) - float(row["ours_ci_low"])) / 2)
        rows.append(
            {
                **row,
                "paper_text": _with(row["paper"], row["paper_interval"]),
                "published_text": _with(row["published"], row["published_interval"]),
                "ours_text": _with(row["ours_mean"], half),
            }
        )
    headings = dict(HEADINGS)
    if not any(row["published"] for row in rows):
        headings.pop("published_text")
    return as_markdown(headings, rows)


CLAIM_HEADINGS = {
    "claim": "claim",
    "paper_difference": "paper, points",
    "difference": "ours, points",
    "interval": "95 % interval over episodes",
    "seeds": "seeds",
    "verdict": "verdict",
}


def markdown_claims(table: Table) -> str:
    """Claims and verdicts as a Markdown table; differences are of accuracies, positive as claimed."""
    rows = []
    for row in claim_rows(table):
        low, high = row["difference_ci_low"], row["difference_ci_high"]
        rows.append({**row, "interval": f"{low} to {high}" if low else ""})
    return as_markdown(CLAIM_HEADINGS, rows)


def scope_sentence(table: Table) -> str:
    """What the profile trains on and how it tests, beside the paper."""
    profile = table.profile
    if not profile.fewshot:
        return f"Profile {profile.name} declares no few-shot data."
    episodes = profile.fewshot["episodes"]
    sets = ", ".join(set_title(profile, slot) for slot in table.experiment.datasets if slot in profile.slots)
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
