"""How kept networks are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from nsl import zoo


def test_an_empty_identity_is_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every identity begins with it: `nsl zoo show ""` showed the first."""
    kept = zoo.Entry(Path("abc.safetensors"), {"id": "abc", "seed": 0, "data": {"name": "digits"}})
    monkeypatch.setattr(zoo, "entries", lambda _: [kept])
    assert zoo.find("a") == zoo.find() == [kept]
    for ask in (zoo.find, zoo.load):
        with pytest.raises(zoo.ZooError, match="identity is empty; name one that `nsl zoo` lists"):
            ask("")
