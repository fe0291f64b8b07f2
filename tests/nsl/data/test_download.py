from __future__ import annotations

import hashlib
import io
import socket
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nsl.data import DataError
from nsl.data.catalogue import CATALOGUE, Archive
from nsl.data.cifar import load_cifar
from nsl.data.download import fetch

FILES = ("a.bin", "b.bin")
CONTENTS = {"a.bin": b"alpha" * 40_000, "b.bin": b"beta"}


def tarball(contents: dict[str, bytes], folder: str = "set") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=0) as tar:
        for name, data in contents.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@dataclass
class Server:
    """What the server on this machine serves, and what it was asked."""

    data: bytes
    ranges: bool = True  # whether it supports resuming
    cut: int = 0  # it closes the connection after this many bytes, when not 0
    asked: list[str | None] = field(default_factory=list)
    address: str = ""

    @property
    def archive(self) -> Archive:
        return Archive("set.tar.gz", hashlib.md5(self.data, usedforsecurity=False).hexdigest())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server(tarball({**CONTENTS, "readme.html": b"not wanted"}))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.asked.append(asked)
            data, start = state.data, 0
            if self.path != "/set.tar.gz":
                self.send_error(404)
                return
            if asked and state.ranges:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(data):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start : start + state.cut] if state.cut else data[start:])

        def log_message(self, *args: object) -> None:
            pass

    # A proxy of the environment must not come between.
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.address = f"http://127.0.0.1:{http.server_port}/"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def assert_unpacked(target: Path) -> None:
    assert {path.name: path.read_bytes() for path in target.iterdir()} == CONTENTS
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_the_wanted_files_arrive_and_nothing_else_stays(server: Server, tmp_path: Path) -> None:
    fetch(server.archive, tmp_path / "new" / "set", FILES, server.address)
    assert_unpacked(tmp_path / "new" / "set")
    assert server.asked == [None]


def test_an_empty_folder_is_filled(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    fetch(server.archive, tmp_path / "set", FILES, server.address)
    assert_unpacked(tmp_path / "set")


def test_a_folder_with_other_things_in_it_is_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="in the way of the download"):
        fetch(server.archive, tmp_path / "set", FILES, server.address)
    assert (tmp_path / "set" / "mine.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert server.asked == []


def test_a_partial_file_is_continued(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.tar.gz.partial").write_bytes(server.data[:1000])
    fetch(server.archive, tmp_path / "set", FILES, server.address)
    assert_unpacked(tmp_path / "set")
    assert server.asked == ["bytes=1000-"]


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "set.tar.gz.partial").write_bytes(b"x" * 1000)
    fetch(server.archive, tmp_path / "set", FILES, server.address)
    assert_unpacked(tmp_path / "set")
    assert server.asked == ["bytes=1000-"]


def test_a_complete_partial_file_needs_no_more_bytes(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.tar.gz.partial").write_bytes(server.data)
    fetch(server.archive, tmp_path / "set", FILES, server.address)
    assert_unpacked(tmp_path / "set")


@pytest.mark.parametrize("length", [1000, 10**6])
def test_a_wrong_partial_file_is_thrown_away_and_all_fetched_anew(
    length: int, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "set.tar.gz.partial").write_bytes(b"x" * length)
    fetch(server.archive, tmp_path / "set", FILES, server.address)
    assert_unpacked(tmp_path / "set")
    assert server.asked == [f"bytes={length}-", None]


def test_a_broken_connection_is_taken_up_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.cut = len(server.data) // 3 + 1
    fetch(server.archive, tmp_path / "set", FILES, server.address)
    assert_unpacked(tmp_path / "set")
    assert server.asked == [None, f"bytes={server.cut}-", f"bytes={2 * server.cut}-"]


def test_a_wrong_md5_is_refused_and_nothing_stays(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set.tar.gz does not have the md5 0000 .*try again"):
        fetch(Archive("set.tar.gz", "0000"), tmp_path / "set", FILES, server.address)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_connection_is_one_sentence_and_nothing_stays(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/"
    with pytest.raises(DataError) as caught:
        fetch(Archive("set.tar.gz", "0"), tmp_path / "set", FILES, address)
    message = str(caught.value)
    assert f"{address}set.tar.gz could not be downloaded (Connection refused); put the official" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_refused_connection_keeps_what_is_there(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/"
    partial = tmp_path / "set.tar.gz.partial"
    partial.write_bytes(b"x" * 10)
    with pytest.raises(DataError, match=r"10 bytes are kept in .*run again to go on from there"):
        fetch(Archive("set.tar.gz", "0"), tmp_path / "set", FILES, address)
    assert partial.read_bytes() == b"x" * 10


def test_an_address_that_is_not_there_says_so(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the server answered 404"):
        fetch(Archive("other.tar.gz", "0"), tmp_path / "set", FILES, server.address)


def test_an_archive_without_a_wanted_file_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no file set/c\.bin"):
        fetch(server.archive, tmp_path / "set", (*FILES, "c.bin"), server.address)
    assert not (tmp_path / "set").exists()


def test_something_that_is_not_an_archive_is_refused(server: Server, tmp_path: Path) -> None:
    server.data = b"<html>sign in to the network</html>"
    with pytest.raises(DataError, match="cannot be unpacked"):
        fetch(server.archive, tmp_path / "set", FILES, server.address)
    assert not (tmp_path / "set").exists()


def test_names_that_lead_out_of_the_folder_and_links_are_not_followed(server: Server, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        link = tarfile.TarInfo("set/b.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
        for name in ("../../a.bin", "/elsewhere/b.bin"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"data"))
    server.data = buffer.getvalue()
    with pytest.raises(DataError, match=r"has no file set/a\.bin"):
        fetch(server.archive, tmp_path / "in" / "set", FILES, server.address)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_several_processes_may_want_the_same_set_at_once(server: Server, tmp_path: Path) -> None:
    errors: list[Exception] = []

    def work() -> None:
        try:
            fetch(server.archive, tmp_path / "set", FILES, server.address)
        except Exception as error:
            errors.append(error)

    # flock holds between open files, so threads stand for processes.
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert_unpacked(tmp_path / "set")
    assert server.asked == [None]


def test_a_folder_that_cannot_be_made_is_one_sentence(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be made"):
        fetch(server.archive, tmp_path / "file" / "set", FILES, server.address)


def test_an_absent_cifar_is_downloaded_and_found_the_next_time(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = CATALOGUE["cifar100"]
    assert entry.layout is not None
    small = replace(entry.layout, train={"train.bin": 3}, test={"test.bin": 1})
    record = bytes([4, 7]) + bytes(range(256)) * 12
    names = "\n".join(f"class{label}" for label in range(100)).encode()
    contents = {"train.bin": 3 * record, "test.bin": record, "fine_label_names.txt": names}
    server.data = tarball(contents, small.folder)
    monkeypatch.setitem(CATALOGUE, "cifar100", replace(entry, layout=replace(small, archive=server.archive)))
    first = load_cifar("cifar100", tmp_path, address=server.address)
    assert first.train_labels.tolist() == [7, 7, 7]
    again = load_cifar("cifar100", tmp_path / small.folder, address=server.address)
    assert again.fingerprint == first.fingerprint
    assert server.asked == [None]
