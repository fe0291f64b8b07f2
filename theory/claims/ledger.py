"""The ledger: what a claim and a verdict are, the registry, and the files written."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from theory.claims import mutants

HOLDS, FAILS, MEASURED = "holds", "fails", "measured, not gated"
#: Numbers from here on are given to claims that are entered without one.
OWN_NUMBERS = 100
#: Of claims.json; 2 has a check sum.
SCHEMA = 2
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """`quick` is the demo profile: fewer seeds and smaller sizes, said so in each finding."""

    quick: bool = False

    def seeds(self, full: int, quick: int) -> list[int]:
        """The seeds 0, 1, ... of this profile."""
        return list(range(quick if self.quick else full))


@dataclass(frozen=True)
class Finding:
    """What a claim's check returns.

    Attributes:
        verdict: HOLDS, FAILS, MEASURED, "holds only under ..." or "refuted ...".
        measured: figures by name, rounded to three significant digits when written.
        experiment: what was run, with sizes and the number of seeds.
        note: anything a reader must know to read the figures.
    """

    verdict: str
    measured: dict[str, float]
    experiment: str
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """A theoretical statement that can be checked.

    Attributes:
        number, id: position in the ledger and short name.
        statement: the claim in words. source: who makes it. threshold: what counts as holding.
        check: the experiment.
        mutants: names of the wrong dynamics (`theory.claims.mutants`) under which the gate must fail.
    """

    number: int
    id: str
    statement: str
    source: str
    threshold: str
    check: Callable[[Settings], Finding]
    mutants: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A claim with its finding and the fate of its mutants: "killed", "refused" (see `fate`) or "survived".

    `seconds` is printed and kept out of the files, which two runs must agree on.
    """

    claim: Claim
    finding: Finding
    quick: bool
    seconds: float = field(compare=False)
    mutants: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "number": self.claim.number,
            "id": self.claim.id,
            "statement": self.claim.statement,
            "source": self.claim.source,
            "experiment": self.finding.experiment,
            "measured": {name: rounded(value) for name, value in self.finding.measured.items()},
            "threshold": self.claim.threshold,
            "verdict": self.finding.verdict,
            "mutants": self.mutants,
            "note": self.finding.note,
            "profile": "quick" if self.quick else "full",
        }


_REGISTRY: dict[str, Claim] = {}


def claim(
    number: int | None = None, id: str = "", *, statement: str, source: str, threshold: str, mutants: Iterable[str] = ()
) -> Callable[[Callable[[Settings], Finding]], Callable[[Settings], Finding]]:
    """Decorator: enter the function as the check of a claim.

    Args:
        number: place in the ledger; None: the next free one from 100 on. id: default the function's name.
        mutants: names of `theory.claims.mutants.MUTANTS` under which the check must not give the same verdict.
    Raises:
        ValueError: the number or the id is taken, or a mutant is unknown.
    """

    if isinstance(mutants, str):
        raise ValueError(f"mutants must be names in a list, got the text {mutants!r}.")
    mutants = tuple(mutants)  # an iterator is read once only

    def enter(check: Callable[[Settings], Finding]) -> Callable[[Settings], Finding]:
        name = id or check.__name__.replace("_", "-")
        taken = {known.number for known in _REGISTRY.values()}
        place = number if number is not None else max([OWN_NUMBERS - 1, *taken]) + 1
        if name in _REGISTRY or place in taken:
            raise ValueError(f"claim {place} ({name}) is entered twice.")
        unknown = [mutant for mutant in mutants if mutant not in mutants_known()]
        if unknown:
            raise ValueError(f"claim {name}: no mutant is called {unknown[0]!r}; known: {', '.join(mutants_known())}.")
        _REGISTRY[name] = Claim(place, name, statement, source, threshold, check, mutants)
        return check

    return enter


def shared(make: Callable[[Settings], T]) -> Callable[[Settings], T]:
    """Decorator of runs that several claims read: made once a process, for each profile and mutant."""
    kept: dict[tuple[bool, str], T] = {}

    @wraps(make)
    def made(settings: Settings) -> T:
        key = (settings.quick, mutants.active())
        if key not in kept:
            kept[key] = make(settings)
        return kept[key]

    return made


def mutants_known() -> list[str]:
    """Names of all mutants."""
    return list(mutants.MUTANTS)


