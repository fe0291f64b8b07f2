"""What a table's notebook shows, read from records: what the layers learned, curves, tables, verdicts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from reproduce import tasks
from reproduce.declare import plan
from reproduce.run.files import write_bytes
from reproduce.run.store import Store
from reproduce.show import figures, predictor_rows, words
from reproduce.show.cells import as_markdown
from reproduce.show.claim_tables import markdown_claims
from reproduce.show.overview import elsewhere
from reproduce.show.rows import Row, Table, make_table, make_tables
from reproduce.show.tables import markdown_rows, scope_sentence


def layer_name(path: str) -> str:
    """A layer's path in the network as a reader counts: ``stages.0.2.conv`` is "stage 1, layer 3"."""
    found = re.fullmatch(r"stages\.(\d+)\.(\d+)\.conv", path)
    return path if found is None else f"stage {int(found[1]) + 1}, layer {int(found[2]) + 1}"


def show(figure: Figure) -> Any:
    """The figure as an object that a notebook displays."""
    from IPython.display import Image

    return Image(figures.png(figure))


def text(markdown: str) -> Any:
    """Markdown as an object that a notebook displays."""
    from IPython.display import Markdown

    return Markdown(markdown)


class Report:
    """One table of one profile.

    Args:
        number: the table, by its name where it is beyond the paper.
        profile: name of the profile.
        results: folder of results, holding ``<profile>/runs``.
    """

    def __init__(self, number: plan.Key, profile: str, results: str | Path) -> None:
        self.profile = plan.profile(profile)
        self.store = Store(Path(results), profile)
        self.table: Table = make_table(number, self.profile, self.store)

    def _slots(self) -> dict[str, str]:
        return {
            slot: self.profile.slots[slot].title
            for slot in self.table.experiment.datasets
            if any(row.records for row in self.table.rows if row.slot == slot)
        }

    def _diverged(self) -> dict[str, dict[str, int]]:
        """The number of diverged runs by title and label."""
        return {
            title: {row.method.label: row.diverged for row in self._rows(slot)} for slot, title in self._slots().items()
        }

    def _rows(self, slot: str) -> list[Row]:
        return [row for row in self.table.rows if row.slot == slot]

    def scope(self) -> Any:
        """What was run here, beside what the paper ran."""
        seeds = sorted({len(row.records) for row in self.table.rows})
        counts = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        return text(f"**What was run here.** {scope_sentence(self.table)} Seeds per method: {counts}.")

    def predictors(self) -> Any:
        """The predictors of the dynamic rows, read off the networks."""
        slot = self.table.experiment.datasets[0]
        found = predictor_rows.predictors(self.profile, self.table.experiment.table, slot)
        headings = {"row": "row", **predictor_rows.HEADINGS}
        return text(as_markdown(headings, [{"row": label, **vars(item)} for label, item in found.items()]))

    def predictor_difference(self, first: str, second: str) -> Any:
        """In what the predictors of two rows, named by their keys, differ."""
        declared = self.table.experiment
        found = predictor_rows.predictors(self.profile, declared.table, declared.datasets[0])
        labels = [declared.method(key).label for key in (first, second)]
        parts = predictor_rows.differences(*(found[label] for label in labels))
        return text(f"*{labels[0]}* and *{labels[1]}* differ in " + "; ".join(parts) + ".")

    def learning_curves(self) -> Any:
        """The metric against training images, with intervals over seeds."""
        panels = {
            title: {
                row.method.label: [record["result"]["curve"] for record in row.records.values()]
                for row in self._rows(slot)
                if row.records
            }
            for slot, title in self._slots().items()
        }
        metric, task = self.table.metric, tasks.named(self.table.experiment.task)
        if not panels:
            return text("No run is stored yet.")
        names = {title: task.metric_title(metric, slot) for slot, title in self._slots().items()}
        return show(figures.learning_curves(panels, metric.name, names, self._diverged(), task.samples))

    def error_chart(self) -> Any:
        """Every metric of every seed, the mean, and the paper's value where the data are the paper's."""
        metrics, task = (self.table.metric, *self.table.experiment.metrics), tasks.named(self.table.experiment.task)
        panels = {
            (title, task.metric_title(metric, slot)): [
                (
                    row.method.label,
                    list(row.values(metric).values()),
                    row.printed(metric) if self.profile.slots[slot].same_data else None,
                )
                for row in self._rows(slot)
            ]
            for slot, title in self._slots().items()
            for metric in metrics
        }
        return show(figures.error_chart(panels, self._diverged())) if panels else text("No run is stored yet.")

    def errors(self) -> Any:
        """Paper against ours."""
        return text(markdown_rows(self.table))

    def claims(self) -> Any:
        """Every claim with its measured difference and verdict."""
        return text(markdown_claims(self.table))

    def answer(self) -> Any:
        """The verdicts in words, a sentence a claim."""
        return text(words.answer(self.table, elsewhere(make_tables(plan.every(), self.profile, self.store))))

    def observations(self, key: str) -> dict[str, Any]:
        """What the first stored run of a method learned; empty when there is none."""
        rows = [row for row in self.table.rows if row.method.key == key]
        found = (record["observations"] for row in rows for record in row.records.values())
        return next(filter(None, found), {})

    def static_similarities(self, key: str) -> Any:
        """The static similarities that a method learned, layer by layer."""
        layers = [(layer_name(item["layer"]), item["M"]) for item in self.observations(key).get("static", [])]
        return show(figures.static_similarities(layers)) if layers else text("Not recorded.")

    def dynamic_similarities(self, key: str) -> Any:
        """Mean and spread over patches of the masks that a method predicts, layer by layer."""
        layers = [
            (layer_name(item["layer"]), item["mean"], item["std"])
            for item in self.observations(key).get("dynamic", [])
            if "mean" in item and "std" in item
        ]
        return show(figures.dynamic_similarities(layers)) if layers else text("Not recorded.")

    def similarity_maps(self, key: str, layer: int = 0) -> Any:
        """The masks that one layer predicts over one test image."""
        seen = self.observations(key)
        layers = [item for item in seen.get("dynamic", []) if "maps" in item]
        if not layers or "image" not in seen:
            return text("Not recorded.")
        chosen = layers[min(layer, len(layers) - 1)]
        return show(figures.similarity_maps(seen["image"], chosen["maps"], layer_name(chosen["layer"])))


def draw_picture(profile: plan.Profile, store: Store, output: Path) -> Path:
    """The README's picture: what a dynamic layer predicts over one test image, from a run of Table 1."""
    report = Report(1, profile.name, store.folder.parent)
    seen = report.observations("dynamic")
    layers = [item for item in seen.get("dynamic", []) if "maps" in item]
    if not layers:
        raise ValueError(
            f"{store.runs} has no run of the dynamic network to draw; run `make reproduce PROFILE={profile.name}`."
        )
    drawn = figures.similarity_maps(seen["image"], layers[0]["maps"], layer_name(layers[0]["layer"]))
    write_bytes(output, figures.png(drawn))
    return output
