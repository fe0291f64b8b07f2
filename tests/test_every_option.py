"""No option of a command is ignored: another value changes what the command hands to what does its work, or is refused
in one line. The commands' own parsers are the table, so that an option without an entry here fails."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nsl.data.imagenet
import nsl.train
import nsl.training.stability
import nsl.zoo
import reproduce.__main__
import reproduce.console
import theory.__main__
import theory.bench
from reproduce.run.store import Store
from tests.reproduce.helpers import FAKE, write_profile

Main = Callable[[list[str]], Any]
HIDDEN = {"profiles", "backend"}  # with which tests replace the declarations and the trainings
DIGITS = ["--data", "digits", "--data-option", "train_per_class=2", "--data-option", "test_per_class=2"]
TRAIN = ["--model", "cnn9", "--option", "width=2", *DIGITS, "--iterations", "4", "--device", "cpu"]
TINY = ["--profile", "tiny", "--tables", "1", "--profiles", "{profiles}", "--backend", FAKE]
RESULTS = ["--results", "{folder}/results"]
#: Program, command: how to call it, and an ordinary command line.
PROGRAMS: dict[tuple[str, str], tuple[Main, list[str]]] = {
    **{
        ("reproduce", name): (reproduce.__main__.main, [name, *TINY, *RESULTS])
        for name in ("all", "run", "tables", "notebooks", "status")
    },
    ("reproduce", "plan"): (reproduce.__main__.main, ["plan", *TINY]),
    ("reproduce", "rehearse"): (reproduce.__main__.main, ["rehearse", *TINY]),
    ("reproduce", "select"): (reproduce.__main__.main, ["select", "tiny", "1", *TINY[4:], *RESULTS]),
    ("reproduce", "picture"): (reproduce.__main__.main, ["picture", *TINY[:2], *TINY[4:], *RESULTS]),
    ("reproduce", "compare"): (reproduce.__main__.main, ["compare", "{folder}/one", "{folder}/two"]),
    ("reproduce", "bench"): (reproduce.__main__.main, ["bench"]),
    ("reproduce", "theory"): (reproduce.__main__.main, ["theory"]),
    ("reproduce", "torture"): (reproduce.__main__.main, ["torture", "--tries", "1"]),
    ("reproduce", "site"): (reproduce.__main__.main, ["site"]),
    ("nsl", "zoo"): (reproduce.console.main, ["zoo"]),
    ("nsl", "completion"): (reproduce.console.main, ["completion", "bash"]),
    ("nsl.train", ""): (nsl.train.main, TRAIN),
    ("theory", "claims"): (theory.__main__.main, ["claims"]),
    ("theory", "bench"): (theory.__main__.main, ["bench"]),
    ("nsl.data.imagenet", ""): (nsl.data.imagenet.main, ["pack", "tiny_imagenet", "--root", "{folder}"]),
    ("nsl.training.stability", ""): (nsl.training.stability.main, []),
}
#: Option to what is added to that line; of a single command under (program, command, option).
ADDED: dict[Any, list[str]] = {
    "profile": ["--profile", "small"], "tables": ["--tables", "2"], "slots": ["--slots", "cifar100"],
    "methods": ["--methods", "cnn"], "seeds": ["--seeds", "1"],
    "data": ["--data", "{folder}/other"], "jobs": ["--jobs", "7"],
    "results": ["--results", "{folder}/elsewhere"], "executor": ["--executor", "submitit-local"],
    "cluster": ["--cluster", "{folder}/cluster.toml"], "set": ["--set", "tiny.width=5"], "runs": ["--runs"],
    "common": ["--common"], "output": ["--output", "{folder}/out"], "quick": ["--quick"],
    "out": ["--out", "{folder}/out"],
    "limit": ["--limit", "3"], "tries": ["--tries", "2"], "seed": ["--seed", "3"], "folder": ["--folder", "{folder}"],
    "root": ["--root", "{folder}/other"], "workers": ["--workers", "3"], "image_size": ["--image-size", "32"],
    "steps": ["--steps", "3"],
    ("reproduce", "theory", "only"): ["--only", "claims"], ("reproduce", "torture", "only"): ["--only", "kill-run"],
    ("theory", "claims", "only"): ["--only", "4"], ("reproduce", "bench", "names"): ["layers"],
    ("nsl", "zoo", "data"): ["check", "ab", "--data", "{folder}"], ("nsl", "zoo", "action"): ["show", "ab"],
    ("nsl", "zoo", "identity"): ["check", "ab"],
    # Of a training; the fields of the recipe are added below.
    "model": ["--model", "cnn9pp"], "option": ["--option", "variant=release"], "data_option": ["--data-option", "x=1"],
    ("nsl.train", "", "data"): ["--data", "glyphs"], ("nsl.train", "", "root"): ["--root", "{folder}/nowhere"],
    "evaluate": ["--evaluate", "{folder}/none.pt"], "device": ["--device", "gpu"], "accumulate": ["--accumulate", "2"],
    "compile": ["--compile"], "sync_batch_norm": ["--sync-batch-norm"], "checkpoint": ["--checkpoint", "{folder}/c.pt"],
    "checkpoint_minutes": ["--checkpoint", "{folder}/c.pt", "--checkpoint-minutes", "2"],
    "tensorboard": ["--tensorboard", "{folder}/board"], "export": ["--export", "{folder}/n.safetensors"],
    "result": ["--result", "{folder}/r.json"], "iterations": ["--iterations", "5"], "batch_size": ["--batch-size", "7"],
    "learning_rate": ["--learning-rate", "0.04"], "momentum": ["--momentum", "0.5"],
    "weight_decay": ["--weight-decay", "0.1"], "schedule": ["--schedule", "cosine"],
    "milestones": ["--milestones", "0.25"], "decay_factor": ["--decay-factor", "0.5"], "warmup": ["--warmup", "0.5"],
    "classifier_rate": ["--classifier-rate", "0.5"], "label_smoothing": ["--label-smoothing", "0.2"],
    "precision": ["--precision", "bfloat16"], "augment": ["--augment", "none"], "evaluations": ["--evaluations", "2"],
}  # fmt: skip
#: Positional arguments that the ordinary line has: the line with another one.
OTHER_LINE: dict[Any, list[str]] = {
    ("reproduce", "plan", "name"): ["plan", "small", *TINY[2:]],
    ("reproduce", "select", "name"): ["select", "small", "1", *TINY[4:], *RESULTS],
    ("reproduce", "select", "table"): ["select", "tiny", "2", *TINY[4:], *RESULTS],
    ("reproduce", "compare", "first"): ["compare", "{folder}/three", "{folder}/two"],
    ("reproduce", "compare", "second"): ["compare", "{folder}/one", "{folder}/three"],
    ("nsl", "completion", "shell"): ["completion", "zsh"],
    ("nsl.data.imagenet", "", "command"): ["verify", "tiny_imagenet", "--root", "{folder}"],
    ("nsl.data.imagenet", "", "name"): ["pack", "imagenet", "--root", "{folder}"],
}
_SELECT = """
[tiny.select.cifar10]
table = 1
methods = ["cnn"]
validation = 20
seeds = 1
candidates = [{ learning_rate = 0.01 }, { learning_rate = 0.02 }]
[small]
like = "tiny"
width = 3
"""


def parsers() -> dict[tuple[str, str], argparse.ArgumentParser]:
    """Every command's parser."""
    found: dict[tuple[str, str], argparse.ArgumentParser] = {
        ("nsl.train", ""): nsl.train.parser(),
        ("nsl.data.imagenet", ""): nsl.data.imagenet.parser(),
        ("nsl.training.stability", ""): nsl.training.stability.parser(),
    }
    programs = {"reproduce": reproduce.__main__.parser(), "nsl": reproduce.console.parser()}
    for program, parser in {**programs, "theory": theory.__main__._parser()}.items():
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                found |= {(program, name): sub for name, sub in action.choices.items()}
    passed_on = {*reproduce.console._RENAMED, "train"}  # what is given to these goes on as it is
    return {key: parser for key, parser in found.items() if key[0] != "nsl" or key[1] not in passed_on}


