"""The command `nsl` does what make and `python -m` do, in a checkout and from an installed wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import nsl
from reproduce.console import main
from reproduce.declare import overrides, plan
from reproduce.declare.runs import run_id

ROOT = Path(__file__).parents[2]


def out(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == f"nsl {nsl.__version__}"


@pytest.mark.parametrize("command", ["reproduce", "theory", "train", "zoo", "plan", "status", "tables"])
def test_every_command_has_help_and_refuses_an_unknown_option(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    capsys.readouterr()
    assert main([command, "--no-such-option"]) == 2
    assert capsys.readouterr().err == (
        f"error: unrecognized arguments: --no-such-option; see nsl {command} --help.\n"
    )


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_the_commands(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = out(capsys, "completion", shell)
    for command in ("reproduce", "theory", "train", "zoo", "plan", "status"):
        assert command in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_help_of_train_says_what_it_does_with_examples_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = capsys.readouterr().out
    assert "Train any network of the package on any of its data sets, without the tables.\n\n    python -m" in said
    assert "(default: 0.53125 0.84375)" in " ".join(said.split())


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def press(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nsl.zoo.entries", press)
    assert main(["zoo", "check"]) == 130
    assert capsys.readouterr().err == "Interrupted; nothing was stored.\n"


def test_an_empty_zoo_and_a_wrong_identity_are_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "No trained network is kept here" in out(capsys, "zoo", "--folder", str(tmp_path))
    assert main(["zoo", "show", "--folder", str(tmp_path)]) == 2
    assert "needs an identity" in capsys.readouterr().err
    assert main(["zoo", "show", "abc", "--folder", str(tmp_path)]) == 2
    assert "No trained network for identity abc" in capsys.readouterr().err


def test_a_setting_overrides_the_profile_and_enters_the_identity() -> None:
    method = plan.experiment(1).method("dynamic")
    plain = plan.profile("cpu")
    name = overrides.named("cpu", ["cpu.width=16"])
    narrow = plan.profile(name)
    slots = [profile.slots["cifar10"] for profile in (plain, narrow)]
    assert narrow.name == "cpu+width=16"
    assert [slot.width for slot in slots] == [32, 16]
    assert [(slot.same_data, slot.same_width) for slot in slots] == [(True, True), (True, False)]
    runs = [profile.run(method, "cifar10", 0) for profile in (plain, narrow)]
    assert runs[1].model["width"] == 16
    assert run_id(runs[0].declared("")) != run_id(runs[1].declared(""))
    shorter = plan.profile(overrides.named("cpu", ["cpu.slot.cifar10.recipe.iterations=7"]))
    assert shorter.slots["cifar10"].recipe["iterations"] == 7
    assert shorter.slots["cifar10"].same_width
    assert plan.profile(overrides.named("cpu", ["cpu.width=32"])).slots["cifar10"].same_width
    own = plan.profile(overrides.named("cpu", ["cpu.slot.mini_imagenet.widths.cnn4=8"]))
    assert not own.slots["mini_imagenet"].same_width


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("cpu.widht=16", "has no single setting 'widht'"),
        ("cpu.width=wide", "must be a whole number of at least 1, as 32 is, got 'wide'"),
        ("cpu.recipe=1", "has no single setting 'recipe'"),
        ("demo.width=1", "write cpu.KEY=VALUE of the chosen profile"),
        ("cpu.width", "write cpu.KEY=VALUE"),
        ("cpu.width=../x", "is not understood"),
    ],
)
def test_a_setting_that_does_not_exist_or_fit_is_refused(
    setting: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--profile", "cpu", "--set", setting]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel and, for all the rest, this environment's packages."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    # Neither pip nor the build is to find this checkout by a path that the caller has set.
    elsewhere = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(build, capture_output=True, text=True, env=elsewhere)
    assert done.returncode == 0, done.stderr[-2000:]
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, env=elsewhere)
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    # The rest of this environment, without the finder that leads back to the checkout.
    theirs = next(Path(entry) for entry in sys.path if entry.endswith("site-packages"))
    for path in theirs.iterdir():
        own = "neural_similarity_learning" in path.name or path.suffix == ".pth"
        if not own and not (packages / path.name).exists():
            (packages / path.name).symlink_to(path)
    kernels = folder / "env" / "share" / "jupyter"
    if not kernels.exists():
        kernels.symlink_to(Path(sys.prefix) / "share" / "jupyter")
    return folder


def test_the_wheel_reproduces_table_1_of_the_demo_outside_a_checkout(installed: Path, tmp_path: Path) -> None:
    command = [str(installed / "env" / "bin" / "nsl"), "reproduce", "--tables", "1", "--seeds", "1"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1"}
    short = ["--set", "demo.slot.cifar10.recipe.iterations=6"]
    done = subprocess.run([*command, *short], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    made = tmp_path / "results" / "demo+slot.cifar10.recipe.iterations=6"
    assert (made / "notebooks" / "table1.ipynb").exists()
    assert len(list((made / "weights").glob("*.json"))) >= 4
    answer = re.search(r"Of \d+ claims", (made / "summary.md").read_text("utf-8"))
    assert answer is not None
    assert "In words" in (made / "notebooks" / "table1.ipynb").read_text("utf-8")
