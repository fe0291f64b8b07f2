"""`python -m nsl.train`: training, export, evaluation, and one sentence for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nsl.arguments import pairs
from nsl.data import Dataset
from nsl.train import main
from nsl.training import Recipe
from nsl.training.evaluate import Evaluation
from nsl.training.export import ExportError, load_model

TRAIN = ["--model", "nsn9_static_unconstrained", "--option", "width=4", "--data", "digits"]
TRAIN += ["--data-option", "train_per_class=8", "--data-option", "test_per_class=4", "--iterations", "6"]
TRAIN += ["--batch-size", "16", "--learning-rate", "0.01", "--evaluations", "2", "--augment", "none"]


def test_a_trained_network_is_exported_with_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, result, board = tmp_path / "net.safetensors", tmp_path / "result.json", tmp_path / "board"
    more = ["--export", str(network), "--result", str(result), "--tensorboard", str(board)]
    assert main([*TRAIN, *more, "--checkpoint", str(tmp_path / "run.pt")]) == 0
    said = capsys.readouterr().out
    assert "parameters" in said
    model, about = load_model(network)
    assert about["model"]["name"] == "nsn9_static_unconstrained"
    assert about["data"]["class_names"][0] == "0"
    assert about["training"]["result"] == json.loads(result.read_text())["result"]
    assert not model.training
    assert list(board.iterdir())
    limits = [option for option in TRAIN if "per_class" in option]
    shared = ["--data-option", limits[0], "--data-option", limits[1]]
    assert main(["--evaluate", str(network), *shared]) == 0
    from_export = capsys.readouterr().out.partition(": ")[2]
    assert main(["--evaluate", str(tmp_path / "run.pt"), *TRAIN[:10]]) == 0
    assert capsys.readouterr().out.partition(": ")[2] == from_export
    assert from_export.strip() in said


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    files = ["--checkpoint", str(tmp_path / "run.pt"), "--result", str(tmp_path / "a.json")]
    assert main([*TRAIN, *files]) == 0
    before = json.loads((tmp_path / "a.json").read_text())
    assert main([*TRAIN, *files]) == 0
    assert json.loads((tmp_path / "a.json").read_text()) == before


def test_a_divergence_is_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--learning-rate", "1e30", "--warmup", "0"]) == 1
    assert "diverged: training loss" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--model and --data are needed"),
        (["--model", "cnn11", "--data", "digits"], "did you mean 'cnn10'?); model must be one of"),
        (["--model", "cnn9", "--data", "nope"], "Unknown data set 'nope'"),
        (["--model", "cnn9", "--data", "digits", "--option", "width"], "--option 'width' is not understood"),
        (["--model", "cnn9", "--data", "digits", "--option", "depth=3"], "has no argument 'depth'"),
        (["--evaluate", "nowhere.safetensors"], "nowhere.safetensors does not exist"),
        (["--evaluate", "nowhere.pt"], "name a checkpoint's --model and --data too"),
        ([*TRAIN, "--batch-size", "0"], "--batch-size: must be a whole number of 1"),
        ([*TRAIN, "--accumulate", "99"], "cannot be computed by 1 processes in 99 parts"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"nothing")
    with pytest.raises(ExportError, match=r"damaged\.safetensors is not a readable safetensors file"):
        load_model(damaged)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    with pytest.raises(ExportError, match=r"foreign\.safetensors has no description"):
        load_model(foreign)


def test_a_checkpoint_is_evaluated_as_the_network_that_it_is_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "run.pt")
    own = ["--model", "nsn9_dynamic_diagonal", "--option", "width=4", *TRAIN[4:]]
    assert main([*own, "--option", "residual=false", "--checkpoint", path]) == 0
    evaluate = ["--evaluate", path, *own[:10]]
    assert main(evaluate) == 2
    assert "holds another network; name its --model and --option" in capsys.readouterr().err
    assert main([*evaluate, "--option", "residual=false"]) == 0
    assert "not the data" not in capsys.readouterr().out
    assert main([*evaluate[:-1], "test_per_class=3", "--option", "residual=false"]) == 0
    assert "digits: not the data that run.pt was trained on" in capsys.readouterr().out


def test_options_are_json_where_they_can_be() -> None:
    assert pairs(["width=8", "predictor=cnn", 'predictor_options={"hidden": 4}'], "--option") == {
        "width": 8,
        "predictor": "cnn",
        "predictor_options": {"hidden": 4},
    }


@pytest.mark.parametrize(("schedule", "middle", "end"), [("cosine", 0.5, 0.0), ("constant", 1.0, 1.0)])
def test_schedules_have_their_shapes(schedule: str, middle: float, end: float) -> None:
    recipe = Recipe(iterations=1000, schedule=schedule, learning_rate=1.0, warmup=0.0)
    assert recipe.rate(500) == pytest.approx(middle, abs=1e-2)
    assert recipe.rate(999) == pytest.approx(end, abs=1e-2)


def test_a_compiled_network_learns_the_same(tmp_path: Path) -> None:
    pytest.importorskip("torch._inductor")
    found = []
    for more in ([], ["--compile"]):
        assert main([*TRAIN, *more, "--result", str(tmp_path / "r.json")]) == 0
        found.append(json.loads((tmp_path / "r.json").read_text())["result"]["train_loss"])
    assert found[0] == pytest.approx(found[1], abs=1e-3)


def test_a_network_is_evaluated_on_inputs_scaled_as_its_own_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tmp_path / "net.safetensors"
    seen: list[Dataset] = []
    assert main([*TRAIN, "--export", str(network)]) == 0

    def evaluated(_model: object, dataset: Dataset, _precision: str) -> Evaluation:
        seen.append(dataset)
        return Evaluation(1.0, None, 1.0)

    monkeypatch.setattr("nsl.train.evaluate", evaluated)
    assert main(["--evaluate", str(network), "--data-option", "test_per_class=4"]) == 0
    about = load_model(network)[1]["data"]
    assert (list(seen[0].mean), list(seen[0].std)) == (about["mean"], about["std"])
    assert "digits: not the data that net.safetensors was trained on" in capsys.readouterr().out
