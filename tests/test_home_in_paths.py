"""A `~` in a path option is the home folder, also where the shell has not replaced it."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

import theory.__main__
from nsl import train
from nsl.data import imagenet
from reproduce.commands import COMMANDS
from reproduce.run import fingerprints


def test_every_path_option_of_reproduce_takes_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = ("data", "results", "cluster", "profiles", "output", "out", "first", "second", "folder")
    for name, command in COMMANDS.items():
        parser = argparse.ArgumentParser()
        command.declare(parser)
        for action in parser._actions:
            assert action.type is not Path, f"{name} {action.dest}"
            if action.dest in paths:
                assert callable(action.type)
                assert str(action.type("~/x")) == str(tmp_path / "x"), f"{name} {action.dest}"


def test_a_home_folder_that_does_not_exist_is_one_clear_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    from reproduce.__main__ import main

    assert main(["status", "--results", "~nobody_of_this_name/x"]) == 2
    assert "~nobody_of_this_name/x begins with a home folder that cannot be found" in capsys.readouterr().err
    assert train.main(["--evaluate", "~nobody_of_this_name/x"]) == 2
    assert "begins with a home folder that cannot be found" in capsys.readouterr().err


def test_the_data_folder_in_the_environment_takes_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("NSL_DATA", "~/data")
    fingerprints.check_folder(None)
    assert fingerprints.default_root() == tmp_path / "data"


def test_packing_and_training_and_theory_take_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SystemExit):
        imagenet.main(["pack", "tiny_imagenet_25", "--root", "~/data"])
    assert f"tiny_imagenet_25 is not under {tmp_path / 'data'}" in capsys.readouterr().err
    assert train.main(["--evaluate", "~/x.safetensors", "--data", "digits"]) == 2
    assert str(tmp_path / "x.safetensors") in capsys.readouterr().err
    seen = []
    monkeypatch.setattr("theory.bench.run", lambda out, *_, **__: seen.append(out) or 0)
    theory.__main__.main(["bench", "--out", "~/out"])
    assert seen == [tmp_path / "out"]
