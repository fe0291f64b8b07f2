"""The files around the packages agree with each other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pins_of_environment() -> set[str]:
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    return set(re.findall(r"^\s+- (\S+==\S+)$", text, flags=re.MULTILINE))


def test_environment_yml_has_the_pins_of_pyproject() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert pins_of_environment() == {*extras["reproduce"], *extras["site"], *extras["dev"]}


def test_every_pin_is_exact() -> None:
    pin = r"[a-z0-9-]+==[0-9.]+(;sys_platform=='linux')?"
    assert all(re.fullmatch(pin, found) for found in pins_of_environment())


def test_the_python_of_environment_yml_is_allowed_by_pyproject() -> None:
    environment = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert "- python=3.11" in environment
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_make_help_is_the_default_and_names_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert targets is not None
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in targets[1].split():
        assert target == "help" or f"make {target} " in shown


def test_continuous_integration_runs_lint_and_tests() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make lint" in script
    assert "make test" in script


def test_every_path_that_the_readme_names_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    # Names in code spans or links that look like files or folders of this repository.
    named = set(re.findall(r"[`(]((?:nsl|theory|reproduce|notebooks|tests)/[\w./-]*)[`)]", text))
    assert named
    missing = sorted(path for path in named if not (ROOT / path).exists())
    assert missing == []


def test_importing_nsl_imports_no_plotting_and_no_notebooks() -> None:
    script = (
        "import sys, nsl\n"
        "heavy = {'matplotlib', 'sklearn', 'scipy', 'papermill', 'jupytext', 'IPython', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["README.md", "DISCREPANCIES.md", "LICENSE", "CITATION.cff"])
def test_the_documents_are_there(name: str) -> None:
    assert (ROOT / name).stat().st_size > 200


@pytest.mark.parametrize("given", ["TABLE=1", "PROFLE=cpu", "VENV=elsewhere"])
def test_make_refuses_a_variable_it_does_not_have(given: str) -> None:
    done = subprocess.run(["make", "help", given], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"there is no variable {given.split('=')[0]}; known are PROFILE" in done.stderr


@pytest.mark.parametrize("variable", ["PROFILE", "TABLES", "DATA", "PYTHON"])
def test_what_a_make_variable_holds_is_never_executed(variable: str, tmp_path: Path) -> None:
    hit = tmp_path / "hit"
    text = f'"$(shell touch {hit})`touch {hit}`$$(touch {hit})\''
    done = subprocess.run(["make", "help", f"{variable}={text}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not hit.exists()


def dry(*given: str) -> str:
    """What make would execute."""
    return subprocess.run(["make", "-n", *given], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_what_a_training_is_given_may_be_repeated_for_status_and_a_rehearsal() -> None:
    given = ["DATA=/d", "EXECUTOR=slurm", "CLUSTER=c.toml", "SEEDS=2", "JOBS=3", "TABLES=1", "SLOTS=cifar10"]
    given.append("RESULTS=r")

    def named(text: str) -> set[str]:
        return set(re.findall(r"--(\w+) ", text))

    both = {"profile", "tables", "slots"}
    training, rehearsal = dry("reproduce", *given).split("*)")
    assert named(training) == both | {"seeds", "jobs", "results", "data", "executor", "cluster"}
    assert named(rehearsal) == both | {"data"}
    assert named(dry("status", *given)) == both | {"seeds", "jobs", "results"}


def make_env(folder: Path, *given: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHON"}
    return subprocess.run(["make", "env", *given], cwd=folder, capture_output=True, text=True, env=environment)


def test_make_env_installs_again_when_the_lock_changes_and_says_whose_python_is_there(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    # In place of pip one line a call; all else is this Python.
    (programs / "python").write_text(
        f'#!/bin/sh\nif [ "$1" = -m ]; then echo "$@" >> "{tmp_path}/calls"; else exec "{sys.executable}" "$@"; fi\n'
    )
    (programs / "pip").touch()
    for path in programs.iterdir():
        path.chmod(0o755)
    calls = tmp_path / "calls"
    for change, count in (("", 1), ("", 1), ("# more\n", 2)):
        with (tmp_path / "requirements.lock").open("a") as stream:
            stream.write(change)
        done = make_env(tmp_path)
        assert done.returncode == 0, done.stderr
        assert len(calls.read_text().splitlines()) == count
        os.utime(tmp_path / ".venv" / ".installed", (1, 1))  # older than the lock, whatever the clock's ticks
    assert make_env(tmp_path, f"PYTHON={sys.executable}").returncode == 0
    other = tmp_path / "python3.99"
    other.write_text("#!/bin/sh\necho Python 3.99.0 of elsewhere\n")
    other.chmod(0o755)
    done = make_env(tmp_path, f"PYTHON={other}")
    assert done.returncode == 2
    assert "not Python 3.99.0 of elsewhere; remove .venv and give the same command again." in done.stderr
    missing = make_env(tmp_path, "PYTHON=python9.9")
    assert "python9.9 is missing or older than Python 3.11" in missing.stderr
