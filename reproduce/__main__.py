"""``python -m reproduce COMMAND``: runs, tables, notebooks, status.

Every complaint about input is one line on the standard error stream and exit code 2.
``REPRODUCE_TRACEBACK=1`` in the environment shows where it came from.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
from typing import Any, NoReturn

#: Commands that find again what they had done.
_GOING_ON = ("all", "run", "select", "notebooks", "theory")
#: What a shell reports of a program that SIGPIPE ended.
UNREAD = 128 + 13


class _Parser(argparse.ArgumentParser):
    """Complains as :class:`nsl.arguments.Parser` does; that one imports torch, which ``status`` does without."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        # `--seed 2` is not `--seeds 2`, which would mean two of them.
        super().__init__(*arguments, **{"allow_abbrev": False, **options})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # argparse would leave what a command does not know to the whole program, whose help lists no options.
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help.")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    from reproduce.commands import COMMANDS  # in here, where Ctrl-C is heard

    made = _Parser(prog="python -m reproduce", description="Runs, tables, notebooks, status.")
    commands = made.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        one = commands.add_parser(name, help=command.help, description=command.help)
        command.declare(one)
        one.set_defaults(run=command.run)
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        chosen = parser().parse_args(given)
        code = int(chosen.run(chosen))
        sys.stdout.flush()
        return code
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError) and unread():
            return UNREAD
        if os.environ.get("REPRODUCE_TRACEBACK"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = given[:1] and given[0] in _GOING_ON
        print("Interrupted; the same command goes on from here." if goes_on else "Interrupted.", file=sys.stderr)
        return 130


def unread() -> bool:
    """Whether what read the output, such as ``head``, has ended; it has what it wanted, and the rest goes nowhere."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)  # only that it is broken
    if not output.poll(0):
        return False  # another pipe was it
    # Python writes what is still buffered when it ends, and would complain again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


if __name__ == "__main__":
    sys.exit(main())
