"""The command ``nsl``: everything of the repository under one name, from a checkout or an installed wheel.

    nsl reproduce --profile demo --tables 1
    nsl theory | nsl train | nsl zoo | nsl plan | nsl status | nsl --version
    nsl completion bash > ~/.local/share/bash-completion/completions/nsl
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nsl.arguments import Parser

#: Commands that are those of ``python -m reproduce`` under another name, or the same.
_RENAMED = {"reproduce": "all", "theory": "theory", "plan": "plan", "status": "status", "tables": "tables"}

_HELP = {
    "reproduce": "train what is missing, write the tables, execute the notebooks",
    "theory": "check the claims of section 5 and execute the theory's notebooks",
    "train": "train any network on any data set, without the tables",
    "zoo": "list trained networks, show a card, measure one or all again",
    "plan": "what the tables cost: images, multiply-adds, hours, disk",
    "status": "what is done, running and missing, and how long the rest will take",
    "tables": "write the tables from the stored records",
    "completion": "print the completion script of a shell",
}


def parser() -> Parser:
    """The whole command line; ``train`` is declared by :mod:`nsl.train`."""
    import nsl
    from nsl.arguments import Parser
    from nsl.train import parser as train_parser
    from reproduce.commands import COMMANDS

    made = Parser(prog="nsl", description="Neural Similarity Learning: layers, tables and theory.")
    made.add_argument("--version", action="version", version=f"nsl {nsl.__version__}")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, original in _RENAMED.items():
        COMMANDS[original].declare(commands.add_parser(name, help=_HELP[name], description=_HELP[name]))
    train = train_parser()
    commands.add_parser(
        "train",
        help=_HELP["train"],
        description=train.description,
        formatter_class=train.formatter_class,
        parents=[train],
        conflict_handler="resolve",
    )
    zoo = commands.add_parser("zoo", help=_HELP["zoo"], description=_HELP["zoo"])
    zoo.add_argument("action", nargs="?", default="list", choices=("list", "show", "check"), help="default: list")
    zoo.add_argument("identity", nargs="?", default=None, help="its first digits; check without: all")
    zoo.add_argument("--folder", type=Path, default=None, help="folder of weights (default: results/*/weights)")
    zoo.add_argument("--data", type=Path, default=None, help="folder of the data, for check (of nsl train: --root)")
    completion = commands.add_parser("completion", help=_HELP["completion"], description=_HELP["completion"])
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    return made


def _zoo(chosen: argparse.Namespace) -> int:
    from nsl import zoo

    if chosen.action == "list" and chosen.identity is not None:
        raise ValueError(f"nsl zoo list takes no identity; nsl zoo show {chosen.identity} shows its card.")
    if chosen.action != "check" and chosen.data is not None:
        raise ValueError(f"--data is for nsl zoo check, not for {chosen.action}; leave it out.")
    if chosen.action == "list":
        found = zoo.entries(chosen.folder)
        for entry in found:
            rows = ", ".join(f"{row['table']}:{row['method']}" for row in entry.rows) or "-"
            print(f"{entry.identity}  {entry.card['profile']}  {rows}  {entry.title}: {entry.result}")
        bare = zoo.without_card(chosen.folder)
        if bare:
            print(f"{_bare(bare)}; `python -m reproduce tables` of their profile writes them.")
        if not found and not bare:
            print("No trained network is kept here; `nsl reproduce` keeps those it trains.")
        for line in _without_network(chosen.folder):
            print(line)
        return 0
    if chosen.action == "show":
        if chosen.identity is None:
            raise ValueError("nsl zoo show needs an identity, as `nsl zoo` lists them.")
        print(zoo.find(chosen.identity, folder=chosen.folder)[0].text())
        return 0
    # Without an identity all that are kept are measured again.
    several = zoo.entries(chosen.folder) if chosen.identity is None else zoo.find(chosen.identity, folder=chosen.folder)
    ends = []
    for entry in several if chosen.identity is None else several[:1]:
        equal, text = zoo.check(entry, chosen.data)
        if chosen.identity is not None and equal is None:
            raise ValueError(text)
        print(f"{entry.identity}  {text}", flush=True)
        ends.append(equal)
    bare = zoo.without_card(chosen.folder) if chosen.identity is None else []
    if bare:
        print(f"{_bare(bare)} and are not checked; `python -m reproduce tables` of their profile writes them.")
    left = ends.count(None) + len(bare)
    print(f"{len(ends) + len(bare)} networks: {ends.count(True)} equal, {ends.count(False)} not, {left} not checked.")
    # Nothing checked is nothing found in order.
    return int(False in ends or True not in ends)


def _bare(files: list[Path]) -> str:
    return f"{len(files)} networks in {', '.join(sorted({str(path.parent) for path in files}))} have no card"


def _without_network(folder: Path | None) -> list[str]:
    """A line a profile with records whose networks are not here: older runs kept none, or only some were copied."""
    from nsl import zoo
    from reproduce.run.store import record_files

    lines = []
    places = [place.parent / "runs" for place in zoo.folders(folder)]
    if folder is None and not os.environ.get("NSL_WEIGHTS"):  # what is named is meant alone
        places += Path("results").glob("*/runs")
    for runs in sorted({place.resolve(): place for place in places}.values()):
        stored = {path.stem for path in record_files(runs)}
        left = len(stored - {path.stem for path in (runs.parent / "weights").glob("*.safetensors")})
        if left:
            lines.append(f"{left} of the {len(stored)} records in {runs} have no trained network here.")
    return lines


def _completion(chosen: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError:
        raise ValueError("Completion needs shtab, which is not installed; run `pip install shtab`.") from None
    print(shtab.complete(parser(), shell=chosen.shell))
    return 0


def _run(arguments: list[str]) -> int:
    made = parser()
    chosen = made.parse_args(arguments)
    own: dict[str, Callable[[argparse.Namespace], int]] = {"zoo": _zoo, "completion": _completion}
    if chosen.command in own:
        return own[chosen.command](chosen)
    rest = arguments[arguments.index(chosen.command) + 1 :]
    if chosen.command == "train":
        from nsl.train import main as train

        return train(rest)
    from reproduce.__main__ import main as reproduce

    return reproduce([_RENAMED[chosen.command], *rest])


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code. Bad input is one line and code 2."""
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return code
    except ModuleNotFoundError as error:
        name = (error.name or "").split(".")[0]
        advice = "run `pip install 'neural-similarity-learning[reproduce]'`"
        print(f"error: this command needs {name}, which is not installed; {advice}.", file=sys.stderr)
        return 2
    except (ValueError, OSError, ImportError) as error:
        from reproduce.__main__ import UNREAD, unread

        if isinstance(error, BrokenPipeError) and unread():
            return UNREAD
        if os.environ.get("REPRODUCE_TRACEBACK"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # of zoo and completion: what trains says itself how it goes on
        print("Interrupted; nothing was stored.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
