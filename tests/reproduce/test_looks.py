"""A method has one colour in all figures."""

from __future__ import annotations

import pytest

from reproduce.declare import experiments
from reproduce.show.fewshot_figures import curves, spaced
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


def test_of_many_lines_only_nsns_and_the_baseline_are_coloured_and_the_others_are_named_at_their_ends() -> None:
    keys = labels(6)
    found = looks(list(keys))
    assert {keys[label] for label, look in found.items() if not look.behind} == {
        key for key in keys.values() if key in NSN or key in BASELINES
    }
    axes = curves({label: {1.0: (50.0, 1.0), 5.0: (60.0, 1.0)} for label in keys}, "shots").axes[0]
    legend = axes.get_legend()
    assert legend is not None
    assert {entry.get_text() for entry in legend.get_texts()} == {label for label in keys if not found[label].behind}
    named = {text.get_text() for text in axes.texts} - {"chance"}
    assert named == {label for label in keys if found[label].behind}


def test_labels_keep_their_distance_and_their_order() -> None:
    assert spaced([1.0, 5.0], 1.0) == [1.0, 5.0]
    assert spaced([5.0, 5.2, 1.0], 1.0) == pytest.approx([4.6, 5.6, 1.0])
    assert spaced([2.0, 2.0, 2.0], 1.0) == pytest.approx([1.0, 2.0, 3.0])
    assert spaced([], 1.0) == []


def test_a_label_that_no_table_declares_gets_a_spare_colour() -> None:
    assert looks(["something", "Baseline CNN"])["something"].colour not in (GREY, OWN["cnn"])
