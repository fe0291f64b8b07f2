"""The site's source: Markdown pages written from records and tables, beside the notebooks and documents as they are."""

from __future__ import annotations

import json
import re
import shutil
from html import escape
from pathlib import Path
from typing import Any

from reproduce.declare import plan
from reproduce.run.files import write_bytes, write_text
from reproduce.run.store import Store
from reproduce.show import findings, words
from reproduce.show.cells import plain
from reproduce.show.claims import Judged
from reproduce.show.notebooks import SOURCES
from reproduce.show.rows import Table, shown_tables
from reproduce.show.tables import summary
from reproduce.site import forest

#: Documents of the checkout by the page that they become; those that are absent are left out.
DOCUMENTS = {
    "guide": "docs/guide.md",
    "speed": "docs/speed.md",
    "support": "docs/support.md",
    "determinism": "docs/determinism.md",
    "gpu": "docs/gpu.md",
    "data": "docs/data.md",
    "paper": "PAPER.md",
    "discrepancies": "DISCREPANCIES.md",
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
}

_MODULES = {
    "nsl": ("nsl", "nsl.layers.structures", "nsl.data", "nsl.training", "nsl.fewshot", "nsl.zoo"),
    "theory": ("theory",),
}


def stores(results: Path) -> list[tuple[plan.Profile, Store]]:
    """The profiles that have records below ``results``, the fullest first."""
    found = []
    for folder in sorted(results.glob("*/runs")):
        try:
            profile = plan.profile(folder.parent.name)
        except ValueError:
            continue  # a folder of something else
        if any(folder.glob("*.json")):
            found.append((profile, Store(results, profile.name)))
    order = {"paper": 0, "cpu": 1, "demo": 3}
    return sorted(found, key=lambda item: (order.get(item[0].name, 2), item[0].name))


def _records(table: Table, judged: Judged) -> list[str]:
    """Identities of the records that a claim compares."""
    rows = [table.row(judged.slot, key) for key in (judged.claim.better, judged.claim.worse)]
    return [record["id"] for row in rows for record in row.records.values()]


def _claims_page(profile: plan.Profile, store: Store, tables: list[Table], has_notebook: set[str]) -> list[str]:
    """One line a claim, by table, with links to its records and notebook."""
    lines = []
    for table in tables:
        heading = f"### {table.experiment.name}: {table.experiment.title}"
        if not any(row.records for row in table.rows):
            lines += [heading, "", "Not run.", ""]
            continue
        link = f"notebooks/{profile.name}/{table.experiment.stem}"
        notebook = f" ([notebook]({link}.ipynb))" if link in has_notebook else ""
        lines += [f"{heading}{notebook}", "", words.count(table.claims), ""]
        for judged in table.claims:
            found = _records(table, judged)
            shown = ", ".join(f'<a href="records/{profile.name}/{item}.json">{item[:6]}</a>' for item in found)
            records = f" Records: {shown}." if shown and judged.verdict.seeds else ""
            kind = re.sub(r"[^a-z]+", "-", str(judged.verdict.direction))
            badge = f'<span class="verdict {kind}">{escape(str(judged.verdict.direction))}</span>'
            lines.append(f"- {badge} *{judged.claim.words}* {words.sentence(judged)}{records}")
        lines.append("")
    return lines


def _front(profiles: list[tuple[plan.Profile, Store]], has_notebook: set[str], source: Path) -> str:
    lines = [
        "# Neural Similarity Learning, reproduced",
        "",
        "What came out of reproducing *Neural Similarity Learning* (Liu, Liu, Rehg, Song; NeurIPS 2019), made from "
        "stored records. A claim is decided by an interval from three seeds on (few-shot: over test episodes of single "
        "trainings, which the sentence says); [the guide](guide.md) has the rule.",
        "",
    ]
    if not profiles:
        lines += ["No run is stored yet; `make reproduce` makes some.", ""]
    for profile, store in profiles:
        tables = shown_tables(profile, store)
        claims = [(table.experiment.name, judged) for table in tables for judged in table.claims]
        described = f"{profile.description[:1].upper()}{profile.description[1:]}."
        lines += [f"## Verdicts of the {profile.name} profile", "", described, ""]
        lines += [f"**{words.count([judged for _, judged in claims])}**", ""]
        if profile.name == "demo":
            lines += ["The demo trains for minutes on stand-ins: its verdicts are no evidence about the paper.", ""]
        lines += [f"[What stands, what does not, and what would decide the rest](findings/{profile.name}.md)", ""]
        if forest.compared(claims):
            for mode in ("light", "dark"):
                name = f"forest-{profile.name.replace('+', '-')}-{mode}.png"
                write_bytes(source / "pictures" / name, forest.draw(claims, dark=mode == "dark"))
                alt = "Every compared claim with its difference, interval and the paper's difference"
                lines += [f"```{{image}} pictures/{name}", f":alt: {alt}", f":class: only-{mode}", "```", ""]
            lines += [
                "Differences in points, right of zero as the paper claims. A bar is the interval that decided; a "
                "hollow point has too few seeds for one; the tick is the paper's own difference.",
                "",
            ]
        lines += _claims_page(profile, store, tables, has_notebook)
    trees = {
        "Results": [f"{kind}/{profile.name}" for profile, _ in profiles for kind in ("findings", "tables")],
        "Notebooks": sorted(has_notebook),
        "Theory": ["ledger"] if (source / "ledger.md").exists() else [],
        "Documents": [name for name in DOCUMENTS if (source / f"{name}.md").exists()],
        "Reference": [f"api/{name}" for name in _MODULES],
    }
    for caption, entries in trees.items():
        if entries:
            lines += ["```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```", ""]
    return "\n".join(lines)


