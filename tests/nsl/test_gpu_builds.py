"""The GPU's kernels, compiled without a GPU: tensor cores, no atomics, shared memory and spills in bounds."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from tests.nsl.gpu_builds import Build, builds

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

#: Shared memory of a multiprocessor of compute capability 8.6 and 8.9, less than 8.0 (163 KiB) and 9.0 (227 KiB) have.
SHARED = 99 << 10
#: The kernels that multiply tiles.
PRODUCTS = ("diagonal", "unconstrained")
#: Kernels that spill registers for sm_80, and the bytes: tiles are chosen for sm_90, where none does with tensor cores.
SPILLS_80 = {"diagonal.inputs": 8, "unconstrained.forward": 528}


def check(found: list[Build], spills: dict[str, int]) -> None:
    for build in found:
        assert build.shared <= SHARED, build
        assert build.stack <= spills.get(build.kernel, 0), build
        assert build.atomics == 0, build
        multiplies = build.kernel.startswith(("diagonal", "unconstrained")) and "gather" not in build.kernel
        assert (build.tensor_cores > 0) == multiplies, build
        assert build.wide_loads > 0 or not multiplies or build.kernel.endswith("weight"), build


def test_kernels_built_for_sm_90_in_bfloat16_use_tensor_cores_and_spill_nothing() -> None:
    found = builds(90, torch.bfloat16, 64, "ieee")
    assert {build.kernel for build in found} == {
        "diagonal.forward", "diagonal.inputs", "diagonal.weight",
        "unconstrained.forward", "unconstrained.slopes", "unconstrained.gather", "unconstrained.weight",
        "rows.energy", "rows.energy_gradient", "rows.windows", "rows.windows_gradient", "rows.scale",
        "rows.scale_gradient", "rows.unit", "rows.unit_gradient",
    }  # fmt: skip
    check(found, {})


def test_kernels_built_for_sm_90_in_tf32_use_tensor_cores_and_spill_nothing() -> None:
    check(builds(90, torch.float32, 32, "tf32", PRODUCTS), {})


def test_rows_that_are_not_aligned_do_not_make_the_unconstrained_convolution_spill() -> None:
    only = ("unconstrained.forward",)
    found = [build for number in (80, 90) for build in builds(number, torch.bfloat16, 20, "ieee", only)]
    assert [build.stack for build in found] == [0, 0]


def test_kernels_built_for_sm_80_stay_within_its_limits() -> None:
    check(builds(80, torch.bfloat16, 64, "ieee", PRODUCTS), SPILLS_80)
