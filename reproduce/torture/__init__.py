"""``python -m reproduce torture``: kills, full disks, two commands at once, damaged checkpoints.

Every try disturbs a command in a temporary folder, gives the same command again, and compares what it stored with
that of an undisturbed one. ``results/`` is never touched.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from reproduce.show.cells import as_markdown
from reproduce.torture.attacks import ATTACKS, Lost, Score
from reproduce.torture.victims import VICTIMS, Undisturbed

MOST_TRIES = 1000
#: Names of all attacks: the kind and the command it disturbs.
NAMES = tuple(f"{kind}-{victim}" for kind, attack in ATTACKS.items() for victim in attack.victims)


def declare(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("--tries", default="20", help="tries of every attack (default: 20)")
    parser.add_argument("--only", action="append", default=None, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--seed", type=int, default=0, help="of the random moments, sizes and bytes (default: 0)")


def _try(kind: str, undisturbed: Undisturbed, folder: Path, chance: random.Random, score: Score) -> None:
    """One try, counted in ``score``."""
    score.tries += 1
    folder.mkdir(parents=True)
    try:
        score.struck += ATTACKS[kind].attack(undisturbed, folder, chance)
    except Lost as error:
        score.lost.append(str(error))


def run(arguments: argparse.Namespace) -> int:
    """Attack, and print a table of tries, survived and lost.

    Returns:
        0, or 1 if anything was lost.

    Raises:
        ValueError: an unknown attack, a wrong number of tries, or a command that fails without being disturbed.
    """
    from nsl.outputs import scratch  # imports torch, which other commands do without

    text, chosen = arguments.tries, arguments.only or NAMES
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MOST_TRIES):
        raise ValueError(f"--tries {text!r} is not understood; write a whole number from 1 to {MOST_TRIES}.")
    for name in chosen:
        if name not in NAMES:
            raise ValueError(f"--only {name!r} is no attack; choose from: {', '.join(NAMES)}.")
    scores = {}
    with scratch("reproduce-torture-") as temporary:
        known: dict[str, Undisturbed] = {}
        for name in chosen:
            kind, victim = name.split("-")
            if victim not in known:
                known[victim] = Undisturbed(VICTIMS[victim], temporary, known)
            score, chance = Score(), random.Random(f"{arguments.seed} {name}")
            for number in range(int(text)):
                _try(kind, known[victim], temporary / name / str(number), chance, score)
            scores[name] = score
            print(f"{name}: {score.tries - len(score.lost)} of {score.tries} survived.", flush=True)
    columns = {"attack": "attack", "what": "what", "tries": "tries", "struck": "struck"}
    columns |= {"survived": "survived", "lost": "lost"}
    rows = [
        {
            "attack": name,
            "what": ATTACKS[name.split("-")[0]].what,
            "tries": str(score.tries),
            "struck": str(score.struck),
            "survived": str(score.tries - len(score.lost)),
            "lost": str(len(score.lost)),
        }
        for name, score in scores.items()
    ]
    print("\n" + as_markdown(columns, rows))
    for name, score in scores.items():
        for line in score.lost:
            print(f"{name}: {line}")
    return 1 if any(score.lost for score in scores.values()) else 0
