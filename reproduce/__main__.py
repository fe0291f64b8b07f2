"""``python -m reproduce COMMAND``: runs, tables, notebooks, status.

Every complaint about input is one line on the standard error stream and exit code 2.
``REPRODUCE_TRACEBACK=1`` in the environment shows where it came from.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, NoReturn


class _Parser(argparse.ArgumentParser):
    """Complains as :class:`nsl.arguments.Parser` does; that one imports torch, which ``status`` does without."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        # `--seed 2` is not `--seeds 2`, which would mean two of them.
        super().__init__(*arguments, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help.")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    from reproduce.commands import COMMANDS  # in here, where Ctrl-C is heard

    made = _Parser(prog="python -m reproduce", description=__doc__.splitlines()[0])
    commands = made.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        one = commands.add_parser(name, help=command.help, description=command.help)
        command.declare(one)
        one.set_defaults(run=command.run)
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        chosen = parser().parse_args(arguments)
        return int(chosen.run(chosen))
    except (ValueError, OSError) as error:
        if os.environ.get("REPRODUCE_TRACEBACK"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
