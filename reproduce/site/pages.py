"""The site's source: Markdown pages written from records and tables, beside the notebooks and documents as they are."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

import nsl
from nsl import zoo
from reproduce.declare import plan
from reproduce.declare.overrides import base_of
from reproduce.run.files import write_bytes, write_text
from reproduce.run.store import Store, record_files
from reproduce.show import findings, words
from reproduce.show.notebooks import SOURCES, read_tables
from reproduce.show.overview import Shown, distinct, overview, records
from reproduce.show.rows import Table, shown_tables
from reproduce.show.tables import question, summary
from reproduce.site import forest
from reproduce.verdicts.statistics import Direction
from theory.claims.ledger import plain

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

#: The reference: pages with their modules. What ``nsl`` itself offers is told by the modules that it comes from.
_MODULES = {
    "nsl": ("nsl.data", "nsl.training", "nsl.fewshot", "nsl.zoo"),
    "theory": ("theory",),
}


def _offered() -> dict[str, list[str]]:
    """What ``nsl`` offers, by module, in the order in which ``nsl`` imports them; layers first."""
    found: dict[str, list[str]] = {}
    for name, value in vars(nsl).items():
        if name in nsl.__all__ and hasattr(value, "__module__"):
            found.setdefault(value.__module__, []).append(name)
    # Layers by how much they are asked for, then the rest.
    first = ("conv", "linear", "recurrent", "structures", "predictors")
    order = {f"nsl.layers.{name}": place for place, name in enumerate(first)}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))


def _reference(package: str, modules: tuple[str, ...]) -> str:
    """A page of the reference."""
    parts = [f"# {package}", ""]
    if package == "nsl":
        parts += ["```{eval-rst}", ".. automodule:: nsl", "   :no-members:", "```", ""]
        for module, names in _offered().items():
            parts += [f"## {module}", "", "```{eval-rst}", f".. automodule:: {module}"]
            parts += ["   :no-members:", "   :no-index:", ""]
            for name in names:
                kind = "class" if isinstance(getattr(nsl, name), type) else "function"
                parts += [f".. auto{kind}:: nsl.{name}", *(["   :members:"] if kind == "class" else []), ""]
            parts += ["```", ""]
    for module in modules:
        heading = [f"## {module}", ""] if module != package else []
        parts += [*heading, "```{eval-rst}", f".. automodule:: {module}", "   :members:", "```", ""]
    return "\n".join(parts)


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


def _claims_page(profile: plan.Profile, tables: list[Table], has_notebook: set[str]) -> list[str]:
    """One line a claim, by table, with links to its records and notebook; those not run share one."""
    lines = []
    for table in tables:
        heading = f"### {table.experiment.name}: {table.experiment.title}"
        if not any(row.records for row in table.rows):
            lines += [heading, "", "Not run.", ""]
            continue
        folder = f"notebooks/{profile.name}/"
        shown_in = [name for name in sorted(has_notebook) if name.startswith(folder)]
        reading = [name for name in shown_in if table.experiment.table in read_tables(name.removeprefix(folder))]
        links = words.listed([f"[notebook {name.removeprefix(folder)}]({name}.ipynb)" for name in reading] or [""])
        lines += [f"{heading} ({links})" if reading else heading, ""]
        lines += [question(table), "", words.count(table.claims), ""]
        for judged in table.claims:
            if judged.verdict.direction == Direction.NOT_RUN:
                continue
            shown = ", ".join(
                f'<a href="records/{profile.name}/{item}.json">{item[:6]}</a>' for item in records(table, judged)
            )
            linked = f" Records: {shown}." if shown and judged.verdict.seeds else ""
            said = f"*{judged.claim.words}* {words.sentence(judged)}{linked}"
            lines.append(f"- {_badge(judged.verdict.direction)} {said}")
        left = [judged for judged in table.claims if judged.verdict.direction == Direction.NOT_RUN]
        if left:
            named = " ".join(f"*{judged.claim.words.rstrip('.')}* ({judged.dataset})." for judged in left)
            lines.append(f"- {_badge(Direction.NOT_RUN)} {named}")
        lines.append("")
    return lines


def _badge(verdict: str) -> str:
    """A coloured word; the theory's "refuted" and "fails" have the colour of what disagrees."""
    kind = "disagrees" if verdict in ("refuted", "fails") else re.sub(r"[^a-z]+", "-", verdict)
    return f'<span class="verdict {kind}">{escape(verdict)}</span>'


def _answer(profile: plan.Profile, tables: list[Table], source: Path) -> list[str]:
    """What came out of one profile, in a minute and as a picture."""
    described = f"{profile.description[:1].upper()}{profile.description[1:]}."
    lines = [f"## The tables, trained again: profile {profile.name}", "", described, ""]
    if base_of(profile.name) == "demo":
        lines += ["The demo trains for minutes on stand-ins: its verdicts are no evidence about the paper.", ""]
    more = f"[Claim by claim, with what would decide those that are open](findings/{profile.name}.md)"
    return [*lines, overview(tables), "", more, "", *_forest(profile, distinct(tables), source)]


def _forest(profile: plan.Profile, claims: list[Shown], source: Path) -> list[str]:
    """The picture of all compared claims, for light and dark pages, wide and narrow ones."""
    if not forest.compared(claims):
        return []
    lines = []
    alt = "Every compared claim with its difference, interval and the paper's difference"
    for mode in ("light", "dark"):
        for width in ("wide", "narrow"):
            name = f"forest-{profile.name.replace('+', '-')}-{mode}-{width}.png"
            picture = forest.draw(claims, dark=mode == "dark", narrow=width == "narrow")
            write_bytes(source / "pictures" / name, picture)
            image = [f"```{{image}} pictures/{name}", f":alt: {alt}", f":class: only-{mode}", "```"]
            lines += [f"````{{container}} {width}-screen", *image, "````", ""]
    told = (
        "Differences in points, right of zero as the paper claims. A bar is the interval that decided; a hollow point "
        "has too few seeds for one; the tick is the paper's own difference. Claims about the same runs share a line."
    )
    return [*lines, told, ""]