def registered() -> list[Claim]:
    """All claims in the order of their numbers."""
    from theory.claims import load

    load()
    return sorted(_REGISTRY.values(), key=lambda known: known.number)


def find(name: str | int) -> Claim:
    """The claim with this id or number.

    Raises:
        ValueError: there is none.
    """
    for known in registered():
        if str(name) in (known.id, str(known.number)):
            return known
    raise ValueError(f"there is no claim {name!r}; known: {', '.join(f'{c.number}={c.id}' for c in registered())}.")


def run(known: Claim, *, quick: bool = False, mutate: bool = True) -> Verdict:
    """Check one claim and (with `mutate`) that it fails under each of its mutants, which run in the quick profile."""
    start = time.perf_counter()
    finding = known.check(Settings(quick))
    if not isinstance(finding, Finding):
        raise TypeError(f"the claim {known.id} must return a theory.Finding, got {type(finding).__name__}.")
    fates = {name: fate(known, name) for name in known.mutants} if mutate else {}
    return Verdict(known, finding, quick, time.perf_counter() - start, fates)


def check(name: str | int, *, quick: bool = False, mutate: bool = True) -> Verdict:
    """Check the claim with this id or number, one of your own for example."""
    return run(find(name), quick=quick, mutate=mutate)


def fate(known: Claim, mutant: str) -> str:
    """ "killed" if the claim's gate fails under the mutant, "refused" if the run itself raised, else "survived".

    Flows are not guarded here (`theory.trajectory.GUARDED`): what grows, becomes infinite or does not come to its end
    goes to the gate. A run raises where a convex program or a closed form does not take what comes; the claim's gate
    was then not asked.
    """
    with mutants.applied(mutant):
        try:
            finding = known.check(Settings(quick=True))
        except (ValueError, np.linalg.LinAlgError, FloatingPointError):
            return "refused"
    return "killed" if finding.verdict == FAILS else "survived"


def run_group(numbers: tuple[int, ...], quick: bool) -> list[tuple[int, Finding, dict[str, str], float]]:
    """Check several claims in one process (they may share their runs); (number, finding, mutants, seconds) each."""
    found = []
    for number in numbers:
        verdict = run(find(str(number)), quick=quick)
        found.append((number, verdict.finding, verdict.mutants, verdict.seconds))
    return found


def rounded(value: float) -> float:
    """`value` to three significant digits."""
    return float(f"{float(value):.2e}")


def verdict_of(*conditions: bool) -> str:
    """HOLDS if all conditions do, else FAILS."""
    return HOLDS if all(bool(condition) for condition in conditions) else FAILS


def check_output(out: Path) -> None:
    """Before the claims are checked: whether the ledger can be written, and the one that is there be read.

    Raises:
        ValueError: not.
    """
    from nsl.outputs import check_folder, check_regular

    check_folder(out, "--out")
    for name in ("claims.json", "claims.md"):
        check_regular(out / name, "the ledger's file")
    if (out / "claims.json").exists():
        read(out)