OPTIONS = [
    (*key, action.dest)
    for key, parser in parsers().items()
    for action in parser._actions
    if action.dest not in {"help", *HIDDEN}
]


def plain(value: Any) -> Any:
    """What was handed over, comparable between two calls."""
    if isinstance(value, nn.Module):
        return str(value), {name: tensor.tolist() for name, tensor in value.state_dict().items()}
    if hasattr(value, "fingerprint"):
        return value.fingerprint
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Store):
        return str(value.folder)
    # Not the place in memory, by which two calls may or may not differ.
    return value if isinstance(value, str | int | float | type(None)) else re.sub(r" at 0x[0-9a-f]+", "", str(value))


#: What does the work, and what it answers.
WORKERS: dict[str, Any] = {
    "reproduce.commands.tables.write_tables": [],
    "reproduce.commands.notebooks.execute_all": [],
    "reproduce.commands.progress.survey": [],
    "reproduce.commands.progress.lines": [],
    "reproduce.run.costs.estimate": None,
    "reproduce.run.costs.lines": [],
    "reproduce.run.rehearsal.rehearse": [],
    "reproduce.run.selection.rows": [],
    "reproduce.show.report.draw_picture": "",
    "reproduce.site.build.build": "",
    "reproduce.commands.differences": [],
    "reproduce.bench.run_benchmarks": 1,
    "theory.__main__.claims": 0,
    "reproduce.theory.execute": [],
    "theory.bench.run": None,
    "nsl.zoo.entries": [],
    "nsl.zoo.check": (True, "equal"),
    "nsl.data.imagenet.load_imagenet": argparse.Namespace(train_images=(), test_images=()),
    "nsl.data.imagenet.find": Path(),
    "nsl.data.imagenet.verify_packed": 1,
    "nsl.data.imagenet.measure": {"decoded": 1.0, "packed": 1.0, "ratio": 1.0},
    "nsl.train.save_model": None,
    "nsl.train.write_text": None,
    "nsl.train._logger": (None, lambda: None),
    "nsl.training.stability.load": None,
}


