"""Bad input to the command line gives one clear line and a non-zero exit; status and tables need no torch."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reproduce.__main__ import main
from reproduce.declare import plan
from reproduce.declare.runs import Run, declared_id
from reproduce.run.store import Store
from tests.reproduce.helpers import MARK, ROOT, TABLE_1_TWICE, arguments, call, fill, run_on, write_profile


def complaint(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command complains with."""
    assert main(command) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("command", ["all", "run", "tables", "notebooks", "status", "plan"])
def test_an_unknown_profile_is_one_clear_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "choose one of: demo, cpu, paper" in complaint([command, "--profile", "gpu"], capsys)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("width=0", "The setting width must be a whole number of at least 1, as 32 is, got '0'"),
        ("seeds=-1", "The setting seeds must be a whole number of at least 1, as 3 is, got '-1'"),
        ("slot.cifar10.recipe.learning_rate=nan", "must be a number of at least 0, as 0.1 is, got 'nan'"),
        ("slot=3", "slot.KEY"),
        ("slot.nowhere.width=8", "cifar10.KEY"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(setting: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in complaint(["status", "--profile", "cpu", "--set", f"cpu.{setting}"], capsys)


def test_a_missing_data_folder_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "nowhere")
    assert f"DATA={missing} is not a folder" in complaint(["run", "--data", missing], capsys)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--tables", "x", "TABLES='x' is not understood"),
        ("--tables", "12", "table 12"),
        ("--seeds", "0", "SEEDS='0' is not understood"),
        ("--seeds", "3000000", "SEEDS='3000000' is not understood"),
        ("--seeds", "\u00b2", "SEEDS='\u00b2' is not understood"),
        ("--jobs", "1e3", "JOBS='1e3' is not understood"),
        ("--jobs", "two", "JOBS='two' is not understood"),
        ("--profiles", "/nowhere.toml", "/nowhere.toml does not exist"),
    ],
)
def test_a_bad_option_is_one_clear_line(
    option: str, value: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in complaint(["status", option, value], capsys)


@pytest.mark.parametrize("command", ["run", "tables", "status"])
def test_a_corrupt_record_is_one_clear_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_profile(tmp_path, seeds=1)
    assert main(arguments("run", tmp_path, "--tables", "1")) == 0
    capsys.readouterr()
    path = min(Store(tmp_path / "results", "tiny").runs.iterdir())
    path.write_text(path.read_text(encoding="utf-8").replace("1", "2"), encoding="utf-8")
    line = complaint(arguments(command, tmp_path, "--tables", "1"), capsys)
    assert str(path) in line
    assert "delete the file" in line


def test_comparing_with_a_folder_without_runs_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "has no runs/" in complaint(["compare", str(tmp_path), str(tmp_path)], capsys)


def test_a_row_run_again_elsewhere_is_compared_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_profile(tmp_path, seeds=2)
    again = [*arguments("run", tmp_path, "--tables", "1", "--methods", "cnn", "--seeds", "1")]
    assert main(arguments("run", tmp_path, "--tables", "1")) == 0
    assert main([*again, "--results", str(tmp_path / "again")]) == 0
    folders = [str(tmp_path / name / "tiny") for name in ("results", "again")]
    capsys.readouterr()
    assert main(["compare", *folders]) == 1
    assert f"is missing in {folders[1]}." in capsys.readouterr().out
    assert main(["compare", "--common", *folders]) == 0
    assert capsys.readouterr().out == "The one record is equal, timings and environment aside.\n"
    store = Store(tmp_path / "again", "tiny")
    (record,) = store.records()
    record["result"]["test_error"] += 0.5
    store.write(record)
    assert main(["compare", "--common", *folders]) == 1
    assert capsys.readouterr().out == f"Run {record['id']} differs in: result.\n"
    store.path(record["id"]).unlink()
    assert "have no run in common" in complaint(["compare", "--common", *folders], capsys)


def test_an_unknown_row_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(["status", "--tables", "3", "--methods", "shared,nope"], capsys)
    assert "--methods names 'nope', which no chosen table has; choose from cnn, shared, dynamic." in line


def test_an_unknown_benchmark_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "No benchmark is called 'nope'" in complaint(["bench", "nope", "--results", str(tmp_path)], capsys)


def test_status_counts_and_predicts_from_measured_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = plan.profile("tiny", write_profile(tmp_path, seeds=2))
    assert main(arguments("status", tmp_path, "--tables", "1")) == 0
    assert "Remaining time unknown" in capsys.readouterr().out
    fill(Store(tmp_path / "results", "tiny"), profile, 1, {"cnn": [8.0]})
    assert main(arguments("status", tmp_path, "--tables", "1")) == 0
    out = capsys.readouterr().out
    assert f"1 done, 0 diverged, 0 running, {TABLE_1_TWICE - 1} missing" in out
    # The other seed of the baseline takes as long as the first: 10 s of training and 2 s of evaluation.
    assert "Baseline CNN on digits, seed 1  12 s" in out
    assert f"Remaining: about 12 s with 1 side by side, plus {TABLE_1_TWICE - 2} runs of unknown length." in out


def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file system refuses to write, root's too."""
    real_open, real_stream = os.open, io.open

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    def open_(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse()
        return real_open(path, flags, *more, **named)

    def stream(file: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
        return refuse() if set(mode) & set("wax+") else real_stream(file, mode, *more, **named)

    monkeypatch.setattr("os.open", open_)
    monkeypatch.setattr("io.open", stream)
    monkeypatch.setattr("builtins.open", stream)
    monkeypatch.setattr("os.mkdir", refuse)


def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a network file system without its lock daemon says."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)


@pytest.mark.parametrize(("place", "running"), [(read_only, 1), (no_locks, 0)])
def test_status_works_on_a_read_only_folder_and_where_there_are_no_locks(
    place: Callable[[pytest.MonkeyPatch], None],
    running: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    profile = plan.profile("tiny", write_profile(tmp_path, seeds=1))
    store = Store(tmp_path / "results", "tiny")
    fill(store, profile, 1, {"cnn": [8.0]})
    other = profile.run(plan.experiment(1).methods[1], "cifar10", 0)
    with store.claim(declared_id(other.declared(MARK)), "x"), monkeypatch.context() as patched:
        place(patched)
        assert main(arguments("status", tmp_path, "--tables", "1", "--seeds", "1")) == 0
    captured = capsys.readouterr()
    assert f"1 done, 0 diverged, {running} running" in captured.out
    assert captured.err == ""


def test_a_run_where_nothing_can_be_locked_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_profile(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    no_locks(monkeypatch)
    line = complaint(arguments("run", tmp_path, "--tables", "1"), capsys)
    assert f"{tmp_path / 'results/tiny/locks/data.lock'} cannot be locked (No locks available)" in line


def test_status_scales_a_models_cost_from_another_data_set(tmp_path: Path) -> None:
    from reproduce.run.progress import Costs
    from tests.reproduce.helpers import put_record

    profile = plan.profile("tiny", write_profile(tmp_path))
    store = Store(tmp_path, "tiny")
    experiment = plan.experiment(4)
    cnn, dynamic = experiment.method("cnn"), experiment.method("dynamic")
    for method, slot, seconds in ((cnn, "cifar10", 10), (dynamic, "cifar10", 30), (cnn, "cifar100", 20)):
        record = put_record(store, profile.run(method, slot, 0), 5.0)
        record["result"].update(train_seconds=seconds, evaluate_seconds=0)
        store.write(record)
    assert Costs(store.records()).predict(profile.run(dynamic, "cifar100", 0)) == pytest.approx(60)
    static = experiment.method("static")
    assert Costs(store.records()).predict(profile.run(static, "cifar100", 0)) is None


def test_few_shot_runs_of_other_numbers_do_not_tell_how_slow_a_day_was(tmp_path: Path) -> None:
    """Trials of 200 steps in bfloat16 and of 1000 in float32 differ in cost by themselves."""
    from reproduce.run.progress import Costs
    from tests.reproduce.helpers import put_record

    profile, store = plan.profile("cpu"), Store(tmp_path, "cpu")
    few, cnn = plan.experiment(6).method("meta_static"), plan.experiment(4).method("cnn")
    run = profile.run(few, "mini_imagenet", 0)
    meta = run.recipe["meta"]
    short = replace(run, recipe={**run.recipe, "meta": {**meta, "iterations": 200, "precision": "bfloat16"}})
    for one, day, seconds in ((short, 1, 200), (profile.run(cnn, "cifar10", 0), 1, 1000), (run, 2, 4000)):
        record = put_record(store, one, 5.0)
        record["result"].update(train_seconds=seconds, evaluate_seconds=0)
        record["attempts"][-1]["started"] = f"2026-01-0{day}T00:00:00+00:00"
        store.write(record)
    costs = Costs(store.records())
    assert costs.predict(profile.run(cnn, "cifar10", 1)) == pytest.approx(1000)
    assert costs.predict(profile.run(few, "mini_imagenet", 1)) == pytest.approx(4000)


def test_status_foretells_at_the_pace_of_the_newest_sitting(tmp_path: Path) -> None:
    from reproduce.run.progress import Costs
    from tests.reproduce.helpers import put_record

    profile = plan.profile("tiny", write_profile(tmp_path))
    store = Store(tmp_path, "tiny")
    experiment = plan.experiment(4)
    cnn, dynamic = experiment.method("cnn"), experiment.method("dynamic")
    # Dynamic NSN ran on the slow first day only, the CNN on a second day too, four times as fast.
    for method, seed, day, seconds in ((cnn, 0, 1, 40), (dynamic, 0, 1, 120), (cnn, 1, 2, 10)):
        record = put_record(store, profile.run(method, "cifar10", seed), 5.0)
        record["result"].update(train_seconds=seconds, evaluate_seconds=0)
        record["attempts"][-1]["started"] = f"2026-01-0{day}T00:00:00+00:00"
        store.write(record)
    foretold = Costs(store.records()).predict(profile.run(dynamic, "cifar10", 1))
    assert foretold is not None
    assert 25 < foretold < 45  # 30, but for the slight pull towards equal days; the mean of its own times is 120
    typical = Costs(store.records(), typical=True).predict(profile.run(dynamic, "cifar10", 1))
    assert typical == pytest.approx(120)  # two of the three ran on the slow day
    assert Costs([], typical=True).predict(profile.run(dynamic, "cifar10", 1)) is None


def test_plan_names_every_run_with_its_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_profile(tmp_path, seeds=1)
    assert main(arguments("plan", tmp_path, "--tables", "3", "--runs")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Baseline CNN on digits, seed 0: cnn9(width=4), 48 images"
    assert lines[-1] == "3 runs for tables 3, the profile's seeds."


def test_a_changed_data_file_is_read_again(tmp_path: Path) -> None:
    from reproduce.run import fingerprints

    read = []
    data = tmp_path / "data"
    data.mkdir()
    (data / "test.bin").write_bytes(b"one")

    def load(run: Run, folder: str | None) -> str:
        read.append(run.dataset["name"])
        return f"{len(read):016x}"

    def current() -> list[str]:
        found = fingerprints.current(tmp_path / "results", [run_on({"name": "cifar10"})], str(data), load, "test")
        return list(found.values())

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        assert current() == current() == ["0" * 15 + "1"]
        (data / "test.bin").write_bytes(b"other")
        assert current() == ["0" * 15 + "2"]
    assert read == ["cifar10", "cifar10"]


def test_what_needs_no_network_imports_no_torch(tmp_path: Path) -> None:
    write_profile(tmp_path, seeds=1)
    assert call(arguments("run", tmp_path, "--tables", "1"), tmp_path).returncode == 0
    script = (
        "import sys; from reproduce.__main__ import main\n"
        "code = main(sys.argv[1:]); assert 'torch' not in sys.modules; sys.exit(code)\n"
    )
    for command in ("run", "status"):  # `tables` counts the parameters of networks
        line = [sys.executable, "-c", script, *arguments(command, tmp_path, "--tables", "1")]
        subprocess.run(line, cwd=ROOT, check=True, env={"XDG_CACHE_HOME": str(tmp_path / "cache")})


@pytest.mark.parametrize("command", ["run", "plan", "rehearse"])
def test_a_width_that_no_memory_holds_is_one_clear_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_profile(tmp_path, seeds=1)
    line = complaint(arguments(command, tmp_path, "--tables", "1", "--set", "tiny.width=99999"), capsys)
    assert "GiB for parameters, gradients and momentum alone" in line


def test_what_a_command_would_ignore_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_profile(tmp_path, seeds=1)
    line = complaint(arguments("status", tmp_path, "--executor", "slurm"), capsys)
    assert "unrecognized arguments: --executor slurm" in line
    assert "runs nothing on cifar100 for tables 1" in complaint(
        arguments("run", tmp_path, "--tables", "1", "--slots", "cifar100"), capsys
    )


def test_settings_that_reach_no_run_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for settings in (["demo.width=16"], ["demo.width=16", "demo.seeds=1"]):
        options = [part for setting in settings for part in ("--set", setting)]
        assert main(["plan", "demo", "--tables", "5", "--runs", *options]) == 2
        assert "changes no run of tables 5" in capsys.readouterr().err
    assert main(["plan", "demo", "--tables", "1", "--runs", "--set", "demo.width=16"]) == 0
    assert main(["plan", "demo", "--set", "demo.slot.cifar100.like=cifar100"]) == 2
    assert "like one another in a circle" in capsys.readouterr().err
    assert main(["plan", "demo", "--set", "demo.slot.cifar10.data.name=foo"]) == 2
    assert "There is no data set 'foo'" in capsys.readouterr().err


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--seed", "2"]) == 2
    assert "unrecognized arguments: --seed 2" in capsys.readouterr().err


def test_a_long_run_takes_its_time_however_many_go_side_by_side() -> None:
    from reproduce.run.progress import State, lines

    run = run_on({"name": "cifar10"})
    states = [State(run, None, "missing", seconds) for seconds in (6000.0, 600.0, 600.0)]
    assert lines(states, 16)[-1] == "Remaining: about 1 h 40 min with 16 side by side."
    assert lines(states, 1)[-1] == "Remaining: about 2 h 00 min with 1 side by side."


def test_only_what_reads_data_misses_the_folder_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_profile(tmp_path, seeds=1)
    missing = tmp_path / "nowhere"
    monkeypatch.setenv("NSL_DATA", str(missing))
    for command in ("status", "plan", "tables"):
        more = ("--runs",) if command == "plan" else ()
        assert main(arguments(command, tmp_path, "--tables", "1", *more)) == 0
    capsys.readouterr()
    line = complaint(arguments("run", tmp_path, "--tables", "1"), capsys)
    assert line.startswith(f"error: NSL_DATA={missing} is not a folder")
    assert "unset NSL_DATA" in line


@pytest.mark.parametrize("command", ["status", "torture", "bench"])
def test_an_unknown_option_names_the_help_of_its_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint([command, "--nope"], capsys).endswith(
        f"unrecognized arguments: --nope; see python -m reproduce {command} --help."
    )


@pytest.mark.parametrize(
    ("command", "sentence"),
    [("run", "Interrupted; the same command goes on from here."), ("status", "Interrupted."), ("plan", "Interrupted.")],
)
def test_ctrl_c_promises_to_go_on_only_where_it_does(
    command: str, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("reproduce.commands.session", press)
    assert main([command]) == 130
    assert capsys.readouterr().err.strip() == sentence


@pytest.mark.parametrize("command", ["reproduce plan demo --runs", "reproduce.console zoo"])
def test_what_is_read_no_further_ends_in_silence(command: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", *command.split()], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # as `head` has, before it writes
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 128 + 13


def test_the_help_of_bench_names_every_benchmark() -> None:
    from reproduce.bench import BENCHMARKS
    from reproduce.commands import BENCHES

    assert tuple(BENCHMARKS) == BENCHES
