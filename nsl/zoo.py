"""Trained networks to load: weights that a run kept, each with a card that says what it is.

    model = nsl.load(table=1, method="dynamic")     # the network of a table's row, in evaluation mode
    model = nsl.load("c0ffee")                      # by the first digits of its identity, or by a file's path
    mean, std = model.moments                       # of its data: it takes images in 0..1, less mean, by std
    print(nsl.zoo.find(table=1)[0].text())          # the card

`ID.safetensors` holds the weights and `ID.json` beside it the card. Weights are looked for in `folder`, else in
`NSL_WEIGHTS`, else in `results/PROFILE/weights` below the current folder and below the checkout of this file. Loading
runs no code of the file, and refuses one whose shapes are not those of the network that it names before it is built.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from nsl.training.export import ExportError, is_few_shot, moments_of, network_of, read_tensors

if TYPE_CHECKING:
    from nsl.fewshot import FewShotMethod

#: Two measurements of one network, in points, that differ by no more are equal: another processor's arithmetic may tip
#: an image or two of ten thousand.
TOLERANCE = 0.025

#: Of several profiles' networks the first is meant; others follow, the demo's are last.
PROFILES = ("paper", "cpu")


Moments = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation a channel, of values in 0..1."""


class ZooError(ValueError):
    """No such network, or a card that cannot be read; the sentence says what there is."""


@dataclass(frozen=True)
class Entry:
    """A kept network: `weights` is its file, `card` what is known of it (JSON-ready)."""

    weights: Path
    card: dict[str, Any]

    @property
    def identity(self) -> str:
        """The identity of the run that trained it."""
        return str(self.card["id"])

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the tables that it stands for: table, method, label, slot."""
        return list(self.card.get("rows", []))

    @property
    def title(self) -> str:
        """What it is, on what, from which seed."""
        return f"{self.card['label']} on {self.card['data']['title']}, seed {self.card['seed']}"

    @property
    def metric(self) -> str:
        """What it was measured by: "accuracy" or "test_error"."""
        return "accuracy" if "accuracy" in self.card["result"] else "test_error"

    @property
    def result(self) -> str:
        """What it measured."""
        return f"{self.metric.replace('_', ' ')} {self.card['result'][self.metric]:.2f} %"

    def fits(self, table: int | str | None, method: str | None, data: str | None, seed: int | None) -> bool:
        """Whether a row of it is the one asked for; None asks for nothing."""
        data_names = {self.card["data"]["name"], *(row["slot"] for row in self.rows)}
        if (data is not None and data not in data_names) or (seed is not None and seed != self.card["seed"]):
            return False
        if table is None and method is None:
            return True
        return any(table in (None, row["table"]) and method in (None, row["method"]) for row in self.rows)

    @property
    def moments(self) -> Moments:
        """Mean and std of the data that its images are normalised with, out of its file; what `load` gives has them
        too.

        Raises:
            ExportError: the file is damaged, or not one of ours.
        """
        return moments_of(self.weights, read_tensors(self.weights)[1])

    def load(self) -> nn.Module | FewShotMethod:
        """The network, or a fitted few-shot method; see `nsl.load`.

        Raises:
            ExportError: the file is damaged, not one of ours, or holds the network of another run than the card's.
        """
        tensors, about = read_tensors(self.weights)
        named = about.get("training", {}).get("id")
        if named is not None and named != self.identity:
            raise ExportError(
                f"{self.weights} holds the network of another run ({named}) than its card's ({self.identity}); put the "
                "right file there, or delete it and run again."
            )
        return _network(self.weights, tensors, about)

    def text(self) -> str:
        """The card in Markdown, and mean and std out of the file.

        Raises:
            ExportError: the file is damaged, or not one of ours.
        """
        mean, std = (", ".join(f"{value:.4f}" for value in part) for part in self.moments)
        return f"{self.card_text()}\n- images: in 0..1, less the mean ({mean}), divided by the std ({std})"

    def card_text(self) -> str:
        """What the card says, in Markdown."""
        card = self.card
        where = [f"{_table(row['table'])}: {row['label']}" for row in self.rows] or ["no row of a table"]
        recipe = ", ".join(f"{key} {value}" for key, value in card["recipe"].items())
        lines = [
            f"# {self.title}",
            "",
            f"- identity: `{self.identity}`, profile {card['profile']}",
            f"- stands for: {'; '.join(where)}",
            f"- network: {json.dumps(card['model'], sort_keys=True)}, {card['parameters']:,} parameters",
            f"- data: {card['data']['title']}, fingerprint `{card['data']['fingerprint']}`",
            f"- licence of the data: {card['data']['licence']}",
            f"- recipe: {recipe}",
            f"- result: {self.result}",
            f"- scope: {card['scope'] or 'as in the paper'}",
            f"- limits: {card['limits']}",
        ]
        return "\n".join(lines)


def _table(key: int | str) -> str:
    return f"Table {key}" if isinstance(key, int) else f"beyond the paper, {key}"


def folders(folder: str | os.PathLike[str] | None = None) -> list[Path]:
    """Where weights are looked for."""
    named = folder or os.environ.get("NSL_WEIGHTS")
    if named:
        path = Path(named).expanduser()
        if not path.is_dir():
            raise ZooError(f"The folder of weights {path} does not exist; name one such as results/cpu/weights.")
        return [path]
    roots = dict.fromkeys(root.resolve() for root in (Path.cwd(), Path(__file__).parents[1]))
    return [found for root in roots for found in sorted((root / "results").glob("*/weights")) if found.is_dir()]


def entries(folder: str | os.PathLike[str] | None = None) -> list[Entry]:
    """Every kept network that has a card: those of the fuller profile first, then by table and method."""
    found = []
    for place in folders(folder):
        for path in _seen(place, "*.json"):
            weights = path.with_suffix(".safetensors")
            if weights.is_file():
                found.append(Entry(weights, _card(path)))
    return sorted(found, key=_order)


def without_card(folder: str | os.PathLike[str] | None = None) -> list[Path]:
    """Files of networks that have no card yet: `python -m reproduce tables` writes cards."""
    found = (path for place in folders(folder) for path in _seen(place, "*.safetensors"))
    return [path for path in found if not path.with_suffix(".json").is_file()]


def _seen(place: Path, pattern: str) -> list[Path]:
    """Files of that name which are not hidden: macOS puts a `._NAME` beside every file it copies."""
    return sorted(path for path in place.glob(pattern) if not path.name.startswith("."))


def _card(path: Path) -> dict[str, Any]:
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        Entry(path, card).card_text()
        return card
    except (ValueError, LookupError, TypeError, AttributeError, UnicodeDecodeError):
        raise ZooError(f"{path} is no card of a network; `python -m reproduce tables` writes it again.") from None


def _order(entry: Entry) -> tuple[Any, ...]:
    profile = str(entry.card["profile"])
    rank = PROFILES.index(profile) if profile in PROFILES else len(PROFILES) + (profile == "demo")
    # Tables of the paper by number, then those beyond it by name, then networks of no table.
    rows = [(isinstance(row["table"], str), str(row["table"]).zfill(4), row["method"]) for row in entry.rows]
    first = min(rows, default=())
    return rank, profile, not rows, first, entry.card["data"]["name"], entry.card["seed"], entry.identity


def _keys(entry: Entry) -> str:
    """How a network's first row is asked for."""
    row, data = next(iter(entry.rows), None), entry.card["data"]["name"]
    return "" if row is None else f": table={row['table']!r}, method={row['method']!r}, data={data!r}"


