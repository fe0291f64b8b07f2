"""One look a method in all figures: its colour, its marker, and grey for the others where lines are many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from reproduce.declare import experiments

#: Okabe and Ito's eight colours (2008), which colour-blind readers can tell apart; black last.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, YELLOW, BLACK = OKABE_ITO
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", ":")
GREY = "0.62"

#: The colours of methods by their keys, the paper's own methods apart.
NSN = {
    "static": ORANGE, "static_uns": VERMILION, "static_joint": VERMILION, "meta_static": VERMILION,
    "dynamic": GREEN, "dynamic_uns": PINK, "dynamic_joint": PINK, "shared": PINK, "dynamic_cnn9": PINK,
    "dynamic_cnn": PINK, "meta_dynamic": BLACK, "similarity": PINK, "static_three": ORANGE, "three": GREEN,
}  # fmt: skip
OTHERS = {"cnn": BLUE, "finetune": BLUE, "mlp": BLUE, "euclidean": BLUE, "cnnpp": SKY}
OWN = NSN | OTHERS
#: What the others are compared with.
BASELINES = ("cnn", "finetune")
#: What is left to the methods that have no colour of their own; yellow, which pales on white, comes last.
SPARE = (BLACK, SKY, VERMILION, PINK, ORANGE, GREEN, BLUE, YELLOW)


@dataclass(frozen=True)
class Look:
    """How a line is drawn; ``behind`` for those that step back."""

    colour: str
    marker: str
    linestyle: str = "-"
    behind: bool = False


@cache
def _keys() -> dict[str, str]:
    """The declared methods' keys by their labels."""
    declared = (experiments.experiment(key) for key in (*experiments.tables(), *experiments.beyond()))
    return {method.label: method.key for table in declared for method in table.methods}


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """A look for each of the labels that meet in one figure.

    A method keeps its colour in all figures, unless another of the same colour stands before it in this one. Of more
    lines than there are colours only NSN's and the baseline's are coloured; the others are grey and told apart by
    marker and line.
    """
    many = len(labels) > len(OKABE_ITO)
    found: dict[str, Look] = {}
    taken: set[str] = set()
    wanted = {label: _keys().get(label, label) for label in labels}
    # Who has a colour of its own comes first, so that the spare ones are those that no such method needs here.
    for label in sorted(labels, key=lambda label: wanted[label] not in OWN):
        place, key = labels.index(label), wanted[label]
        if many and key not in NSN and key not in BASELINES:
            rank = sum(look.behind for look in found.values())
            style = LINES[rank // len(MARKERS) % len(LINES)]
            found[label] = Look(GREY, MARKERS[rank % len(MARKERS)], style, behind=True)
            continue
        free = [colour for colour in (OWN.get(key), *SPARE) if colour is not None and colour not in taken]
        colour = free[0] if free else SPARE[place % len(SPARE)]
        taken.add(colour)
        found[label] = Look(colour, MARKERS[place % len(MARKERS)])
    return {label: found[label] for label in labels}
