"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nsl.outputs import OutputError, replacing, write_text


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append(os.fstat(handle).st_size), sync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("renamed"), replace(*names))[1])
    write_text(tmp_path / "file", "four")
    assert order == [4, "renamed"]
    assert (tmp_path / "file").read_text() == "four"


def test_what_the_disk_refuses_late_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_text(tmp_path / "file", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="cannot be written"), replacing(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"
