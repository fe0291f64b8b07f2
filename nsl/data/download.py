"""Fetch one archive over HTTP: resumable, checked, and atomic."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from nsl.data.catalogue import Archive
from nsl.data.dataset import DataError
from nsl.locks import hold

_BLOCK = 1 << 18  # bytes
_TIMEOUT = 60.0  # seconds without an answer
_ATTEMPTS = 5  # connections in a row that bring nothing new


def fetch(archive: Archive, target: Path, files: Sequence[str], address: str) -> None:
    """Download `archive` and put its `files` into the folder `target`.

    What has arrived is kept beside `target` as `<archive>.partial`; a later call goes on from there.
    `target` appears in one rename, complete.  Several processes may call this at once: one downloads, the
    others wait.

    Args:
        archive: what to download.
        target: folder to make; its parent is made when missing.
        files: names of the files wanted; all others in the archive are ignored.
        address: address of the archive's folder, ending in a slash.

    Raises:
        DataError: the server cannot be reached, the md5 is wrong, the disk cannot be written, or a file is
            not in the archive.
    """
    url = address + archive.file
    partial = target.parent / f"{archive.file}.partial"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("a+b") as stream:
            hold(stream)
            if not _complete(target, files):  # another process may have finished while this one waited
                if target.exists() and (not target.is_dir() or any(target.iterdir())):
                    if _size(stream) == 0:
                        partial.unlink()
                    raise DataError(
                        f"{target} is in the way of the download: it is not empty and has none of the files "
                        f"expected; move it away."
                    )
                _download(url, archive.md5, stream, partial)
                _extract(stream, url, target, files, alone=True)
            # Under the lock, and all reading goes through `stream`: a process that still holds the removed
            # file open either finds `target` complete or works on its own copy.
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{target} cannot be made: {error.strerror or error} ({error.filename or partial}); "
            f"free space or name another data folder."
        ) from None


def unpack(path: Path, archive: Archive, target: Path, files: Sequence[str]) -> None:
    """Put the `files` of an archive that lies on this machine into the folder `target`, as `fetch` does.

    Raises:
        DataError: it is another archive or damaged, or the disk cannot be written.
    """
    try:
        with path.open("rb") as stream:
            if _md5(stream) != archive.md5:
                raise DataError(f"{path} does not have the md5 {archive.md5} of the official file; put that there.")
            try:
                hold(stream)
                alone = True
            except OSError:  # a file that is only read has no lock on a network's disk
                alone = False
            if not _complete(target, files):
                _extract(stream, str(path), target, files, alone=alone)
    except OSError as error:
        if not _complete(target, files):  # else another process was first
            raise DataError(f"{path} cannot be unpacked into {target}: {error.strerror or error}.") from None


def _complete(target: Path, files: Sequence[str]) -> bool:
    return all((target / file).is_file() for file in files)


def _download(url: str, md5: str, stream: BinaryIO, partial: Path) -> None:
    """Append to `stream` until it is the whole of `url`, then check it."""
    resumed = _size(stream) > 0
    _receive(url, stream, partial)
    if _md5(stream) == md5:
        return
    stream.truncate(0)
    if resumed:  # the old part may be to blame
        _receive(url, stream, partial)
        if _md5(stream) == md5:
            return
        stream.truncate(0)
    partial.unlink(missing_ok=True)
    raise DataError(
        f"{url} does not have the md5 {md5} it should have and was thrown away; "
        f"try again, or put the unpacked official files into the data folder yourself."
    )


def _receive(url: str, stream: BinaryIO, partial: Path) -> None:
    idle = 0
    while True:
        before = _size(stream)
        reason = ""
        try:
            if _receive_once(url, stream):
                return
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and before:  # nothing lies beyond what is here: complete, or too long
                return
            _give_up(url, partial, stream, f"the server answered {error.code} {error.reason}")
        except urllib.error.URLError as error:
            reason = str(getattr(error.reason, "strerror", None) or error.reason)
        except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = str(error) or type(error).__name__
        idle = 0 if _size(stream) > before else idle + 1
        if idle >= _ATTEMPTS or _size(stream) == 0:
            _give_up(url, partial, stream, reason)


def _give_up(url: str, partial: Path, stream: BinaryIO, reason: str) -> None:
    have = _size(stream)
    if have == 0:
        partial.unlink(missing_ok=True)
        kept = "put the official files into the data folder yourself, or try again with a connection"
    else:
        kept = f"{have} bytes are kept in {partial}, run again to go on from there"
    raise DataError(f"{url} could not be downloaded ({reason}); {kept}.")


def _receive_once(url: str, stream: BinaryIO) -> bool:
    """One connection.  True when the server has sent all there is, as far as it says."""
    have = _size(stream)
    request = urllib.request.Request(url, headers={"User-Agent": "nsl", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        content_range = response.headers.get("Content-Range", "")
        if have and not (response.status == 206 and content_range.startswith(f"bytes {have}-")):
            stream.truncate(0)  # the server ignores ranges and starts again
            have = 0
        length = response.headers.get("Content-Length")
        expected = have + int(length) if length is not None else None
        with tqdm(
            total=expected, initial=have, unit="B", unit_scale=True, desc=url.rsplit("/", 1)[-1], disable=None
        ) as bar:
            while block := _read(response):
                stream.write(block)
                bar.update(len(block))
        stream.flush()
    return expected is None or _size(stream) >= expected


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_BLOCK)
    except OSError as error:  # of the network: told apart from those of the disk
        raise ConnectionError(error.strerror or str(error)) from error


def _size(stream: BinaryIO) -> int:
    stream.flush()
    return os.fstat(stream.fileno()).st_size


def _md5(stream: BinaryIO) -> str:
    stream.seek(0)
    digest = hashlib.md5(usedforsecurity=False)
    while block := stream.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _extract(stream: BinaryIO, url: str, target: Path, files: Sequence[str], *, alone: bool) -> None:
    """Unpack the wanted files into a folder beside `target`, then rename it.

    What a killed process left of that is removed when no other can be at work (`alone`).
    """
    for killed in target.parent.glob(f".{target.name}-*.partial") if alone else ():
        shutil.rmtree(killed, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=".partial", dir=target.parent))
    try:
        stream.seek(0)
        try:
            with tarfile.open(fileobj=stream, mode="r:gz") as tar:
                for file in files:
                    # Our own names, regular files only: nothing in the archive decides where we write.
                    name = f"{target.name}/{file}"
                    member = next((m for m in tar.getmembers() if m.isfile() and m.name == name), None)
                    source = tar.extractfile(member) if member is not None else None
                    if source is None:
                        raise DataError(f"{url} has no file {name}; this is not the expected archive.")
                    with source, (temporary / file).open("wb") as out:
                        shutil.copyfileobj(source, out, _BLOCK)
        except (tarfile.TarError, EOFError) as error:
            raise DataError(f"{url} cannot be unpacked: {error}.") from None
        temporary.chmod(0o755)  # mkdtemp makes folders that only this user can enter
        if target.is_dir() and not any(target.iterdir()):
            target.rmdir()
        os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