def find(
    identity: str | None = None,
    *,
    table: int | str | None = None,
    method: str | None = None,
    data: str | None = None,
    seed: int | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> list[Entry]:
    """Kept networks, those meant first.

    Args:
        identity: its first digits.
        table, method: of the row, the method by its key in the table's declaration, such as "dynamic".
        data: name of the data set, such as "cifar10", its own or that which it stands for.
        seed: of the training.
        folder: where weights lie, see above.

    Raises:
        ZooError: the identity is empty, or there is no such network; the sentence says which there are.
    """
    if identity == "":  # every identity begins with it, so that the first network would be meant
        raise ZooError("The identity is empty; name one that `nsl zoo` lists.")
    known = entries(folder)
    if isinstance(table, str) and table.isascii() and table.isdigit():
        table = int(table)
    chosen = [entry for entry in known if identity is None or entry.identity.startswith(identity)]
    chosen = [entry for entry in chosen if entry.fits(table, method, data, seed)]
    if not chosen:
        asked = {"identity": identity, "table": table, "method": method, "data": data, "seed": seed}
        words = ", ".join(f"{name} {value}" for name, value in asked.items() if value is not None) or "anything"
        there = "; ".join(f"{entry.identity} ({entry.title}{_keys(entry)})" for entry in known[:8]) or "none"
        more = f" and {len(known) - 8} more" if len(known) > 8 else ""
        places = ", ".join(map(str, folders(folder))) or "results/*/weights"
        raise ZooError(f"No trained network for {words} in {places}; there are: {there}{more}. See `nsl zoo`.")
    return chosen


def load(
    which: str | os.PathLike[str] | None = None,
    *,
    table: int | str | None = None,
    method: str | None = None,
    data: str | None = None,
    seed: int | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Any:
    """A trained network by its table and method, by its identity, or from a file that ends in .safetensors.

    Args:
        which: the first digits of an identity, or a path.
        table, method, data, seed, folder: see `find`.

    Returns:
        Of Tables 1 to 5 the module in evaluation mode, from normalised images to logits: in 0..1, less the mean and
        divided by the std of its data, which are its attribute `moments`. Of Table 6 a fitted
        `nsl.fewshot.FewShotMethod`, which normalises by itself. Of several the first in the order of `entries`.

    Raises:
        ZooError: nothing was asked for, a file and something else, or there is no such network.
        ExportError: its file is damaged, or not one of ours.
    """
    asked = (which, table, method, data, seed)
    if all(value is None for value in asked):
        raise ZooError("Say which network: nsl.load(table=1, method='dynamic'), or an identity that `nsl zoo` lists.")
    if which is not None and str(which).endswith(".safetensors"):
        if any(value is not None for value in asked[1:]):
            raise ZooError(f"{which} is a file, which holds one network; leave out table, method, data and seed.")
        return load_file(Path(which))
    identity = None if which is None else str(which)
    return find(identity, table=table, method=method, data=data, seed=seed, folder=folder)[0].load()


def load_file(path: Path) -> nn.Module | FewShotMethod:
    """The network or few-shot method in a file, with `moments`; raises as `nsl.training.export.load_model`."""
    return _network(path, *read_tensors(path))


def _network(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> nn.Module | FewShotMethod:
    if is_few_shot(about):
        from nsl.fewshot.export import method_of

        return method_of(path, tensors, about)[0]
    network: Any = network_of(path, tensors, about)[0]
    network.moments = moments_of(path, about)
    return network


def measure(entry: Entry, root: str | os.PathLike[str] | None = None, *, download: bool = True) -> float:
    """Measure a kept network again as its run did: test error, or few-shot accuracy, in percent.

    Args:
        entry: the network.
        root, download: see `nsl.data.load`.

    Raises:
        DataError: its data are not there, or it was trained on none of `nsl.data.load` or `nsl.data.load_fewshot`, or
            on others. Images in another order than then are the same where they are the whole published set; for a
            few-shot method they are not, since episodes are drawn by place.
    """
    import torch

    from nsl.data import DataError, load_fewshot
    from nsl.data import load as load_data
    from nsl.data.known import is_published

    config = entry.card["config"]
    options = {key: value for key, value in config["dataset"].items() if key not in ("name", "fingerprint")}
    few_shot = config.get("task") == "few-shot"
    load_set: Any = load_fewshot if few_shot else load_data
    found = load_set(config["dataset"]["name"], root, download=download, **options)
    if found.fingerprint != config["dataset"]["fingerprint"] and (few_shot or not is_published(found)):
        raise DataError(
            f"The data of {entry.title} are not those it was trained on, or their files list them in another order: "
            "their fingerprints differ."
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(config["threads"])
    try:
        return (_measure_episodes if few_shot else _measure_images)(entry.load(), found, config["recipe"])
    finally:
        torch.set_num_threads(threads)


def check(
    entry: Entry, root: str | os.PathLike[str] | None = None, *, download: bool = True
) -> tuple[bool | None, str]:
    """Measure a kept network again and compare with its card.

    Returns:
        Whether they are equal to within `TOLERANCE`, which a damaged file never is, None where its data are not there;
        and a sentence.
    """
    from nsl.data import DataError

    try:
        value = measure(entry, root, download=download)
    except DataError as error:
        return None, f"{entry.title}: not checked. {error}"
    except ExportError as error:
        return False, f"{entry.title}: {error}"
    equal = abs(value - entry.card["result"][entry.metric]) <= TOLERANCE
    verdict = "equal" if equal else "NOT EQUAL"
    return equal, f"{entry.title}: its card says {entry.result}, measured now {value:.2f} %: {verdict}."


def _measure_episodes(method: Any, data: Any, recipe: dict[str, Any]) -> float:
    from nsl.fewshot import evaluate

    how = recipe["episodes"]
    tested = data.validation if how.get("split") == "validation" else data.novel
    return evaluate(method, tested, how["shot"], how["query"], how["count"], how["seed"]).mean


def _measure_images(network: Any, data: Any, recipe: dict[str, Any]) -> float:
    from nsl.models.modes import placed
    from nsl.training import evaluate

    return evaluate(placed(network), data, recipe["precision"]).error
