"""What Table 6's notebook shows, read from records."""

from __future__ import annotations

from typing import Any

from reproduce.show import fewshot_controls, fewshot_figures, words
from reproduce.show.fewshot_tables import published
from reproduce.show.report import Report, show, text
from reproduce.show.rows import Row
from reproduce.show.tables import scope_sentence


class FewShotReport(Report):
    """The few-shot table of one profile; arguments as of :class:`reproduce.show.report.Report`."""

    def _measured(self) -> list[Row]:
        return [row for row in self.table.rows if row.finished]

    def scope(self) -> Any:
        """What was run here."""
        return text(f"**What was run here.** {scope_sentence(self.table)}")

    def _episodes(self) -> dict[str, Any]:
        """How the profile tests."""
        slot = next(name for name in self.table.experiment.datasets if name in self.profile.slots)
        return dict(self.profile.slots[slot].recipe["episodes"])

    def episode(self) -> Any:
        """The first test episode, as stored by the finetuning baseline."""
        found = self.observations("finetune").get("episode")
        if not found:
            return text("Not recorded.")
        return show(fewshot_figures.episode(found["png"], found["classes"], found["support"]))

    def adaptation(self, key: str) -> Any:
        """M before and after adapting to the first test episode."""
        layers = [
            (f"layer {number + 1}", item["before"], item["after"])
            for number, item in enumerate(self.observations(key).get("adaptation", []))
        ]
        return show(fewshot_figures.adaptation(layers)) if layers else text("Not recorded.")

    def _curves(self, key: str, xlabel: str, logarithmic: bool = False) -> Any:
        lines = {}
        for row in self._measured():
            record = next(iter(row.finished.values()))
            points = record["result"].get(key)
            if points:
                lines[row.method.label] = {float(x): (pair[0], pair[1]) for x, pair in points.items()}
        return show(fewshot_figures.curves(lines, xlabel, logarithmic)) if lines else text("No run is stored yet.")

    def shots(self) -> Any:
        """Accuracy against the number of support images a class."""
        found = self._episodes()
        others = f"{found['shot_count']} episodes; {found['count']} at {found['shot']}"
        return self._curves("shots", f"support images a class at test time ({others})", logarithmic=True)

    def steps(self) -> Any:
        """Accuracy against the number of steps at test time."""
        return self._curves("steps", f"steps on the support set ({self._episodes()['step_episodes']} episodes)")

    def controls(self) -> Any:
        """What of dynamic NSN's lead is the predicted similarity's."""
        slots = [slot for slot in self.table.experiment.datasets if slot in self.profile.slots]
        found = [fewshot_controls.paragraph(self.table, slot) for slot in slots]
        return text("\n\n".join(found) or "This profile has no few-shot data.")

    def moving(self) -> Any:
        """Static NSN beside its own descent without M."""
        found = [words.sentence(judged) for judged in self.table.claims if judged.claim.worse == "held"]
        return text("\n\n".join(found) or "This profile has no few-shot data.")

    accuracies = Report.errors

    def accuracy_chart(self) -> Any:
        """Ours with intervals; the paper's and other published values where the data are the same."""
        rows = []
        for row in self._measured():
            interval, slot = row.mean(row.metric), self.profile.slots[row.slot]
            assert interval is not None
            half = 0.0 if interval.low is None else interval.mean - interval.low
            others = published(row, slot, str(slot.recipe["episodes"]["shot"]))
            paper = row.printed(row.metric) if slot.same_data else None
            over = row.replicates(row.metric)
            assert over is not None
            rows.append((row.method.label, interval.mean, half, over.unit, paper, others))
        return show(fewshot_figures.accuracy_chart(rows)) if rows else text("No run is stored yet.")
