"""Folders of the user: found, or replaced by one that only this user can have filled, where there is no home."""

from __future__ import annotations

import pwd
import stat
import tempfile
from pathlib import Path

import pytest

from nsl.data import DataError, data_root
from nsl.data.imagenet import cache_root
from nsl.folders import expanded, home_cache, temporary_folder
from nsl.kernels import compiled
from reproduce.run import fingerprints


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No HOME and a user that no database knows; the folder of temporary files."""

    def unknown(user: object) -> None:
        raise KeyError(user)

    for variable in ("HOME", "XDG_CACHE_HOME", "NSL_DATA", "NSL_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_without_a_home_layers_loaders_and_commands_share_one_temporary_folder_a_user(homeless: Path) -> None:
    with pytest.raises(RuntimeError):
        Path.home()
    found = {
        home_cache() / "nsl",
        data_root(),
        cache_root().parent,
        compiled._cache(),
        fingerprints.default_root(),
        fingerprints._cache_path().parent,
    }
    (folder,) = found
    assert folder.parent.parent == homeless
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_a_temporary_folder_that_others_could_have_filled_is_not_used(homeless: Path) -> None:
    first = temporary_folder()
    assert temporary_folder() == first
    first.chmod(0o777)
    assert temporary_folder() != first
    first.rmdir()
    (homeless / "elsewhere").mkdir()
    first.symlink_to(homeless / "elsewhere")
    assert temporary_folder() not in (first, homeless / "elsewhere")


def test_kernels_whose_cache_cannot_be_written_are_compiled_once_a_user(
    homeless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (homeless / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(homeless / "file"))
    assert compiled._cache() == compiled._cache() == temporary_folder()


def test_a_path_in_a_home_that_does_not_exist_is_one_clear_sentence(
    homeless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="~/x begins with a home folder that cannot be found; write the whole path"):
        expanded("~/x")
    monkeypatch.setenv("NSL_CACHE", "~/x")
    with pytest.raises(DataError, match="NSL_CACHE=~/x begins with a home folder"):
        cache_root()
    with pytest.raises(DataError, match=r"The data folder ~/x \(from the argument root\) does not exist"):
        data_root("~/x")
