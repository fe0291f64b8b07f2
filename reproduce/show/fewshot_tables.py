"""Table 6's columns: accuracies with intervals over episodes, what adapting costs, what others published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reproduce.show.cells import interval_texts, level_of, number
from reproduce.show.columns import (
    Column,
    claim_columns,
    count,
    row_columns,
    seconds_column,
    seed_columns,
    size_column,
)
from reproduce.tasks.accuracy import ACCURACY, episode_accuracies

if TYPE_CHECKING:
    from reproduce.declare.experiments import Method
    from reproduce.declare.profiles import Slot
    from reproduce.show.rows import Row, Table

#: How backbones are written, and their full width: the paper's or the method's own paper's; of CNN-9, whose appendix is
#: not in our copy, that of the authors' release.
BACKBONES = {
    "cnn4": ("CNN-4", 32),
    "cnn9": ("CNN-9", 32),
    "resnet12": ("ResNet-12", 64),
    "resnet34": ("ResNet-34", 64),
    "wrn28_10": ("WRN-28-10", 160),
}


def backbone_title(slot: Slot, method: Method) -> str:
    """A backbone as it is written, with its width where that is not full."""
    title, usual = BACKBONES[method.backbone]
    width = slot.width_of(method)
    return title if width == usual else f"{title} (width {width}, full {usual})"


def published(row: Row, slot: Slot, shot: str) -> tuple[float, float] | None:
    """An accuracy that others published on the very data, with half its interval."""
    found = row.method.published.get(str(slot.data["name"]), {}).get(shot)
    return None if found is None else (float(found[0]), float(found[1]))


def _paper_interval(row: Row) -> float | None:
    return row.method.interval.get(row.slot)


def _with(value: str, half: str) -> str:
    return f"{value} ± {half}" if value and half else value


def _milliseconds(row: Row) -> str:
    seconds = row.mean_of("adapt_seconds")
    return number(None if seconds is None else 1000 * seconds, 1)


def _measured() -> tuple[Column, ...]:
    """Our accuracy with its interval, and what that is over."""

    def part(place: int) -> Any:
        return lambda row: interval_texts(row.mean(ACCURACY))[place]

    def half(row: Row) -> str:
        found = row.mean(ACCURACY)
        return "" if found is None or found.low is None else number(found.mean - found.low)

    def unit(row: Row) -> str:
        found = row.replicates(ACCURACY)
        return "" if found is None else found.unit

    def counts(row: Row) -> list[int]:
        return [len(episode_accuracies(record)) for record in row.finished.values()]

    def trainings(row: Row) -> str:
        found = counts(row)
        return f"{found[0]} x {len(found)} trainings" if len(found) > 1 else str(sum(found))

    return (
        Column(part(0), "ours_mean"),
        Column(part(1), "ours_ci_low"),
        Column(part(2), "ours_ci_high"),
        Column(lambda row: level_of(row.mean(ACCURACY)), "level"),
        Column(lambda row: _with(part(0)(row), half(row)), heading="ours"),
        Column(unit, "unit"),
        Column(lambda row: f"{unit(row)}s" if half(row) else "", heading="interval over"),
        Column(lambda row: str(sum(counts(row))), "episodes"),
        Column(trainings, heading="episodes"),
    )


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
        slot = table.profile.slots[row.slot]
        trained = str(slot.recipe["episodes"]["shot"])
        for shot in map(str, slot.recipe["episodes"]["shots"]):
            # Published networks were trained with the shots they are tested with.
            others = published(row, slot, shot) if shot == trained else None
            ours = [record["result"]["shots"][shot] for record in row.finished.values()]
            values = (
                str(row.table),
                row.dataset,
                row.method.label,
                shot,
                number(others[0] if others else None, 1),
                number(others[1] if others else None, 1),
                number(sum(pair[0] for pair in ours) / len(ours) if ours else None),
                number(ours[0][1] if len(ours) == 1 else None),
                str(len(ours)),
            )
            found.append(dict(zip(SHOT_COLUMNS, values)))
    return found


def columns(table: Table) -> tuple[Column, ...]:
    """Accuracies with intervals over episodes or seeds, what others published, and what adapting costs."""
    slots = table.profile.slots
    shot = next((str(slot.recipe["episodes"]["shot"]) for slot in table.slots), "")
    compared = any(published(row, slots[row.slot], shot) for row in table.rows)

    def elsewhere(row: Row, place: int) -> str:
        found = published(row, slots[row.slot], shot)
        return number(found[place] if found else None, 1)

    heading = "published, same data" if compared else ""
    return (
        *row_columns(ACCURACY)[:1],
        Column(lambda row: row.dataset, "dataset"),
        Column(lambda row: row.method.label, "method", "method"),
        Column(lambda row: backbone_title(slots[row.slot], row.method), "backbone", "backbone"),
        Column(lambda row: ACCURACY.label, "metric"),
        Column(lambda row: shot, "shots"),
        Column(lambda row: number(row.printed(ACCURACY)), "paper"),
        Column(lambda row: number(_paper_interval(row)), "paper_interval"),
        Column(
            lambda row: _with(number(row.printed(ACCURACY)), number(_paper_interval(row))),
            heading="paper, Mini-ImageNet",
        ),
        Column(lambda row: elsewhere(row, 0), "published"),
        Column(lambda row: elsewhere(row, 1), "published_interval"),
        Column(lambda row: _with(elsewhere(row, 0), elsewhere(row, 1)), heading=heading),
        *_measured(),
        *seed_columns(ACCURACY),
        Column(
            lambda row: count(table.profile.run(row.method, row.slot, 0).images), "train_images", "training images"
        ),
        Column(lambda row: count(row.mean_of("adapted_parameters")), "adapted_parameters", "adapted parameters"),
        Column(_milliseconds, "adapt_milliseconds", "to adapt, ms"),
        size_column(),
        seconds_column(),
        *claim_columns(),
    )


def scope(table: Table) -> str:
    """What the profile trains on and how it tests, beside the paper."""
    profile = table.profile
    slots = table.slots
    episodes = slots[0].recipe["episodes"]
    widths = {(row.method.backbone, slots[0].width_of(row.method)) for row in table.rows}
    other = {
        known: sorted(width for name, width in widths if name == known and width != usual)
        for known, (_, usual) in BACKBONES.items()
    }
    reduced = [
        f"{title} {', '.join(map(str, other[known]))} (full {usual})"
        for known, (title, usual) in BACKBONES.items()
        if other[known]
    ]
    words = f"Other widths than full: {'; '.join(reduced)}." if reduced else "All backbones have their full width."
    return (
        f"Profile {profile.name}, {', '.join(slot.title for slot in slots)}: {episodes['way']}-way "
        f"{episodes['shot']}-shot, {episodes['query']} queries a class, {episodes['count']} test episodes of the "
        f"novel classes, the same for every method. {words} Times to adapt leave out features that a frozen backbone "
        "computes once, and are of machines that did other work beside."
    )