#: The ledger's verdicts as a count says them, of one claim and of several.
_VERDICTS = {
    "holds": ("holds", "hold"),
    "refuted": ("is refuted", "are refuted"),
    "fails": ("fails", "fail"),
    "measured, not gated": ("is measured without a threshold", "are measured without a threshold"),
}


def _theory_part(results: Path) -> list[str]:
    """What came out of the theory, in a sentence a verdict."""
    path = results / "theory" / "claims.json"
    if not path.exists():
        return []
    claims: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["claims"]
    count = Counter(claim["verdict"] for claim in claims)
    said = words.listed([f"{number} {_VERDICTS.get(name, (name, name))[number > 1]}" for name, number in count.items()])
    lines = ["## The theory, checked numerically", ""]
    lines += [f"**Of {len(claims)} claims {said}.** [The ledger](ledger.md) has each with its figures.", ""]
    odd = [claim for claim in claims if claim["verdict"] in ("refuted", "fails")]
    return [*lines, *(f"- {_badge(claim['verdict'])} {plain(claim['statement'])}" for claim in odd), ""]


def _front(profiles: list[tuple[plan.Profile, Store]], has_notebook: set[str], results: Path, source: Path) -> str:
    lines = [
        "# Neural Similarity Learning, reproduced",
        "",
        "*Neural Similarity Learning* (Liu, Liu, Rehg, Song; NeurIPS 2019) replaces the inner product of kernel and "
        "patch in a convolution, $W^\\top X$, by $W^\\top M X$ with a learned matrix $M$. This page says what of the "
        "paper stands when its tables are trained again and its theory is checked. All of it is made from stored "
        "records.",
        "",
        "A claim about errors is decided by an interval from three seeds on; few-shot claims by one over the test "
        "episodes of single trainings, which their sentences say. [The guide](guide.md) has the rule.",
        "",
    ]
    if not profiles:
        lines += ["No run is stored yet; `make reproduce` makes some.", ""]
    made = [(profile, shown_tables(profile, store)) for profile, store in profiles]
    for profile, tables in made:
        lines += _answer(profile, tables, source)
    lines += _theory_part(results)
    for profile, tables in made:
        lines += [f"## Claim by claim: profile {profile.name}", ""]
        lines += _claims_page(profile, tables, has_notebook)
    results_of = [f"{kind}/{profile.name}" for profile, _ in profiles for kind in ("findings", "tables")]
    trees = {
        "Results": [*results_of, "networks"],
        "Notebooks": sorted(has_notebook),
        "Theory": ["ledger"] if (source / "ledger.md").exists() else [],
        "Documents": [name for name in DOCUMENTS if (source / f"{name}.md").exists()],
        "Reference": [f"api/{name}" for name in _MODULES],
    }
    for caption, entries in trees.items():
        if entries:
            lines += ["```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```", ""]
    return "\n".join(lines)


def _networks(profiles: list[tuple[plan.Profile, Store]]) -> str:
    """Trained networks that can be loaded, or that there are none."""
    lines = [
        "# Trained networks",
        "",
        "Every run keeps its network as `results/PROFILE/weights/ID.safetensors` with a card beside it; runs stored "
        "before that kept none. The files are not part of this site. `nsl.load(table=1, method=\"dynamic\")` or "
        "`nsl.load(\"ID\")` loads one, `nsl zoo show ID` prints its card, `nsl zoo check --data DIR` measures all "
        "again.",
        "",
    ]
    for profile, store in profiles:
        kept = zoo.entries(store.kept) if store.kept.is_dir() else []
        total = sum(1 for _ in store.records())
        lines += [f"## Profile {profile.name}", "", f"{len(kept)} of {total} records have their network here.", ""]
        if kept:
            lines += ["| table: method | network | result | scope | identity |", "|---|---|---|---|---|"]
        for entry in kept:
            rows = ", ".join(f"{row['table']}: {row['method']}" for row in entry.rows) or "a trial"
            scope = entry.card["scope"] or "as in the paper"
            cells = (rows, entry.title, entry.result, scope, f"`{entry.identity}`")
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
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
        killed, refused = (sum(end == kind for end in claim["mutants"].values()) for kind in ("killed", "refused"))
        shown = {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in claim["measured"].items()}
        parts = {
            "verdict": f"**{claim['verdict']}**",
            "threshold": plain(claim["threshold"]),
            "mutants killed": f"{killed} of {len(claim['mutants'])}" + (f", {refused} refused" if refused else ""),
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
        for path in record_files(store.runs):
            shutil.copyfile(path, target / path.name)
    write_text(source / "networks.md", _networks(profiles))
    if (results / "theory" / "claims.json").exists():
        write_text(source / "ledger.md", _ledger(results))
    for name, document in DOCUMENTS.items():
        if (root / document).exists():
            write_text(source / f"{name}.md", _document((root / document).read_text("utf-8")))
    if (SOURCES / "picture.png").exists():
        write_bytes(source / "pictures" / "picture.png", (SOURCES / "picture.png").read_bytes())
    for package, modules in _MODULES.items():
        write_text(source / "api" / f"{package}.md", _reference(package, modules))
    write_text(source / "index.md", _front(profiles, has_notebook, results, source))
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
