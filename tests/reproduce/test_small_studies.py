"""What the notebooks on predictor heads and on the paper's figures count and say."""

from __future__ import annotations

from pathlib import Path

import pytest

from reproduce.declare import plan
from reproduce.run.store import Store
from reproduce.show.rows import make_table
from reproduce.studies import live_layers, predictor_outputs
from tests.reproduce.helpers import put_record


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ([], "The reading without both is not run in this profile's Table 1."),
        (["diverged"], "Without both, Table 1's run diverged."),
        (["finished"], "Without both, Table 1's run did not diverge."),
        (["diverged", "finished", "diverged"], "Without both, 2 of Table 1's 3 runs diverged."),
    ],
)
def test_the_other_reading_is_told_from_the_records_of_table_1(ends: list[str], said: str, tmp_path: Path) -> None:
    profile, store = plan.profile("paper"), Store(tmp_path, "paper")
    method = plan.experiment(1).method(predictor_outputs.NAIVE)
    for seed, status in enumerate(ends):
        put_record(store, profile.run(method, "cifar10", seed), 50.0, status=status)
    assert predictor_outputs.other_reading(make_table(1, profile, store)) == said


def test_disjoint_predictors_share_nothing_and_shared_ones_one_pair_of_kernels() -> None:
    disjoint, shared = live_layers.ownership("disjoint"), live_layers.ownership("shared")
    assert disjoint.common == 0
    assert set(disjoint.shared) == {-1}
    assert set(shared.shared) == {0}
    assert shared.common > 0
    assert shared.total == sum(shared.own) + shared.common < disjoint.total
