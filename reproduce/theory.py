"""``python -m reproduce theory``: the claims of section 5 into the ledger, then the theory's notebooks.

The package ``theory`` knows nothing of this one; what executes notebooks lives here. Their one committed copy is
``results/theory/notebooks``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from reproduce.run.files import digest, path_argument
from reproduce.show import notebooks
from reproduce.show.closure import closure_texts

ROOT = notebooks.ROOT


def declare(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("--quick", action="store_true", help="fewer seeds (said so in the output)")
    default = Path("results/theory")
    parser.add_argument("--out", type=path_argument, default=default, help="folder (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each (default: %(default)s)")
    parser.add_argument("--only", choices=("claims", "notebooks"), default=None, help="one of the two (default: both)")


def sources() -> dict[str, Path]:
    """The theory's notebooks by name.

    Raises:
        FileNotFoundError: this is no checkout of the repository.
    """
    found = {path.stem: path for path in sorted(notebooks.SOURCES.glob("theory_*.py"))}
    if not found:
        raise FileNotFoundError(f"{notebooks.SOURCES} holds no theory_*.py; run this in a checkout of the repository.")
    return found


def inputs_hash(path: Path, out: Path, quick: bool) -> str:
    """Hash of everything an executed theory notebook depends on: its source, the files it imports and the ledger."""
    ledger = [file.read_text(encoding="utf-8") for file in (out / "claims.json",) if file.exists()]
    return digest([path.stem, "quick" if quick else "full", closure_texts(path), ledger])


def execute(*, quick: bool, out: Path, jobs: int) -> list[str]:
    """Execute the theory's notebooks that are out of date; returns one sentence a failure."""
    parameters = {"profile": "demo" if quick else "full", "out": str(notebooks.relative(out))}
    due = []
    for name, path in sources().items():
        mark, output = inputs_hash(path, out, quick), out / "notebooks" / f"{name}.ipynb"
        if notebooks.stamp(output) != mark:
            due.append((path, output, mark))
    print(f"theory: {len(sources()) - len(due)} of {len(sources())} notebooks are up to date.", flush=True)
    return notebooks.execute_due(due, parameters, jobs, lambda line: print(line, flush=True))


def run(arguments: argparse.Namespace) -> int:
    """Check the claims, then execute the notebooks."""
    # Sets the number of threads of the worker processes before they load numpy.
    from theory.__main__ import claims

    if arguments.jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {arguments.jobs}.")
    if arguments.only != "notebooks":
        claims([], quick=arguments.quick, out=arguments.out, jobs=arguments.jobs)
    if arguments.only != "claims":
        failures = execute(quick=arguments.quick, out=arguments.out, jobs=arguments.jobs)
        if failures:
            raise ValueError(" ".join(failures))
    return 0
