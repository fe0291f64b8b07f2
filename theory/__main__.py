"""`python -m theory`: the claims ledger and the completion speed comparison."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

from theory import missing

# One thread a process: the matrices are small, and sums then do not depend on the number of cores. This has to
# happen before numpy is loaded.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# Claims that share their runs are checked in one process; the longest go first.
TOGETHER = ((11, 12), (3, 4), (15, 22))
#: Processes, at most.
JOBS = 1024
LONGEST = (19, 8, 10, 20, 11, 9, 24, 23, 7)


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


def claims(only: list[str], *, quick: bool, out: Path, jobs: int) -> int:
    """Check claims and write the ledger; returns the number that fail (which is a result, not an error).

    The ledger is written after every claim, so that an interruption or a full disk loses none that is in it.

    Raises:
        ValueError: there is no such claim.
        OSError: the last of these writings failed.
    """
    from nsl.outputs import OutputError
    from nsl.processes import workers
    from theory.claims import ledger

    chosen = [ledger.find(name) for name in only] if only else ledger.registered()
    known = {claim.number: claim for claim in chosen}
    ledger.check_output(out)
    if quick:
        ledger.check_quick(out, known)
    started = time.perf_counter()
    verdicts: list[ledger.Verdict] = []
    failure: OutputError | None = None
    with workers(jobs) as pool:
        waiting = [pool.submit(ledger.run_group, group, quick) for group in _groups(sorted(known))]
        for future in as_completed(waiting):
            for number, finding, fates, seconds in future.result():
                verdict = ledger.Verdict(known[number], finding, quick, seconds, fates)
                verdicts.append(verdict)
                others = "".join(f"; {fate.upper()}: {name}" for name, fate in fates.items() if fate != "killed")
                print(f"{number:3d} {verdict.claim.id}: {finding.verdict} ({seconds:.1f} s){others}", flush=True)
            try:
                ledger.write(verdicts, out)
                failure = None
            except OutputError as error:
                if failure is None:
                    print(f"warning: {error} The claims go on.", file=sys.stderr, flush=True)
                failure = error
    if failure is not None:
        raise failure
    fails = sum(verdict.finding.verdict == ledger.FAILS for verdict in verdicts)
    profile = "quick profile: fewer seeds" if quick else "full profile"
    print(
        f"{len(verdicts)} claims ({profile}) in {time.perf_counter() - started:.0f} s, {fails} fail: "
        f"{out / 'claims.md'}"
    )
    return fails


def _parser() -> Any:
    from nsl.arguments import Parser, real, whole

    parser = Parser(prog="python -m theory", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    text = "check the claims, write claims.json and claims.md"
    command = commands.add_parser("claims", help=text, description=text)
    command.add_argument("--quick", action="store_true", help="fewer seeds (said so in the output)")
    command.add_argument("--out", type=Path, default=Path("results/theory"), help="folder (default: %(default)s)")
    command.add_argument(
        "--jobs", type=whole(1, JOBS), default=2, help="processes, one thread each (default: %(default)s)"
    )
    command.add_argument("--only", nargs="+", default=[], metavar="ID", help="claims by number or id")
    text = "time to training loss 1e-6 in 100x100 completion, against gradient descent with the same end"
    bench = commands.add_parser("bench", help=text, description=text)
    bench.add_argument("--out", type=Path, default=Path("results/bench"), help="folder (default: %(default)s)")
    bench.add_argument(
        "--limit",
        type=real(1e-3, 1e6),
        default=10.0,
        help="CPU seconds allowed to each baseline run (default: %(default)s)",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status (2: wrong input, said in one line on stderr; 130: Ctrl-C)."""
    try:
        options = _parser().parse_args(arguments)
        options.out = Path(os.path.expanduser(options.out))
        if options.command == "bench":
            from theory.bench import run

            run(options.out, limit=options.limit)
        else:
            claims(options.only, quick=options.quick, out=options.out, jobs=options.jobs)
    except ModuleNotFoundError as error:
        print(f"error: {missing(error)}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; claims that were checked are in the ledger.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
