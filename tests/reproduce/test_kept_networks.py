"""A run's trained network is kept with a card, and what is loaded measures what the record says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import nsl
from nsl import zoo
from nsl.fewshot import FewShotMethod
from nsl.training.export import ExportError
from reproduce.console import main
from reproduce.declare import plan
from reproduce.declare.plan import Profile
from reproduce.run import fingerprints
from reproduce.run.store import Store
from reproduce.run.worker import NslBackend, execute
from reproduce.show.cards import write_cards

RESULTS = Path(__file__).parents[2] / "results"
#: Networks that are in the repository, by profile and identity, but the demo's.
COMMITTED = {entry.identity: entry for entry in zoo.entries() if entry.card["profile"] != "demo"}
NAMES_OF_COMMITTED = list(COMMITTED) or [pytest.param("", marks=pytest.mark.skip(reason="none is kept here yet"))]

#: Rows that are trained here: table and method.
ROWS: tuple[tuple[plan.Key, str], ...] = (
    (1, "cnn"), (1, "dynamic"), (2, "static_joint"), (6, "static"), (6, "maml"),
    *(("stages", key) for key in ("finetune", "static_three", "three")),
)  # fmt: skip

#: MAML with few steps: its validation alone would take longer than all other rows.
MAML = {"train_steps": 2, "steps": 2, "validation_episodes": 2}


def small(profile: Profile) -> Profile:
    """The demo with a few steps a training."""
    images, episodes = profile.slots["cifar10"], profile.slots["mini_imagenet"]
    recipe = {part: {**settings} for part, settings in episodes.recipe.items()}
    for part in ("pretrain", "meta"):
        recipe[part]["iterations"] = 6
    recipe["episodes"] |= {"count": 10, "shots": [5], "step_counts": [], "shot_count": 4}
    slots = {
        **{
            name: replace(profile.slots[name], recipe={**images.recipe, "iterations": 12})
            for name in ("cifar10", "cifar10_fifth")
        },
        "mini_imagenet": replace(episodes, recipe=recipe, method={"maml": {"options": MAML}}),
    }
    return replace(profile, slots={**profile.slots, **slots})


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Runs of :data:`ROWS` with their networks and cards."""
    profile, backend = small(plan.profile("demo")), NslBackend()
    store = Store(tmp_path_factory.mktemp("results"), "demo")
    known = {}
    for table, key in ROWS:
        experiment = plan.experiment(table).within(profile.name)
        run = profile.run(experiment.method(key), experiment.datasets[0], 0)
        mark = backend.fingerprint(run, None)
        known[fingerprints.dataset_key(run.dataset)] = mark
        assert execute(run, mark, store, backend, None, False) is not None
    (store.folder / "data.json").write_text(json.dumps(known), "utf-8")
    assert write_cards(profile, store) == len(ROWS)
    return store


def record(store: Store, table: plan.Key, key: str) -> dict[str, Any]:
    (entry,) = zoo.find(table=table, method=key, folder=store.kept)
    found = store.read(entry.identity)
    assert found is not None
    return found


@pytest.mark.parametrize(("table", "key"), ROWS)
def test_a_reloaded_network_has_the_error_of_its_record(kept: Store, table: plan.Key, key: str) -> None:
    entry = zoo.find(table=table, method=key, folder=kept.kept)[0]
    result = record(kept, table, key)["result"]
    expected = result["accuracy"] if table == 6 else result["test_error"]
    assert zoo.measure(entry) == expected
    assert f"{expected:.2f} %" in entry.result


@pytest.mark.parametrize("identity", NAMES_OF_COMMITTED)
def test_a_committed_network_has_the_error_of_its_record(identity: str) -> None:
    entry = COMMITTED[identity]
    stored = Store(RESULTS, entry.card["profile"]).read(entry.identity)
    assert stored is not None, "its record is not beside it"
    assert stored["result"][entry.metric] == entry.card["result"][entry.metric]
    entry.load()
    equal, text = zoo.check(entry, download=False)
    if equal is None:
        pytest.skip(text)
    assert equal, text


