"""What the theory notebooks share: a plotting style that colour-blind readers can use, and the ledger's rows."""

from __future__ import annotations

import io
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, black last.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")

#: What the ledger's last column counts.
MUTANTS = (
    "Mutant: the check run again with the dynamics made wrong; killed: the check failed, as it must; refused: the run "
    "itself raised."
)


def panels(count: int, width: float = 4.2, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    """A row of `count` axes, `width` x `height` inches each, in the shared style."""
    import matplotlib as mpl
    from cycler import cycler
    from matplotlib.figure import Figure

    style: Any = {
        "axes.prop_cycle": cycler(color=OKABE_ITO),
        "axes.grid": True,
        "grid.alpha": 0.3,
        "font.size": 9,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(width * count, height), dpi=95, layout="constrained")
        axes = figure.subplots(1, count, squeeze=False)
    return figure, list(axes[0])


def show(figure: Figure) -> Any:
    """The figure as a PNG that a notebook displays, the same bytes for the same drawing."""
    from IPython.display import Image

    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return Image(stream.getvalue())


def ledger_rows(numbers: list[int], *, out: Path, quick: bool) -> list[dict[str, Any]]:
    """The ledger's rows with these numbers: as recorded in `out`/claims.json, else checked now."""
    from theory.claims import ledger

    try:
        recorded = {row["number"]: row for row in ledger.read(out)}
    except FileNotFoundError:
        recorded = {}
    return [
        recorded[number] if number in recorded else _checked(number, quick)
        for number in numbers
    ]


@cache
def _checked(number: int, quick: bool) -> dict[str, Any]:
    """The row of a claim that is checked now, once a process."""
    from theory.claims import ledger

    return ledger.run(ledger.find(str(number)), quick=quick).as_dict()


def show_ledger(numbers: list[int], profile: str, out: str | None, results: str) -> Any:
    """The rows as rendered Markdown, each with the profile (full or quick: fewer seeds) it was checked in."""
    from IPython.display import Markdown

    from theory.claims import ledger

    rows = ledger_rows(numbers, out=_folder(out, results), quick=profile == "demo")
    texts = (f"{row['number']} ({row['profile']} profile): {row['experiment']} {row['note']}" for row in rows)
    notes = [ledger.plain(text) for text in texts]
    table = ledger.markdown(rows, details=False)
    return Markdown("\n\n".join([told_of_verdicts(rows), table, *notes, MUTANTS]))


def measured(number: int, profile: str, out: str | None, results: str) -> dict[str, float]:
    """What the ledger's row with this number has measured, by name."""
    (row,) = ledger_rows([number], out=_folder(out, results), quick=profile == "demo")
    return dict(row["measured"])


def told_of_verdicts(rows: list[dict[str, Any]]) -> str:
    """How often each verdict is given, in words."""
    found = Counter(row["verdict"] for row in rows)
    counts = "; ".join(f"{verdict}: {count}" for verdict, count in found.most_common())
    return f"**Verdicts of the {len(rows)} claims below: {counts}.**"


def _folder(out: str | None, results: str) -> Path:
    return Path(out) if out else Path(results) / "theory"
