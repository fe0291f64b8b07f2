"""Wrong inputs of all commands: each is one line and exit code 2, none is accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from nsl import train
from nsl.data import imagenet
from nsl.training import Recipe
from reproduce import __main__ as reproduce
from reproduce import console
from theory import __main__ as theory

TRAIN = "--model cnn9 --data digits --option width=2 --data-option train_per_class=2 --data-option test_per_class=2"
#: Nothing a number of a recipe can be.
NEVER = ("nan", "inf", "-inf", "x", "", "1e400", "-1")
NUMBERS = [f"--{field.name.replace('_', '-')}" for field in fields(Recipe) if field.type in ("int", "float")]
COUNTS = ("--iterations", "--batch-size", "--evaluations", "--accumulate")

VALUES: list[tuple[str, str]] = [
    *((option, value) for option in NUMBERS for value in NEVER),
    *((option, value) for option in COUNTS for value in ("0", "1.5", "1e3", "100000000000")),
    *(("--seed", value) for value in ("-1", "x", "1.5", str(2**70))),
    *(("--device", value) for value in ("gpu", "cpu:1", "meta", "cuda:x", "", "mps")),
    *(("--checkpoint-minutes", value) for value in ("nan", "-1", "inf", "x")),
    *(("--milestones", value) for value in ("nan", "-1", "2", "x", "inf", "0.9 0.1")),
    *(("--option", f"width={value}") for value in ("x", "0", "-1", "1.5", "true", "null", "[]", "1" + "0" * 18)),
    *(("--option", value) for value in ("width", "=3", "depth=3", "image_size=8", "num_classes=3", "variant=new")),
    *(("--data-option", value) for value in ("image_size=0", "image_size=x", "image_size=-8", "seed=1", "plain=3")),
    *(("--data-option", value) for value in ("validation=0", "validation=x", "validation=100000", "train=1", "a")),
    ("--warmup", "5"),
    ("--label-smoothing", "2"),
    ("--label-smoothing", "1"),
    ("--momentum", "1"),
    ("--decay-factor", "0"),
    ("--decay-factor", "10"),
    ("--schedule", "steep"),
    ("--precision", "fp8"),
    ("--augment", "mixup"),
    ("--data", "nope"),
    ("--data", ""),
    ("--model", "cnn11"),
    ("--root", "/nowhere/at/all"),
    ("--accumulate", "99"),
    ("--checkpoint", "{folder}"),
    ("--checkpoint", "{text}"),
    ("--checkpoint", "{text}/under"),
    ("--checkpoint", "/dev/null"),
    ("--export", "{folder}"),
    ("--export", "/dev/null"),
    ("--export", "{folder}/net.pt"),
    ("--export", "{text}/net.safetensors"),
    ("--result", "{folder}"),
    ("--result", "/dev/null"),
    ("--result", "{text}/r.json"),
    ("--tensorboard", "{text}"),
    ("--tensorboard", "/dev/null"),
    ("--evaluate", "{text}"),
    ("--nonsense", "1"),
    ("--iter", "5"),
]
MORE = [
    "",
    "--model cnn9",
    "--data digits",
    f"{TRAIN} --sync-batch-norm --device cpu",
    f"{TRAIN} --checkpoint-minutes 3",
    f"{TRAIN} --schedule linear --milestones 0.5",
    f"{TRAIN} --schedule cosine --decay-factor 0.5",
    f"{TRAIN} --result {{folder}}/a.safetensors --export {{folder}}/a.safetensors",
    f"{TRAIN} extra",
    "--evaluate {folder}",
    "--evaluate /dev/null --model cnn9 --data digits",
    "--evaluate {folder}/none.safetensors",
    "--evaluate {folder}/none.pt --model cnn9 --data digits",
    "--evaluate {folder}/none.pt",
    "--evaluate {text} --model cnn9 --data digits",
    "--evaluate {text} --model cnn9 --data digits --iterations 3",
    "--evaluate {folder}/none.safetensors --seed 3",
    "--evaluate {folder}/none.safetensors --compile",
    "--evaluate {folder}/none.safetensors --model cnn9",
    "--evaluate {folder}/none.safetensors --option width=3",
    "--evaluate {folder}/none.safetensors --export {folder}/x.safetensors",
]
THEORY = [
    "",
    "nonsense",
    "claims --jobs 0",
    "claims --jobs x",
    "claims --jobs 1000000",
    "claims --out {text}",
    "claims --out {text}/under",
    "claims --out /dev/null",
    "claims --only nothing",
    "claims --only 999",
    "claims --only",
    "claims --nonsense",
    "claims --qui",
    "claims extra",
    *(f"bench --limit {value}" for value in ("nan", "inf", "-1", "0", "x", "1e9")),
    "bench --out {text}",
    "bench --out /dev/null",
]
#: Of every command of `reproduce` that has the common options.
COMMON = [
    *(f"--tables {value}" for value in ("x", "0", "12", "3-1", "1-300000000", "1,,2", "-1", "1.5", "1-", "beyond,x")),
    *(f"--{name} {value}" for name in ("seeds", "jobs") for value in ("0", "-1", "x", "1.5", "1e3", "3000000", "nan")),
    *(f"--profile {value}" for value in ("gpu", "../cpu", "Demo", "demo+", "demo+nothing=1", "/etc/passwd")),
    *(f"--slots {value}" for value in ("nowhere", "cifar10,nowhere", ",")),
    *(f"--set {value}" for value in ("demo", "demo.width", "demo.width=x", "demo.width=0", "cpu.width=8", "=", "x.=1")),
    *(f"--set demo.slot.cifar10.recipe.{value}" for value in ("learning_rate=nan", "iterations=-1", "nothing=1")),
    "--data {folder}/none",
    "--data {text}",
    "--profiles {text}",
    "--profiles {folder}/none.toml",
    "--profiles {folder}",
    "--nonsense",
    "extra",
]
REPRODUCE = [
    "",
    "nonsense",
    "--nonsense",
    *(f"status {options}" for options in COMMON),
    "plan nothing",
    "plan demo --tables 99",
    "run --executor pbs",
    "run --cluster {text}",
    "run --executor slurm --cluster {folder}/none.toml",
    "run --results {text}",
    "run --results /dev/null",
    "tables --results {text}/under",
    "tables --results /dev/null/under",
    "select demo",
    "select demo 99",
    "select demo 2",
    "compare {folder}",
    "compare {folder} {folder}",
    "compare {text} {text}",
    "bench nonsense",
    "bench gpu nonsense",
    "bench --results {text}",
    "theory --jobs 0",
    "theory --jobs x",
    "theory --only everything",
    "theory --out {text}",
    "torture --tries 0",
    "torture --tries nan",
    "torture --only nothing",
    "site --results {folder}/none",
    "site --output {folder}",
    "picture --output {folder}",
]
CONSOLE = [
    "",
    "nonsense",
    "--nonsense",
    "status --tables x",
    "reproduce --seeds 0",
    "train --model cnn11 --data digits",
    "zoo sell",
    "zoo show",
    "zoo show nothing",
    "zoo show 0123 --folder {folder}",
    "zoo check nothing --folder {folder}",
    "completion",
    "completion fish",
]
PACK = [
    "",
    "pack",
    "pack imagenet",
    "pack nothing --root {folder}",
    "wrap imagenet --root {folder}",
    *(f"pack tiny_imagenet --root {folder}" for folder in ("{folder}", "{folder}/none", "{text}", "/dev/null")),
    *(f"pack imagenet --root {{folder}} --image-size {value}" for value in ("0", "-1", "x", "1.5", "100000")),
    *(f"pack imagenet --root {{folder}} --workers {value}" for value in ("0", "-1", "x", "100000")),
    "verify tiny_imagenet --root {folder}",
    "bench tiny_imagenet --root {folder}",
]

CASES: list[tuple[Callable[[list[str]], int | None], list[str]]] = [
    *((train.main, [*TRAIN.split(), option, *(value.split() or [""])]) for option, value in VALUES),
    *((train.main, line.split()) for line in MORE),
    *((theory.main, line.split()) for line in THEORY),
    *((reproduce.main, line.split()) for line in REPRODUCE),
    *((console.main, line.split()) for line in CONSOLE),
    *((imagenet.main, line.split()) for line in PACK),
]
if not torch.cuda.is_available():
    CASES += [(train.main, [*TRAIN.split(), "--device", device]) for device in ("cuda", "cuda:0")]


def test_the_table_is_long_enough() -> None:
    assert len(CASES) >= 300


def test_every_wrong_input_is_one_line_and_none_is_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("notes, and no checkpoint\n" * 9, encoding="utf-8")
    wrong = []
    for main, arguments in CASES:
        filled = [part.replace("{folder}", str(tmp_path)).replace("{text}", str(text)) for part in arguments]
        try:
            code: object = main(filled)
        except SystemExit as end:
            code = end.code
        except Exception as error:
            code = repr(error)
        said = capsys.readouterr().err
        lines = said.splitlines()
        if code != 2 or len(lines) != 1 or not lines[0].startswith("error: ") or "delete" in said:
            wrong.append(f"{' '.join(filled[-2:])}: {code} {said[:200]}")
    assert wrong == []
    assert text.read_text().startswith("notes")
