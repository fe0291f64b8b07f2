"""The compiled kernels: the same numbers as plain PyTorch, and what happens without a compiler."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import nsl.kernels.convolution as functional
from nsl.kernels import compiled, patches, paths
from nsl.kernels.norms import channel_energy, scale_positions

pytestmark = pytest.mark.skipif(compiled.library() is None, reason="no C++ compiler here")
ROOT = Path(__file__).parents[2]


def gradients(similarity: torch.Tensor, dtype: torch.dtype, channels: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(5, channels, 7, 6).to(dtype).requires_grad_()
    weight = torch.randn(4, channels, 3, 3).to(dtype).requires_grad_()
    m = similarity.to(dtype).requires_grad_()
    y = functional._SimilarityConv.apply(x, weight, m, (1, 1), (1, 1), (1, 1))
    return [y, *torch.autograd.grad(y, (x, weight, m), torch.linspace(-1, 1, y.numel()).view_as(y).to(dtype))]


@pytest.mark.parametrize("blocks", [(9,), (9, 9)])
@pytest.mark.parametrize("channels", [1, 16, 20, 32, 64, 128])
@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)]
)
def test_compiled_and_eager_agree(
    dtype: torch.dtype, tolerance: float, channels: int, blocks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    similarity = torch.randn(5, *blocks, 7, 6)
    fast = gradients(similarity, dtype, channels)
    monkeypatch.setattr(compiled, "library", lambda: None)
    slow = gradients(similarity, dtype, channels)
    for a, b in zip(fast, slow):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("blocks", [(9,), (9, 9)])
def test_chunks_and_threads_do_not_change_input_and_similarity_gradients(
    blocks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    similarity = torch.randn(5, *blocks, 7, 6)
    reference = gradients(similarity, torch.float32, 32)
    threads = torch.get_num_threads()
    try:
        for number, size in ((1, 1), (2, 1), (2, 1 << 17), (3, 1 << 22)):
            torch.set_num_threads(number)
            monkeypatch.setattr(patches, "_CHUNK_BYTES", size)
            for a, b in zip(gradients(similarity, torch.float32, 32), reference):
                # Chunks change the order of a sum: compared with the largest entry, as rounding is.
                assert (a - b).abs().max() <= 1e-5 * b.abs().max()
    finally:
        torch.set_num_threads(threads)


def test_nan_and_infinity_pass_through_bfloat16() -> None:
    similarity = torch.ones(5, 9, 7, 6)
    similarity[0, 4, 3, 3] = float("nan")
    similarity[1, 4, 3, 3] = float("inf")
    y = gradients(similarity, torch.bfloat16, 32)[0]
    assert y[0, :, 3, 3].isnan().all()
    assert not y[1, :, 3, 3].isfinite().any()
    assert y[2:].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_scaling_by_position_is_a_broadcast_product(dtype: torch.dtype) -> None:
    x = torch.randn(2, 6, 5, 4).to(dtype).to(memory_format=torch.channels_last)
    s = torch.randn(2, 1, 5, 4).to(dtype)
    assert torch.equal(scale_positions(x, s), x * s)
    y = scale_positions(x.requires_grad_(), s)
    torch.relu_(y)  # users may change the output in place
    assert channel_energy(x, torch.float32).shape == (2, 1, 5, 4)


def test_scaling_and_energy_have_first_and_second_derivatives() -> None:
    x = torch.randn(1, 2, 3, 2, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    s = torch.randn(1, 1, 3, 2, dtype=torch.float64).requires_grad_()
    for function, arguments in (
        (scale_positions, (x, s)),
        (lambda x: channel_energy(x, torch.float64), (x,)),
    ):
        assert torch.autograd.gradcheck(function, arguments)
        assert torch.autograd.gradgradcheck(function, arguments)


def in_a_new_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        timeout=900,
    )


def test_without_a_compiler_the_eager_path_runs_silently(tmp_path: Path) -> None:
    code = "from nsl.kernels.paths import describe; print(describe()['kernels'])"
    for environment in ({"NSL_COMPILE": "0"}, {"CXX": str(tmp_path / "missing")}):
        done = in_a_new_process(code, XDG_CACHE_HOME=str(tmp_path), **environment)
        assert (done.stdout.strip(), done.stderr) == ("plain", "")


def test_a_failing_compiler_is_one_warning_and_leaves_nothing_behind(tmp_path: Path) -> None:
    script = tmp_path / "cxx"
    script.write_text("#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho 'no room' >&2\nexit 1\n")
    script.chmod(0o755)
    done = in_a_new_process(
        "from nsl.kernels.paths import describe; print(describe()['kernels'], describe()['kernels'])",
        CXX=str(script),
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    assert done.stdout.strip() == "plain plain"
    assert done.stderr.count("could not compile kernels.cpp (no room)") == 1
    assert list((tmp_path / "cache" / "nsl").iterdir()) == []


def test_a_loaded_library_raises_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert paths.describe()["kernels"] == "native"


def damaged(damage: str, folder: Path) -> Path:
    """A copy of the compiled library with a damage."""
    library = compiled.library()
    assert library is not None
    whole = Path(library._name).read_bytes()
    path = folder / Path(library._name).name
    path.write_bytes(whole[:5000] if damage == "truncated" else whole[:3000] + b"\xff" * 8 + whole[3008:])
    return path


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_library_is_noticed(damage: str, tmp_path: Path) -> None:
    assert not compiled._is_whole(damaged(damage, tmp_path))


def test_a_damaged_library_in_the_cache_is_compiled_again(tmp_path: Path) -> None:
    script = "import sys; from nsl.kernels import compiled; sys.exit(compiled.library() is None)"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    (tmp_path / "nsl").mkdir()
    path = damaged("truncated", tmp_path / "nsl")
    left = path.with_name("compiling-killed")
    left.mkdir()
    os.utime(left, (0, 0))
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=True)
    assert compiled._is_whole(path)
    assert list((tmp_path / "nsl").iterdir()) == [path]
