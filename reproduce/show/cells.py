"""What all tables share: numbers and intervals as text, rows as CSV and as Markdown."""

from __future__ import annotations

import csv
import io

from reproduce.verdicts.statistics import Interval, level_text


def number(value: float | None, digits: int = 2) -> str:
    """A number with stated digits; empty for None."""
    return "" if value is None else f"{value:.{digits}f}"


def interval_texts(interval: Interval | None) -> tuple[str, str, str]:
    """Mean, lower and upper end as text; empty where there is none."""
    if interval is None:
        return "", "", ""
    return number(interval.mean), number(interval.low), number(interval.high)


def level_of(interval: Interval | None) -> str:
    """The level of an interval in percent as text; empty where it has no ends."""
    return "" if interval is None or interval.low is None else level_text(interval.level).removesuffix(" %")


def between(low: str, high: str) -> str:
    """An interval as text; empty where there is none."""
    return f"{low} to {high}" if low else ""


def as_csv(columns: tuple[str, ...], rows: list[dict[str, str]]) -> str:
    """Rows as CSV with a header line."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def as_markdown(columns: dict[str, str], rows: list[dict[str, str]]) -> str:
    """Rows as a Markdown table; ``columns`` maps keys to headings."""
    return markdown_lines(list(columns.values()), [[row[key] for key in columns] for row in rows])


def markdown_lines(headings: list[str], rows: list[list[str]]) -> str:
    """Rows of cells as a Markdown table; an empty cell is a dash, and a bar in a cell is no border."""
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") or "–" for cell in row) + " |" for row in rows]
    return "\n".join(lines)
