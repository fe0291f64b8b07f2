"""The answer in words: one sentence a judged claim, and a count of a table's verdicts, from the verdicts themselves.

    On CIFAR-10, three seeds, 5.5 % of the paper's training: Dynamic NSN 0.57 points below Baseline CNN in test
    error [0.21, 0.93]; agrees in direction, smaller than the paper's 0.95.

Numbers are those of ``tableN_claims.csv``, digit by digit. There a difference is positive where it is as claimed; here
it is said whether the first method lies below or above the second, and the interval is of that distance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from reproduce import tasks
from reproduce.declare.experiments import Key
from reproduce.show import rankings
from reproduce.show.cells import number
from reproduce.show.rows import Table
from reproduce.verdicts.claims import KINDS, Computed
from reproduce.verdicts.judge import Judged
from reproduce.verdicts.statistics import EPISODE, Direction, Interval, joined, level_text

_SMALL = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

#: Verdicts in the order in which a count names them, of one claim and of several.
_COUNTED = {
    Direction.AGREES: ("agrees", "agree"),
    Direction.DISAGREES: ("disagrees", "disagree"),
    Direction.NO_EFFECT: ("shows no effect of the paper's size", "show no effect of the paper's size"),
    Direction.UNDECIDED: ("is undecided", "are undecided"),
    Direction.NOT_RUN: ("was not run", "were not run"),
}


def sentence(judged: Judged) -> str:
    """The verdict on one claim: data, replicates and scope; what was observed; what it says, beside the paper."""
    parts = [f"{_where(judged)}: {observed(judged)}", _verdict(judged)]
    parts += [judged.verdict.idle, judged.verdict.handicap, judged.verdict.alone, judged.verdict.late]
    parts += ["a control of ours, no claim of the paper"] if judged.claim.control else []
    if judged.verdict.direction != Direction.NOT_RUN:
        parts += [f"beside our control {_beside(control)}" for control in judged.controls]
    said = joined(*parts)
    return joined(said, "" if judged.claim.note in said else judged.claim.note) + "."


def _beside(control: Judged) -> str:
    """Where the first method lies beside a control."""
    interval, direction = control.verdict.interval, control.verdict.direction
    if interval is None:
        return f"{control.control_name}: {direction}"
    open_ = f", {direction}" if direction == Direction.UNDECIDED else ""
    return f"{control.control_name}, {_placed(control, interval.mean)}{_ends(interval)}{open_}"


def count(claims: Iterable[Judged]) -> str:
    """How many of the paper's claims have which verdict, as a sentence; controls of ours are not counted.

    Of the verdicts that say something it is named how many need no training: sizes that are counted on the networks,
    and what is computed; how many hold by how our networks were chosen; and how many compare a method that did nothing
    of what it is about.
    """
    every = list(claims)
    own = [judged for judged in every if not judged.claim.control]
    found = Counter(judged.verdict.direction for judged in own)
    untrained = Counter(judged.verdict.direction for judged in own if judged.verdict.counted)
    ways = {_computed(judged): None for judged in own if judged.verdict.counted}
    how = "counted or computed" if len(ways) > 1 else "computed" if True in ways else "counted on networks"
    built = Counter(judged.verdict.direction for judged in own if judged.claim.built)
    vain = Counter(judged.verdict.direction for judged in own if judged.verdict.vain)
    del vain[Direction.UNDECIDED]  # which says nothing anyway
    named = [
        f"{found[key]} {_COUNTED[key][found[key] > 1]}{_notes(untrained[key], found[key], how, built[key], vain[key])}"
        for key in _COUNTED
        if found[key]
    ]
    total, controls = sum(found.values()), sum(judged.claim.control for judged in every)
    if not named:
        return "No claim of the paper is about this."
    others = f"; {number_word(controls)} control{'s' * (controls > 1)} of ours not counted" if controls else ""
    return f"Of {total} claim{'s' if total > 1 else ''} {listed(named)}{others}."


def listed(parts: list[str]) -> str:
    """Parts of a sentence with commas and a last "and"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _computed(judged: Judged) -> bool:
    return judged.claim.kind == Computed.name


def _notes(untrained: int, total: int, how: str, built: int, vain: int) -> str:
    which = "" if total == 1 else "all " if untrained == total else f"{untrained} of them "
    notes = [f"{which}{how}, without training"] if untrained else []
    notes += [f"{built} by how our networks were chosen, the paper giving no sizes"] if built else []
    notes += [f"{vain} of a method that did nothing of what it is about"] if vain else []
    return f" ({'; '.join(notes)})" if notes else ""


def answer(table: Table, elsewhere: Mapping[tuple[Key, int], str]) -> str:
    """A table's answer in Markdown: the count of its verdicts, each claim with its sentence, then ranks.

    ``elsewhere``: by table and place of a claim, what other tables say of the same runs
    (`reproduce.show.overview.elsewhere`).
    """
    lines = []
    for place, judged in enumerate(table.claims):
        said = sentence(judged)
        if other := elsewhere.get((table.experiment.table, place)):
            said = f"{said.removesuffix('.')}; {other}."
        lines.append(f"- *{judged.claim.words}* {said}")
    ranks = rankings.markdown(table)
    return "\n".join([f"**{count(table.claims)}**", "", *lines, *(["", ranks] if ranks else [])])


def number_word(value: int) -> str:
    """A whole number as a word, from thirteen on in digits."""
    return _SMALL[value] if value < len(_SMALL) else str(value)