def handed(main: Main, line: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Any, ...]:
    """The exit code, the line of a refusal, what is printed, and what is handed over; the work itself is not done."""
    calls: list[Any] = []

    def noted(name: str, answer: Any) -> Callable[..., Any]:
        def work(*arguments: Any, **more: Any) -> Any:
            calls.append((name, plain(arguments), plain(more)))
            return answer

        return work

    class Executor:
        def __init__(self, *arguments: Any) -> None:
            calls.append((type(self).__name__, plain(arguments)))

        def execute(self, jobs: Any) -> Any:
            calls.append(plain(jobs))
            return argparse.Namespace(failures=[])

    class Elsewhere(Executor):
        pass

    entry = argparse.Namespace(identity="ab", title="net", result="1 %", text=lambda: "card")
    curve = argparse.Namespace(feature_norm=1.0, eigenvalue=1.0, limit=1.0, momentum_limit=1.0)
    result = argparse.Namespace(
        diverged=False, test_error=1.0, test_top5_error=None, test_loss=None, as_dict=lambda: {}
    )
    answers = WORKERS | {
        "nsl.zoo.find": [entry],
        "nsl.train.train": result,
        "nsl.training.stability.first_steps": ([], 0.0, curve),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, answer in answers.items():
            patch.setattr(name, noted(name, answer))
        patch.setattr("reproduce.commands.LocalExecutor", Executor)
        patch.setattr("reproduce.run.cluster.ClusterExecutor", Elsewhere)
        patch.setattr("reproduce.torture.Undisturbed", noted("Undisturbed", None))
        attack = argparse.Namespace(what="", attack=lambda _, folder, chance: calls.append(chance.random()) or 1)
        kinds = {kind: attack for kind in reproduce.torture.ATTACKS}
        patch.setattr("reproduce.torture.ATTACKS", kinds)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        fill = {"{folder}": str(folder), "{profiles}": str(folder / "profiles.toml")}
        for part, text in fill.items():
            line = [word.replace(part, text) for word in line]
        torch.manual_seed(0)
        code: Any = None
        with contextlib.suppress(SystemExit):
            code = main(line)
    said = capsys.readouterr()
    return code, said.err, said.out, calls


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options")
    path = write_profile(folder, seeds=2)
    path.write_text(path.read_text() + _SELECT)
    (folder / "cluster.toml").write_text('slurm_partition = "x"\n')
    (folder / "other").mkdir()
    for name in ("one", "two", "three"):
        (folder / name / "runs").mkdir(parents=True)
    return folder


@pytest.mark.parametrize(("program", "command", "option"), OPTIONS)
def test_no_option_of_a_command_is_ignored(
    program: str, command: str, option: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = (program, command, option)
    main, line = PROGRAMS[program, command]
    other = OTHER_LINE.get(key) or [*line, *(ADDED.get(key) or ADDED[option])]
    usual, found = handed(main, line, place, capsys), handed(main, other, place, capsys)
    assert usual[0] in (0, None), usual[1]
    assert usual[1] == ""
    assert found != usual
    if found[0] == 2:
        assert len(found[1].splitlines()) == 1


def test_every_command_is_here() -> None:
    assert set(parsers()) == set(PROGRAMS)
