"""A method has one colour in all figures."""

from __future__ import annotations

import pytest

from reproduce.declare import experiments
from reproduce.show.fewshot_figures import curves
from reproduce.show.looks import BASELINES, GREY, NSN, OKABE_ITO, OWN, looks

TABLES = (*experiments.tables(), *experiments.beyond())


def labels(table: experiments.Key) -> dict[str, str]:
    return {method.label: method.key for method in experiments.experiment(table).methods}


@pytest.mark.parametrize("table", TABLES)
def test_the_methods_of_one_figure_can_be_told_apart(table: experiments.Key) -> None:
    found = looks(list(labels(table)))
    assert list(found) == list(labels(table))
    assert len({(look.colour, look.marker, look.linestyle) for look in found.values()}) == len(found)
    coloured = [look.colour for look in found.values() if look.colour != GREY]
    assert len(set(coloured)) == len(coloured) <= len(OKABE_ITO)


@pytest.mark.parametrize("table", TABLES)
def test_the_same_method_keeps_its_colour_from_table_to_table(table: experiments.Key) -> None:
    for label, look in looks(list(labels(table))).items():
        key = labels(table)[label]
        if key in ("cnn", "cnnpp", "static", "dynamic") and look.colour != GREY:
            assert look.colour == OWN[key]


def test_of_many_lines_only_nsns_and_the_baseline_are_coloured_and_they_come_first_in_the_legend() -> None:
    keys = labels(6)
    found = looks(list(keys))
    assert {keys[label] for label, look in found.items() if not look.behind} == {
        key for key in keys.values() if key in NSN or key in BASELINES
    }
    axes = curves({label: {1.0: (50.0, 1.0), 5.0: (60.0, 1.0)} for label in keys}, "shots").axes[0]
    legend = axes.get_legend()
    assert legend is not None
    shown = [entry.get_text() for entry in legend.get_texts()]
    coloured = [label for label in shown if not found[label].behind]
    assert shown[: len(coloured)] == coloured


def test_a_label_that_no_table_declares_gets_a_spare_colour() -> None:
    assert looks(["something", "Baseline CNN"])["something"].colour not in (GREY, OWN["cnn"])