def replicates(judged: Judged) -> str:
    """Over what an interval is: so many seeds, or episodes."""
    verdict = judged.verdict
    if verdict.unit == EPISODE and verdict.interval is not None:
        return f"{verdict.interval.count} episodes"
    return f"{number_word(verdict.seeds)} seed{'' if verdict.seeds == 1 else 's'}"


def signed(judged: Judged) -> str:
    """What was observed in a table's cell: points, positive as claimed, with their interval; or what was counted."""
    verdict = judged.verdict
    if verdict.observed or verdict.interval is None:
        return verdict.observed
    low, high, level = verdict.interval.low, verdict.interval.high, level_text(verdict.interval.level)
    ends = "" if low is None or high is None else f" [{low:+.2f}, {high:+.2f}] at {level}"
    return f"{verdict.interval.mean:+.2f}{ends}"


def _where(judged: Judged) -> str:
    verdict = judged.verdict
    if _computed(judged):
        return "Computed in float64, without data or training"
    if verdict.direction == Direction.NOT_RUN:
        return f"Not run on {judged.dataset}"
    over = "counted on the networks" if verdict.counted else replicates(judged)
    data = verdict.scope.data or judged.dataset
    return ", ".join(part for part in (f"On {data}", over, str(replace(verdict.scope, data=""))) if part)


def observed(judged: Judged) -> str:
    """What the two methods were seen to do, in the direction in which it lies."""
    verdict, better, worse = judged.verdict, judged.better.label, judged.worse.label
    if verdict.direction == Direction.NOT_RUN:
        return f"{better} against {worse}{_measured(judged)}"
    if verdict.observed:
        return f"{better} beside {worse}, {verdict.observed}"
    if verdict.interval is None:
        return f"{better} against {worse}{_measured(judged)}, no difference can be stated"
    mean = verdict.interval.mean
    return f"{better} {_placed(judged, mean)} {worse}{_measured(judged)}{_ends(verdict.interval)}"


def _measured(judged: Judged) -> str:
    """What was compared; empty of what is counted, whose own words say it."""
    compared = KINDS[judged.claim.kind].replicated
    title = tasks.named(judged.better.task).metric_title(judged.claim.metric, judged.slot) if compared else ""
    return f" in {title}{_pairs(judged)}" if compared else ""


def _pairs(judged: Judged) -> str:
    """The values of the seeds that both methods have, where a row of the table has more and so another mean."""
    if not judged.pairs:
        return ""
    told = [f"seed {seed} {number(first)} against {number(second)}" for seed, (first, second) in judged.pairs.items()]
    return f" ({', '.join(told)})"


def _side(judged: Judged, gain: float) -> str:
    """Whether a gain puts the first method below or above the second."""
    return "above" if (gain >= 0) == judged.claim.metric.higher_is_better else "below"


def _placed(judged: Judged, gain: float) -> str:
    return f"{number(abs(gain))} points {_side(judged, gain)}"


def _ends(interval: Interval) -> str:
    """The interval of the distance, which is positive as the mean is; its level where it is not 95 %."""
    if interval.low is None or interval.high is None:
        return ""
    low, high = (interval.low, interval.high) if interval.mean >= 0 else (-interval.high, -interval.low)
    level = level_text(interval.level)
    return f" [{number(low)}, {number(high)}]" + ("" if level == "95 %" else f" at {level}")


def _verdict(judged: Judged) -> str:
    verdict, paper = judged.verdict, judged.paper
    direction, reason = verdict.direction, verdict.reason
    similar = judged.claim.kind == "similar"
    if direction == Direction.NOT_RUN:
        return _in_the_paper(judged)
    if verdict.observed:
        said = f"{direction} ({reason})" if reason else str(direction)
        return said if paper is None else f"{said}, the paper's own is {number(paper)} %"
    if direction == Direction.AGREES and similar:
        apart = ", if not equal" if reason else ""
        return f"agrees: similar within {judged.claim.margin:g} points{apart}, {_in_the_paper(judged)}"
    if direction == Direction.DISAGREES and similar:
        return f"disagrees: not similar within {judged.claim.margin:g} points, {_in_the_paper(judged)}"
    if direction == Direction.AGREES and reason and paper is not None:
        assert verdict.interval is not None
        assert verdict.interval.high is not None
        than = "smaller" if verdict.interval.high < paper else "larger"
        return f"agrees in direction, {than} than the paper's {number(paper)}"
    if direction == Direction.NO_EFFECT and paper is not None:
        even = ", nor of half of it, as it is of other data" if verdict.scope.data else ""
        return f"no effect of the paper's size, {number(paper)} {_side(judged, paper)}{even}"
    said = f"{direction} ({reason})" if reason else str(direction)
    return ", ".join(part for part in (said, _in_the_paper(judged)) if part)


def _in_the_paper(judged: Judged) -> str:
    """Where the paper has the first method; empty of what is no comparison, or of no claim of the paper."""
    if not KINDS[judged.claim.kind].replicated or judged.claim.control:
        return ""
    if judged.paper is not None:
        return f"in the paper {number(abs(judged.paper))} {_side(judged, judged.paper)}"
    if not judged.better.paper and not judged.worse.paper:  # not illegible: there is none
        return judged.claim.note or "the paper gives no number"
    if judged.claim.in_words:
        return f"in the paper {_side(judged, 1.0)}, in words only"
    claimed = "similar" if judged.claim.kind == "similar" else _side(judged, 1.0)
    return f"in the paper {claimed}, by how much is illegible"