def test_a_network_is_measured_on_its_images_in_another_order_and_on_no_others(
    kept: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = zoo.find(table=1, method="cnn", folder=kept.kept)[0]
    card = {**entry.card, "config": {**entry.card["config"], "dataset": {**entry.card["config"]["dataset"]}}}
    card["config"]["dataset"]["fingerprint"] = "0" * 16
    other = replace(entry, card=card)
    equal, said = zoo.check(other)
    assert equal is None
    assert "another order" in said
    monkeypatch.setattr("nsl.data.known.is_published", lambda data: data.name == "digits")
    assert zoo.check(other) == (True, zoo.check(entry)[1])


def test_all_networks_are_checked_by_one_command_and_what_cannot_be_says_why(
    kept: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [zoo.find(table=1, method=key, folder=kept.kept)[0].weights for key in ("cnn", "dynamic")]
    for path in [*places, *(path.with_suffix(".json") for path in places)]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert main(["zoo", "check", "--folder", str(tmp_path)]) == 0
    assert "2 networks: 2 equal, 0 not, 0 not checked." in capsys.readouterr().out
    card = json.loads(places[0].with_suffix(".json").read_text("utf-8"))
    card["result"]["test_error"] += 1
    (tmp_path / f"{places[0].stem}.json").write_text(json.dumps(card), "utf-8")
    other = json.loads(places[1].with_suffix(".json").read_text("utf-8"))
    other["config"]["dataset"] = {"name": "cifar10", "fingerprint": "0"}
    (tmp_path / f"{places[1].stem}.json").write_text(json.dumps(other), "utf-8")
    (tmp_path / "data" / "cifar-10-batches-bin").mkdir(parents=True)
    (tmp_path / "data" / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(b"half")
    assert main(["zoo", "check", "--folder", str(tmp_path), "--data", str(tmp_path / "data")]) == 1
    said = capsys.readouterr().out
    assert "NOT EQUAL" in said
    assert "not checked. " in said
    assert "2 networks: 0 equal, 1 not, 1 not checked." in said
    assert main(["zoo", "check", places[1].stem, "--folder", str(tmp_path), "--data", str(tmp_path / "data")]) == 2


def test_a_damaged_file_is_named_and_the_others_are_checked(
    kept: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [zoo.find(table=1, method=key, folder=kept.kept)[0].weights for key in ("cnn", "dynamic")]
    for path in [*places, *(path.with_suffix(".json") for path in places)]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    torn = tmp_path / places[0].name
    torn.write_bytes(torn.read_bytes()[:100])
    assert main(["zoo", "check", "--folder", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert str(torn) in said
    assert "2 networks: 1 equal, 1 not, 0 not checked." in said


def test_the_files_that_macos_puts_beside_others_are_none(kept: Store, capsys: pytest.CaptureFixture[str]) -> None:
    known = zoo.entries(kept.kept)
    beside = [path.with_name(f"._{path.name}") for entry in known for path in kept.kept.glob(f"{entry.identity}.*")]
    try:
        for path in beside:
            path.write_bytes(b"\x00\x05\x16\x07")
        assert zoo.entries(kept.kept) == known
        assert zoo.without_card(kept.kept) == []
        assert write_cards(small(plan.profile("demo")), kept) == len(ROWS)
    finally:
        for path in beside:
            path.unlink()
    assert len(beside) == 2 * len(known)


def test_the_zoo_says_how_many_records_have_no_network(kept: Store, capsys: pytest.CaptureFixture[str]) -> None:
    one = zoo.find(table=1, method="cnn", folder=kept.kept)[0].weights
    away = one.rename(one.with_suffix(".away"))
    try:
        assert main(["zoo", "--folder", str(kept.kept)]) == 0
    finally:
        away.rename(one)
    said = capsys.readouterr().out
    assert f"1 of the {len(ROWS)} records in {kept.folder / 'runs'} have no trained network here." in said
    assert said.count("have no trained network here") == 1  # nothing of results/, which nobody named
    assert len([line for line in said.splitlines() if "  demo  " in line]) == len(ROWS) - 1


def test_a_network_is_found_by_table_and_method_by_identity_and_by_file(kept: Store) -> None:
    entry = zoo.find(table=1, method="dynamic", folder=kept.kept)[0]
    ways = (
        nsl.load(table=1, method="dynamic", folder=kept.kept),
        nsl.load(table=2, method="dynamic", folder=kept.kept),
        nsl.load(entry.identity[:6], folder=kept.kept),
        nsl.load(entry.weights),
    )
    for model in ways:
        assert not model.training
        for name, tensor in ways[0].state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name])
    assert isinstance(nsl.load(table=6, method="maml", folder=kept.kept), FewShotMethod)


def test_a_loaded_network_brings_the_moments_of_its_data(kept: Store) -> None:
    from nsl.training.export import read_tensors

    for table, method in ((1, "cnn"), (6, "maml")):
        entry = zoo.find(table=table, method=method, folder=kept.kept)[0]
        data = read_tensors(entry.weights)[1]["data"]
        moments = (tuple(data["mean"]), tuple(data["std"]))
        assert entry.moments == moments
        assert nsl.load(entry.identity, folder=kept.kept).moments == moments
        assert nsl.load(entry.weights).moments == moments
        assert f"- images: in 0..1, less the mean ({moments[0][0]:.4f}, " in entry.text()


def test_images_normalised_by_hand_measure_what_the_card_says(kept: Store) -> None:
    entry = zoo.find(table=1, method="cnn", folder=kept.kept)[0]
    options = dict(entry.card["config"]["dataset"])
    del options["fingerprint"]
    model, digits = entry.load(), nsl.data.load(options.pop("name"), **options)
    mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in model.moments)
    with torch.no_grad():
        found = model((digits.test_images / 255 - mean) / std).argmax(1)
    assert 100 * (found != digits.test_labels).float().mean().item() == pytest.approx(zoo.measure(entry), abs=0.5)


def test_loading_leaves_the_random_state_alone(kept: Store) -> None:
    state = torch.random.get_rng_state()
    nsl.load(table=1, method="dynamic", folder=kept.kept)
    nsl.load(table=6, method="maml", folder=kept.kept)
    assert torch.equal(state, torch.random.get_rng_state())


def test_what_is_not_there_is_a_sentence_with_what_is(
    kept: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(zoo.ZooError, match=r"No trained network for table 5 in .*; there are: [0-9a-f]{16} \("):
        nsl.load(table=5, folder=kept.kept)
    with pytest.raises(zoo.ZooError, match="Say which network"):
        nsl.load()
    with pytest.raises(zoo.ZooError, match="is a file, which holds one network; leave out table"):
        nsl.load("net.safetensors", table=1)
    with pytest.raises(zoo.ZooError, match="does not exist; name one such as"):
        nsl.load(table=1, folder=tmp_path / "nowhere")
    monkeypatch.setenv("NSL_WEIGHTS", str(kept.kept))
    assert zoo.find(table=1, method="cnn", data="cifar10", seed=0)[0].card["data"]["name"] == "digits"
    with pytest.raises(zoo.ZooError, match="seed 3"):
        zoo.find(table=1, seed=3)


def test_a_card_says_data_with_licence_recipe_result_scope_and_limits(kept: Store) -> None:
    text = zoo.find(table=1, method="dynamic", folder=kept.kept)[0].text()
    for part in ("CC BY 4.0", "iterations 12", "test error", "scope: digits for CIFAR-10", "one training", "Table 2:"):
        assert part in text


def test_a_damaged_card_is_named(kept: Store, tmp_path: Path) -> None:
    entry = zoo.find(table=1, method="cnn", folder=kept.kept)[0]
    (tmp_path / "a.safetensors").write_bytes(entry.weights.read_bytes())
    (tmp_path / "a.json").write_text('{"id": "a"}', "utf-8")
    with pytest.raises(zoo.ZooError, match=r"a\.json is no card of a network"):
        zoo.entries(tmp_path)


def test_a_file_whose_shapes_are_others_is_refused_before_its_network_is_built(kept: Store, tmp_path: Path) -> None:
    from nsl.training.export import read_tensors, write_tensors

    entry = zoo.find(table=1, method="dynamic", folder=kept.kept)[0]
    tensors, about = read_tensors(entry.weights)
    about["model"]["options"]["width"] = 10**6  # terabytes, were it built
    write_tensors(tmp_path / "wide.safetensors", tensors, about)
    with pytest.raises(ExportError, match="does not fit the network that it names"):
        nsl.load(tmp_path / "wide.safetensors")
    about["model"]["name"] = "../etc"
    write_tensors(tmp_path / "other.safetensors", tensors, about)
    with pytest.raises(ExportError, match="cannot be built"):
        nsl.load(tmp_path / "other.safetensors")


def test_a_network_under_another_runs_name_is_refused_and_one_without_a_card_is_named(
    kept: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (zoo.find(table=1, method=method, folder=kept.kept)[0] for method in ("cnn", "dynamic"))
    (tmp_path / first.weights.name).write_bytes(second.weights.read_bytes())
    (tmp_path / f"{first.identity}.json").write_bytes(first.weights.with_suffix(".json").read_bytes())
    with pytest.raises(ExportError, match=f"holds the network of another run \\({second.identity}\\)"):
        nsl.load(first.identity, folder=tmp_path)
    (tmp_path / f"{first.identity}.json").unlink()
    assert main(["zoo", "check", "--folder", str(tmp_path)]) == 1
    assert "1 networks in" in (said := capsys.readouterr().out)
    assert "0 equal, 0 not, 1 not checked" in said