def _checksum(rows: list[dict[str, Any]]) -> str:
    """Of all that the rows say."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def read(out: Path) -> list[dict[str, Any]]:
    """The rows of `out`/claims.json.

    Raises:
        FileNotFoundError, ValueError: missing, unreadable, or not what was written.
    """
    path = Path(out) / "claims.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; make it with: python -m theory claims --out {out}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows, schema = list(found["claims"]), found["schema"]
        whole = schema == SCHEMA and found["checksum"] == _checksum(rows)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is not a ledger ({error}); delete it and run: python -m theory claims") from None
    if not whole:
        raise ValueError(f"{path} does not match its check sum; delete it and run: python -m theory claims")
    return rows


def check_quick(out: Path, numbers: Iterable[int]) -> None:
    """Raises ValueError where a quick check would replace rows of the full profile."""
    if not (Path(out) / "claims.json").exists():
        return
    full = [row["number"] for row in read(out) if row["profile"] == "full" and row["number"] in set(numbers)]
    if full:
        raise ValueError(
            f"{out} has claims {', '.join(map(str, full))} in the full profile, which a quick check would replace; "
            "name another folder with --out."
        )


def write(verdicts: Iterable[Verdict], out: Path) -> None:
    """Write `out`/claims.json and `out`/claims.md, keeping the rows of claims that were not run this time; the lock of
    `out`/claims.lock keeps apart processes that do so at a time.

    Raises:
        OutputError: a file cannot be written, or the folder has no locks. ValueError: the ledger there is damaged.
    """
    from nsl.locks import locked
    from nsl.outputs import write_text

    rows = [verdict.as_dict() for verdict in verdicts]
    fresh = {row["id"] for row in rows}
    known = {entry.id for entry in registered()}
    with locked(Path(out) / "claims.lock"):
        if (Path(out) / "claims.json").exists():
            rows += [row for row in read(out) if row["id"] not in fresh and row["id"] in known]
        rows.sort(key=lambda row: row["number"])
        # As it will be read: every number in the form that JSON gives it.
        rows = json.loads(json.dumps(rows))
        content = {"schema": SCHEMA, "claims": rows, "checksum": _checksum(rows)}
        write_text(Path(out) / "claims.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        write_text(Path(out) / "claims.md", markdown(rows))


def _killed(row: dict[str, Any]) -> str:
    fates = row.get("mutants", {})
    text = f"{sum(fate == 'killed' for fate in fates.values())} of {len(fates)}" if fates else "-"
    others = {kind: [name for name, fate in fates.items() if fate == kind] for kind in ("refused", "survived")}
    named = [f"{kind}: {', '.join(names)}" for kind, names in others.items() if names]
    return text + (f" ({'; '.join(named)})" if named else "")


def mutant_table(rows: list[dict[str, Any]]) -> str:
    """Which wrong dynamics each claim was run under, and whether its gate failed as it must."""
    used = [name for name in mutants.MUTANTS if any(name in row.get("mutants", {}) for row in rows)]
    lines = [
        "## Mutants",
        "",
        "Each gate is run again with the code under test made wrong on purpose; a gate that still passes measures "
        "nothing of what it speaks of. A flow that becomes infinite is kept at its last finite state. "
        '"Refused": the run itself raised (a program or a closed form did not take what came), so that the gate was '
        "not asked.",
        "",
        *(f"- **{name}**: {mutants.MUTANTS[name].text}" for name in used),
        "",
        "| # | " + " | ".join(used) + " |",
        "|---|" + "---|" * len(used),
    ]
    for row in rows:
        if row.get("mutants"):
            cells = (row["mutants"].get(name, "") for name in used)
            lines.append(f"| {row['number']} {row['id']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def ledger_text(*verdicts: Verdict) -> str:
    """Verdicts in the ledger's format, as Markdown."""
    return markdown([verdict.as_dict() for verdict in verdicts], heading="")


def plain(text: str) -> str:
    """Text whose signs mean themselves in Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>|$^~])", r"\\\1", text)


#: More figures than this are listed below the table.
READABLE = 12

HEADING = "# Claims ledger\n\nMade by `python -m theory claims`; figures to three significant digits.\n\n"


def markdown(rows: list[dict[str, Any]], *, details: bool = True, heading: str = HEADING) -> str:
    """The ledger as a readable table, with `details` after a heading and followed by a paragraph a claim."""
    lines = ["| # | claim | verdict | measured | threshold | mutants killed |", "|---|---|---|---|---|---|"]
    long: list[str] = []
    for row in rows:
        named = [f"{name}: {value:.3g}" for name, value in row["measured"].items()]
        figures = "; ".join(named)
        if len(named) > READABLE:
            long.append("\n".join([f"Measured for claim {row['number']}:", "", *(f"- {plain(one)}" for one in named)]))
            figures = f"{len(named)} figures, below"
        cells = (
            plain(f"{row['number']} {row['id']}"),
            plain(row["statement"]),
            f"**{row['verdict']}**",
            plain(figures),
            plain(row["threshold"]),
            plain(_killed(row)),
        )
        lines.append("| " + " | ".join(cells) + " |")
    text = "\n\n".join(["\n".join(lines), *long]) + "\n"
    if not details:
        return text
    text += "\n" + mutant_table(rows)
    notes = [
        f"**{row['number']}. {plain(row['id'])}** ({row['profile']} profile). Source: {plain(row['source'])}. "
        f"Experiment: {plain(row['experiment'])}" + (f" Note: {plain(row['note'])}" if row["note"] else "")
        for row in rows
    ]
    return heading + text + "\n" + "\n\n".join(notes) + "\n"
