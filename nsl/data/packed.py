"""A packed cache of decoded images: one file of uint8 pixels a split, memory-mapped, so that no epoch decodes JPEGs.

    FOLDER/index.json        written last: without it the cache is unfinished
    FOLDER/train.u8          N x 3 x S x S bytes
    FOLDER/train.labels.npy  N labels
    FOLDER/train.journal     while building: one line a finished chunk

Building goes chunk by chunk. A chunk's pixels reach the disk before its line reaches the journal, so a build that was
killed goes on after the last journal line, whose chunks are checked first. Every chunk has a checksum; opening
compares them, so that a flipped byte is found and named.

An image that cannot be decoded is named and left out: the last images of the split move into the holes. Too many of
them are an error, because the folder is then something else than was meant.
"""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nsl import processes
from nsl.data.dataset import DataError, Dataset, moments_of
from nsl.data.files import Decoded, decode_chunk
from nsl.data.packed_index import is_whole, read_index, write_index, write_json
from nsl.locks import locked
from nsl.outputs import replacing, write_text

FORMAT = 1
#: Images a chunk: what is decoded, written, checksummed and, after a kill, decoded again as one.
CHUNK = 256
#: A larger share of images that cannot be decoded than this is an error.
BAD_LIMIT = 0.001
#: Splits of at most so many bytes have all their checksums compared whenever they are opened; larger ones when built
#: and by `verify_packed`.
VERIFY_BYTES = 4 << 30

_SQUARES = (np.arange(256) ** 2).astype(np.uint16)


@dataclass(frozen=True)
class Split:
    """The files of one split: `paths` with their `labels` (0 .. classes - 1), in the order they will have."""

    paths: Sequence[Path]
    labels: Sequence[int]


def _checksum(data: NDArray[np.uint8]) -> str:
    return hashlib.blake2b(np.ascontiguousarray(data).data, digest_size=16).hexdigest()


def _summary(data: NDArray[np.uint8]) -> dict[str, Any]:
    """Checksums of the chunks of images [N, 3, S, S], and the sums of values and of squares a channel."""
    sums, total, squares = [], np.zeros(3, np.int64), np.zeros(3, np.int64)
    for first in range(0, len(data), CHUNK):
        part = data[first : first + CHUNK]
        sums.append(_checksum(part))
        total += part.sum((0, 2, 3), dtype=np.int64)
        squares += _SQUARES[part].sum((0, 2, 3), dtype=np.int64)
    return {"sums": sums, "total": total.tolist(), "squares": squares.tolist()}


