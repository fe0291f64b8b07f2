"""`python -m theory`: the claims ledger, the theory notebooks, and the completion speed comparison."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

# One thread a process: the matrices are small, and sums then do not depend on the number of cores. This has
# to
# happen before numpy is loaded.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = (
    "theory_flows",
    "theory_implicit_bias",
    "theory_counterexamples",
    "theory_margins",
    "theory_dynamics",
)
# Claims that share their runs are checked in one process; the longest go first.
TOGETHER = ((11, 12), (3, 4))
LONGEST = (19, 10, 11, 14, 9, 8, 15)


def _groups(numbers: list[int]) -> list[tuple[int, ...]]:
    left, groups = list(numbers), []
    for together in TOGETHER:
        chosen = tuple(number for number in together if number in left)
        if chosen:
            groups.append(chosen)
            left = [number for number in left if number not in chosen]
    groups += [(number,) for number in left]
    order = {number: place for place, number in enumerate(LONGEST)}
    return sorted(groups, key=lambda group: min(order.get(number, 99) for number in group))


def _pool(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"))


def claims(only: list[str], *, quick: bool, out: Path, jobs: int) -> int:
    """Check claims and write the ledger; returns the number that fail (which is a result, not an error)."""
    from theory.claims import ledger

    chosen = [ledger.find(name) for name in only] if only else ledger.registered()
    known = {claim.number: claim for claim in chosen}
    started = time.perf_counter()
    verdicts = []
    with _pool(jobs) as pool:
        waiting = [pool.submit(ledger.run_group, group, quick) for group in _groups(sorted(known))]
        for future in as_completed(waiting):
            for number, finding, fates, seconds in future.result():
                verdict = ledger.Verdict(known[number], finding, quick, seconds, fates)
                verdicts.append(verdict)
                survivors = "".join(f"; SURVIVED: {name}" for name, fate in fates.items() if fate != "killed")
                print(f"{number:3d} {verdict.claim.id}: {finding.verdict} ({seconds:.1f} s){survivors}", flush=True)
    ledger.write(verdicts, out)
    fails = sum(verdict.finding.verdict == ledger.FAILS for verdict in verdicts)
    profile = "quick profile: fewer seeds" if quick else "full profile"
    print(
        f"{len(verdicts)} claims ({profile}) in {time.perf_counter() - started:.0f} s, {fails} fail: "
        f"{out / 'claims.md'}"
    )
    return fails


def notebooks(*, quick: bool, out: Path, jobs: int) -> int:
    """Execute the theory notebooks into `out`/notebooks; returns the number that failed, each named on stderr."""
    from reproduce.notebooks import execute

    sources = {name: ROOT / "notebooks" / f"{name}.py" for name in NOTEBOOKS}
    missing = [str(path) for path in sources.values() if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{missing[0]} does not exist; run this in a checkout of the repository.")
    profile = "demo" if quick else "full"
    # Kernels run in the repository's root; a path relative to it names no one's home folder.
    folder = out.resolve()
    shown = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
    parameters = {"profile": profile, "out": str(shown)}
    with _pool(jobs) as pool:
        waiting: dict[Future[float], str] = {
            pool.submit(execute, path, out / "notebooks" / f"{name}.ipynb", parameters, f"theory-{profile}"): name
            for name, path in sources.items()
        }
        failed = 0
        for future in as_completed(waiting):
            try:
                print(f"notebook {waiting[future]}: {future.result():.0f} s", flush=True)
            except Exception as error:  # papermill wraps whatever a cell raised
                failed += 1
                lines = [line for line in str(error).splitlines() if line.strip()]
                reason = lines[-1].strip() if lines else type(error).__name__
                print(f"error: notebook {waiting[future]} failed: {reason}", file=sys.stderr, flush=True)
    return failed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m theory", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("claims", "check the claims, write claims.json and claims.md"),
        ("notebooks", "execute the theory notebooks"),
        ("all", "claims, then notebooks"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--quick", action="store_true", help="demo profile: fewer seeds (said so in the output)")
        command.add_argument("--out", type=Path, default=Path("results/theory"), help="folder (default: %(default)s)")
        command.add_argument("--jobs", type=int, default=2, help="processes, one thread each (default: %(default)s)")
        if name == "claims":
            command.add_argument("--only", nargs="+", default=[], metavar="ID", help="claims by number or id")
    text = "time to training loss 1e-6 in 100x100 completion, against fixed-step gradient descent in torch"
    bench = commands.add_parser("bench", help=text, description=text)
    bench.add_argument("--out", type=Path, default=Path("results/bench"), help="folder (default: %(default)s)")
    bench.add_argument(
        "--limit",
        type=float,
        default=10.0,
        help="CPU seconds allowed to each baseline run (default: %(default)s)",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (2: wrong input, said in one line on stderr)."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "bench":
            from theory.bench import run

            run(options.out, limit=options.limit)
            return 0
        if options.jobs < 1:
            raise ValueError(f"--jobs must be at least 1, got {options.jobs}.")
        if options.command in ("claims", "all"):
            claims(getattr(options, "only", []), quick=options.quick, out=options.out, jobs=options.jobs)
        if options.command in ("notebooks", "all"):
            return min(1, notebooks(quick=options.quick, out=options.out, jobs=options.jobs))
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