def _ledger(results: Path) -> str:
    """The theory's ledger: one section a claim, since its cells are too full for a table."""
    claims: list[dict[str, Any]] = json.loads((results / "theory" / "claims.json").read_text("utf-8"))["claims"]
    lines = [
        "# The theory's ledger",
        "",
        f"{len(claims)} claims of section 5, of the results it cites, and of NSL itself; each is compared with closed "
        "forms, convex programs or conserved quantities, and its gate is run again under wrong dynamics (mutants).",
        "",
    ]
    for claim in claims:
        killed = sum(end == "killed" for end in claim["mutants"].values())
        shown = {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in claim["measured"].items()}
        parts = {
            "verdict": f"**{claim['verdict']}**",
            "threshold": plain(claim["threshold"]),
            "mutants killed": f"{killed} of {len(claim['mutants'])}",
            "source": plain(claim["source"]),
            "experiment": plain(claim["experiment"]),
            "note": plain(claim["note"]),
        }
        lines += [f"## {claim['number']} {claim['id']}", "", plain(claim["statement"]), ""]
        lines += [f"- {name}: {text}" for name, text in parts.items() if text]
        lines += ["- measured:", *(f"  - {plain(key)}: {value}" for key, value in shown.items()), ""]
    return "\n".join(lines)


def _notebook(path: Path, target: Path) -> None:
    """A copy whose outputs hold nothing from elsewhere."""
    content = json.loads(path.read_text("utf-8"))
    for cell in content["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" in data and "http" in "".join(data["text/html"]):
                del data["text/html"]
    write_text(target, json.dumps(content))


def write_source(results: Path, root: Path, source: Path) -> None:
    """Write all pages into the empty folder ``source``.

    Args:
        results: folder of results.
        root: the checkout.
        source: where the pages go.
    """
    profiles = stores(results)
    has_notebook = set()
    for folder in [*(store.folder for _, store in profiles), results / "theory"]:
        for path in sorted((folder / "notebooks").glob("*.ipynb")):
            name = f"notebooks/{folder.name}/{path.stem}"
            _notebook(path, source / f"{name}.ipynb")
            has_notebook.add(name)
    for profile, store in profiles:
        write_text(source / "tables" / f"{profile.name}.md", summary(profile, store))
        write_text(source / "findings" / f"{profile.name}.md", findings.page(profile, store))
        target = source / "extra" / "records" / profile.name
        target.mkdir(parents=True, exist_ok=True)
        for path in store.runs.glob("*.json"):
            shutil.copyfile(path, target / path.name)
    if (results / "theory" / "claims.json").exists():
        write_text(source / "ledger.md", _ledger(results))
    for name, document in DOCUMENTS.items():
        if (root / document).exists():
            write_text(source / f"{name}.md", _document((root / document).read_text("utf-8")))
    if (SOURCES / "picture.png").exists():
        write_bytes(source / "pictures" / "picture.png", (SOURCES / "picture.png").read_bytes())
    for package, modules in _MODULES.items():
        parts = [f"# {package}", ""]
        for module in modules:
            parts += [f"## {module}", "", "```{eval-rst}", f".. automodule:: {module}", "   :members:", "```", ""]
        write_text(source / "api" / f"{package}.md", "\n".join(parts))
    write_text(source / "index.md", _front(profiles, has_notebook, source))
    configuration = Path(__file__).parent / "theme"
    shutil.copyfile(configuration / "conf.py", source / "conf.py")
    shutil.copytree(configuration / "static", source / "static", dirs_exist_ok=True)


def _document(text: str) -> str:
    """A document whose links to files of the repository are names only, and to other documents are pages."""
    pages = {Path(path).name: f"{name}.md" for name, path in DOCUMENTS.items()}

    def link(found: re.Match[str]) -> str:
        label, target = found[1], found[2]
        if target.startswith(("http", "#")):
            return found[0]
        name = Path(target.split("#")[0]).name
        return f"[{label}]({pages[name]})" if name in pages else label

    text = re.sub(r"!\[([^\]]*)\]\(([^)]*picture\.png)\)", r"![\1](pictures/picture.png)", text)
    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", link, text)