@contextmanager
def _room_needed(folder: Path) -> Iterator[None]:
    """A disk that is or becomes full is one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DataError(
            f"The disk of the packed cache {folder} is full ({os.strerror(error.errno)}); free some space and start "
            "again, which goes on from here, or name a larger disk by the environment variable NSL_CACHE."
        ) from None


class _Builder:
    """Builds one split of a cache."""

    def __init__(self, folder: Path, name: str, split: Split, size: int) -> None:
        self.name, self.split, self.size = name, split, size
        self.pixels, self.journal = folder / f"{name}.u8", folder / f"{name}.journal"
        self.labels = folder / f"{name}.labels.npy"
        self.count = len(split.paths)
        self.image_bytes = 3 * size * size
        self.chunks = -(-self.count // CHUNK)

    def _rows(self, chunk: int) -> tuple[int, int]:
        return chunk * CHUNK, min(self.count, (chunk + 1) * CHUNK)

    def _map(self, mode: Any = "r+") -> NDArray[np.uint8]:
        return np.memmap(self.pixels, np.uint8, mode, shape=(self.count, 3, self.size, self.size))

    def _finished(self) -> dict[int, dict[str, Any]]:
        """The journal's chunks whose pixels are still what they were."""
        found: dict[int, dict[str, Any]] = {}
        if not self.journal.exists() or self.pixels.stat().st_size != self.count * self.image_bytes:
            return found
        data = self._map("r")
        for line in self.journal.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                first, last = self._rows(int(entry["chunk"]))
                # A chunk with images that could not be decoded is tried again: they may have been put back.
                if not entry["bad"] and _checksum(data[first:last]) == entry["sum"]:
                    found[int(entry["chunk"])] = entry
            except (ValueError, KeyError, TypeError):
                continue  # the line that was being written when the process was killed
        return found

    def reserve(self) -> None:
        """Make the file of pixels in its full size, its blocks taken: a write into a mapped hole kills on a full disk.

        Raises:
            OSError: the disk has not so much room; what was taken is given back.
        """
        size = self.count * self.image_bytes
        with open(os.open(self.pixels, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as stream:
            before = os.fstat(stream.fileno()).st_size
            stream.truncate(min(before, size))
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(stream.fileno(), 0, size)
                else:
                    stream.truncate(size)  # macOS has no such call
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    stream.truncate(min(before, size))
                    raise
                stream.truncate(size)  # a file system that reserves nothing

    def build(self, workers: int, bad_limit: float, say: Callable[[str], None]) -> dict[str, Any]:
        """Decode what is missing; returns the split's part of the index."""
        finished = self._finished()
        missing = [chunk for chunk in range(self.chunks) if chunk not in finished]
        if finished and missing:
            say(f"{self.name}: going on after {len(finished)} of {self.chunks} chunks")
        # Rewritten, so that a torn last line does not swallow the next one; by a rename, since a process that is killed
        # here must not lose the journal of hours.
        write_text(self.journal, "".join(json.dumps(entry) + "\n" for entry in finished.values()))
        data = self._map()
        started, last_said = time.monotonic(), time.monotonic()
        with self.journal.open("a", encoding="utf-8") as journal, closing(self._decoded(missing, workers)) as decoded:
            for done, (chunk, (images, reasons)) in enumerate(decoded, start=1):
                first, last = self._rows(chunk)
                data[first:last] = images
                data.flush()  # type: ignore[attr-defined]
                bad = {str(first + place): reason for place, reason in enumerate(reasons) if reason is not None}
                finished[chunk] = {"chunk": chunk, "sum": _checksum(images), "bad": bad}
                journal.write(json.dumps(finished[chunk]) + "\n")
                journal.flush()
                self._refuse(finished, bad_limit)
                if time.monotonic() - last_said > 10:
                    last_said = time.monotonic()
                    rate = done * CHUNK / (last_said - started)
                    say(f"{self.name}: {len(finished)} of {self.chunks} chunks, {rate:.0f} images/s")
        self._refuse(finished, bad_limit)
        return self._finish(finished)

    def _decoded(self, chunks: list[int], workers: int) -> Generator[tuple[int, Decoded]]:
        """Decoded chunks in order, by `workers` processes, a few chunks ahead of the writing."""
        parts = {chunk: self.split.paths[slice(*self._rows(chunk))] for chunk in chunks}
        # A daemonic process, such as one that executes or rehearses runs, may have no processes of its own.
        if workers < 2 or len(chunks) < 2 or multiprocessing.current_process().daemon:
            for chunk in chunks:
                yield chunk, decode_chunk(parts[chunk], self.size)
            return
        with processes.workers(min(workers, len(chunks))) as pool:
            rest = iter(chunks)
            waiting = [(c, pool.submit(decode_chunk, parts[c], self.size)) for c in islice(rest, 2 * workers)]
            while waiting:
                chunk, future = waiting.pop(0)
                decoded = future.result()
                waiting += [(c, pool.submit(decode_chunk, parts[c], self.size)) for c in islice(rest, 1)]
                yield chunk, decoded

    def _bad(self, finished: dict[int, dict[str, Any]]) -> dict[int, str]:
        return {int(row): text for entry in finished.values() for row, text in entry["bad"].items()}

    def _refuse(self, finished: dict[int, dict[str, Any]], limit: float) -> None:
        bad = self._bad(finished)
        if len(bad) > limit * self.count:
            row = min(bad)
            raise DataError(
                f"{len(bad)} of {self.count} {self.name} images cannot be decoded, more than the limit of "
                f"{100 * limit:g} %; the first is {self.split.paths[row]} ({bad[row]}); put back the official files."
            )

    def _finish(self, finished: dict[int, dict[str, Any]]) -> dict[str, Any]:
        """Close the holes of bad images, store the labels, and sum up."""
        data = self._map()
        labels = np.asarray(self.split.labels, np.int64)
        bad = self._bad(finished)
        good = self.count - len(bad)
        # Sources lie behind `good` and are never written, so doing this again after a kill changes nothing: chunks that
        # were touched no longer match the journal and are decoded again.
        holes = [row for row in sorted(bad) if row < good]
        sources = [row for row in range(good, self.count) if row not in bad]
        for hole, source in zip(holes, sources):
            data[hole], labels[hole] = data[source], labels[source]
        data.flush()  # type: ignore[attr-defined]
        with replacing(self.labels) as temporary, temporary.open("wb") as stream:
            np.save(stream, labels[:good], allow_pickle=False)
        return {
            "images": good,
            **_summary(data[:good]),
            "labels": hashlib.blake2b(labels[:good].tobytes(), digest_size=16).hexdigest(),
            "bad": {str(self.split.paths[row]): text for row, text in sorted(bad.items())},
        }

    def shorten(self, images: int) -> None:
        """After the index exists: drop the tail that bad images left, and the journal."""
        with self.pixels.open("r+") as stream:
            stream.truncate(images * self.image_bytes)
        self.journal.unlink(missing_ok=True)


def _say(line: str) -> None:
    print(f"packing {line}", file=sys.stderr, flush=True)


def build_packed(
    folder: Path,
    splits: dict[str, Split],
    class_names: Sequence[str],
    size: int,
    source: str,
    *,
    workers: int | None = None,
    bad_limit: float = BAD_LIMIT,
    say: Callable[[str], None] = _say,
) -> None:
    """Build the cache in `folder`, or go on building it, unless it is complete already.

    Args:
        folder: where it goes; made when absent.
        splits: "train" and "test".
        class_names: one a label.
        size: height and width S of the stored images.
        source: what identifies the files; a cache of another source is built anew.
        workers: decoding processes (None: one a core); a daemonic process decodes by itself.
        bad_limit: largest share of images of a split that may be undecodable.
        say: told about progress.

    Raises:
        DataError: more undecodable images than `bad_limit`, or the disk is too small.
    """
    identity = {"format": FORMAT, "size": size, "source": source}
    if is_whole(folder, identity):  # before the lock: a finished cache may lie where nothing can be written
        return
    # Only one process builds; others wait and then find the work done.
    with _room_needed(folder), locked(folder / "lock"):
        for killed in folder.glob("*.partial"):  # nobody else writes here while the lock is held
            killed.unlink(missing_ok=True)
        if (index := read_index(folder)) is not None and {key: index.get(key) for key in identity} == identity:
            if not _healed(index, size):
                return
            say("again: an image that had been left out can be decoded now")
        begun = folder / "building.json"
        try:
            same = json.loads(begun.read_text(encoding="utf-8")) == identity
        except (OSError, ValueError):
            same = False
        if not same:
            for leftover in (*folder.glob("*.u8"), *folder.glob("*.journal"), folder / "index.json"):
                leftover.unlink(missing_ok=True)
        needed = sum(len(split.paths) for split in splits.values()) * 3 * size * size
        present = sum(path.stat().st_blocks * 512 for path in folder.glob("*.u8"))
        free = shutil.disk_usage(folder).free
        if needed - present > free:
            raise DataError(
                f"The packed cache {folder} needs {(needed - present) / 2**30:.1f} GiB more and its disk has "
                f"{free / 2**30:.1f} free; name a larger disk by the environment variable NSL_CACHE."
            )
        write_json(begun, identity)
        cores = os.cpu_count() or 1
        made = {}
        builders = {name: _Builder(folder, name, split, size) for name, split in splits.items()}
        for builder in builders.values():
            builder.reserve()
        for name, builder in builders.items():
            made[name] = builder.build(cores if workers is None else workers, bad_limit, say)
            for path, reason in made[name]["bad"].items():
                say(f"{name}: left out {path} ({reason})")
        write_index(folder, {**identity, "classes": list(class_names), "splits": made})
        for name, builder in builders.items():
            builder.shorten(made[name]["images"])
        begun.unlink(missing_ok=True)


def _healed(index: dict[str, Any], size: int) -> bool:
    """Whether an image that a finished cache leaves out can be decoded now."""
    bad = [Path(path) for split in index["splits"].values() for path in split.get("bad", ())]
    return any(reason is None for path in bad for reason in decode_chunk([path], size)[1])


def _open_split(folder: Path, name: str, index: dict[str, Any], verify: bool | None) -> tuple[Tensor, Tensor]:
    """Memory-mapped images uint8 [N, 3, S, S] and labels int64 [N], checked."""
    entry, size = index["splits"][name], index["size"]
    path, advice = folder / f"{name}.u8", f"delete the folder {folder} to have it packed again"
    count = int(entry["images"])
    expected = count * 3 * size * size
    found = path.stat().st_size if path.exists() else -1
    if found < expected:
        state = "is missing" if found < 0 else f"has {found} bytes, expected {expected}"
        raise DataError(f"{path} {state}; {advice}.")
    if verify or (verify is None and expected <= VERIFY_BYTES):
        data = np.memmap(path, np.uint8, "r", shape=(count, 3, size, size))
        for chunk, wanted in enumerate(entry["sums"]):
            first = chunk * CHUNK
            if _checksum(data[first : min(count, first + CHUNK)]) != wanted:
                last = min(count, first + CHUNK) - 1
                raise DataError(f"{path}: images {first} to {last} do not match their checksum; {advice}.")
    try:
        labels = np.load(folder / f"{name}.labels.npy", allow_pickle=False)
    except (OSError, ValueError):
        labels = np.empty(0, np.int64)
    if hashlib.blake2b(labels.tobytes(), digest_size=16).hexdigest() != entry["labels"]:
        raise DataError(f"{folder / f'{name}.labels.npy'} is damaged; {advice}.")
    # A private mapping: pages come from the file when they are first touched, and nothing can be written back.
    images = torch.from_file(str(path), shared=False, size=expected, dtype=torch.uint8)
    return images.view(count, 3, size, size), torch.from_numpy(labels)


def open_packed(name: str, folder: Path, *, crop_size: int | None = None, verify: bool | None = None) -> Dataset:
    """The data set of a finished cache, its images memory-mapped.

    Args:
        name: of the data set.
        folder: of the cache.
        crop_size: input size of the network, when it is smaller than the stored images.
        verify: compare all checksums; None: where a split has at most `VERIFY_BYTES` bytes.

    Returns:
        Images uint8 [N, 3, S, S]; the fingerprint is made from the checksums.

    Raises:
        DataError: the cache is unfinished or damaged; the sentence names the file.
    """
    index = read_index(folder)
    if index is None or index.get("format") != FORMAT:
        raise DataError(f"{folder} holds no finished packed cache; load the data set {name} to build it.")
    train_images, train_labels = _open_split(folder, "train", index, verify)
    test_images, test_labels = _open_split(folder, "test", index, verify)
    train = index["splits"]["train"]
    pixels = int(train["images"]) * index["size"] ** 2
    moments = moments_of(train["total"], train["squares"], pixels)
    seen = [name, crop_size, index["size"], index["classes"]]
    seen += [index["splits"][part][key] for part in ("train", "test") for key in ("images", "sums", "labels")]
    mark = hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]
    return Dataset(
        name,
        train_images,
        train_labels,
        test_images,
        test_labels,
        tuple(index["classes"]),
        mark,
        crop_size=crop_size,
        moments=moments,
    )


def verify_packed(folder: Path) -> int:
    """Compare every checksum of the cache in `folder`; returns the number of images, or raises DataError."""
    dataset = open_packed("any", folder, verify=True)
    return len(dataset.train_images) + len(dataset.test_images)
