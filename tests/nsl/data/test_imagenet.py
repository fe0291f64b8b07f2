"""ImageNet's folders, the packed cache, and what happens to damaged files."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nsl.data import DataError, load, packed
from nsl.data.files import decode
from nsl.data.imagenet import GROUND_TRUTH, find, list_images, load_imagenet, measure
from nsl.data.imagenet import main as imagenet_command
from nsl.data.packed import Split, build_packed, open_packed

WNIDS = ("n01440764", "n01443537", "n01484850")


def picture(path: Path, seed: int, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, "JPEG")


def tiny(root: Path, train: int = 4, val: int = 2) -> Path:
    """Tiny-ImageNet-25's layout with three classes."""
    folder = root / "tiny-imagenet-25"
    lines = []
    for label, wnid in enumerate(WNIDS):
        for i in range(train):
            picture(folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", 10 * label + i)
        for i in range(val):
            picture(folder / "val" / "images" / f"val_{label}_{i}.JPEG", 100 + 10 * label + i)
            lines.append(f"val_{label}_{i}.JPEG\t{wnid}\t0\t0\t1\t1\n")
    (folder / "wnids.txt").write_text("\n".join(reversed(WNIDS)) + "\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder


def ilsvrc(root: Path, sorted_val: bool) -> Path:
    folder = root / "imagenet"
    for label, wnid in enumerate(WNIDS):
        for i in range(3):
            picture(folder / "train" / wnid / f"{wnid}_{i}.JPEG", 10 * label + i, (30, 20))
    for i, label in enumerate((2, 0, 1)):
        place = folder / "val" / WNIDS[label] if sorted_val else folder / "val"
        picture(place / f"ILSVRC2012_val_{i + 1:08}.JPEG", 100 + label, (20, 30))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NSL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "packed"


def test_tiny_imagenet_is_read_in_its_own_layout(tmp_path: Path) -> None:
    folder = tiny(tmp_path)
    data = load("tiny_imagenet_25", tmp_path, image_size=8)
    assert data.class_names == WNIDS
    assert data.train_images.shape == (12, 3, 8, 8)
    assert data.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    expected = decode(folder / "train" / WNIDS[1] / "images" / f"{WNIDS[1]}_0.JPEG", 8)
    assert np.array_equal(data.train_images[4].numpy(), expected)
    whole = data.train_images.double()
    assert data.mean == pytest.approx((whole.mean((0, 2, 3)) / 255).tolist())
    assert data.std == pytest.approx((whole.std((0, 2, 3), correction=0) / 255).tolist())


def test_the_first_images_of_every_class_can_be_asked_for(tmp_path: Path) -> None:
    tiny(tmp_path)
    data = load("tiny_imagenet_25", tmp_path, image_size=8, train_per_class=2, test_per_class=1)
    assert (len(data.train_images), len(data.test_images)) == (6, 3)
    with pytest.raises(DataError, match="9 images per class were asked for, but class 'n01440764' has 4"):
        load("tiny_imagenet_25", tmp_path, image_size=8, train_per_class=9)


@pytest.mark.parametrize("labels", ["sorted", "synsets", "official"])
def test_imagenet_is_read_with_every_kind_of_validation_labels(tmp_path: Path, labels: str) -> None:
    folder = ilsvrc(tmp_path, sorted_val=labels == "sorted")
    if labels == "synsets":
        (folder / "val_synset_labels.txt").write_text("\n".join(WNIDS[i] for i in (2, 0, 1)) + "\n")
    if labels == "official":
        from scipy.io import savemat

        # The development kit's numbers are in an order of their own.
        kit = np.array(
            [(3, WNIDS[0]), (1, WNIDS[1]), (2, WNIDS[2])], dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")]
        )
        (folder / "data").mkdir()
        savemat(folder / "data" / "meta.mat", {"synsets": kit})
        (folder / GROUND_TRUTH).write_text("2\n3\n1\n")
    splits, wnids = list_images("imagenet", find("imagenet", tmp_path))
    assert tuple(wnids) == WNIDS
    pairs = {path.name: label for path, label in zip(splits["test"].paths, splits["test"].labels)}
    assert [pairs[f"ILSVRC2012_val_{i:08}.JPEG"] for i in (1, 2, 3)] == [2, 0, 1]


def test_imagenet_is_stored_larger_than_the_networks_input(tmp_path: Path) -> None:
    ilsvrc(tmp_path, sorted_val=True)
    data = load("imagenet", tmp_path, image_size=14)
    assert data.train_images.shape == (9, 3, 16, 16)
    assert (data.image_size, data.crop_size) == (14, 14)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tiny_imagenet_25 is not under .*expected wnids\.txt"):
        load("tiny_imagenet_25", tmp_path)
    folder = ilsvrc(tmp_path, sorted_val=False)
    with pytest.raises(DataError, match=f"no {GROUND_TRUTH} lies beside it"):
        list_images("imagenet", folder)
    (folder / GROUND_TRUTH).write_text("1\n2\n3\n")
    with pytest.raises(DataError, match=r"meta\.mat"):
        list_images("imagenet", folder)
    (folder / GROUND_TRUTH).unlink()
    (folder / "x_synset_labels.txt").write_text(f"{WNIDS[0]}\n")
    with pytest.raises(DataError, match=r"has 1 labels, but .* has 3 images"):
        list_images("imagenet", folder)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
@pytest.mark.parametrize("size", [(40, 20), (20, 40), (7, 7), (200, 300)])
def test_every_kind_of_jpeg_becomes_a_square_of_three_channels(
    tmp_path: Path, mode: str, size: tuple[int, int]
) -> None:
    picture(tmp_path / "x.JPEG", 0, size, mode)
    assert decode(tmp_path / "x.JPEG", 16).shape == (3, 16, 16)


def test_decoding_keeps_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((16, 48, 3), np.uint8)
    pixels[:, 16:32, 0] = 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    found = decode(tmp_path / "x.png", 16)
    assert found[0].min() == 255
    assert found[1:].max() == 0


def test_a_second_load_decodes_nothing_and_a_changed_file_is_packed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny(tmp_path)
    first = load("tiny_imagenet_25", tmp_path, image_size=8)
    calls = []
    real = packed.decode_chunk
    monkeypatch.setattr(packed, "decode_chunk", lambda *a: calls.append(1) or real(*a))
    assert load("tiny_imagenet_25", tmp_path, image_size=8).fingerprint == first.fingerprint
    assert calls == []
    picture(folder / "train" / WNIDS[0] / "images" / f"{WNIDS[0]}_0.JPEG", 77, (15, 15))
    assert load("tiny_imagenet_25", tmp_path, image_size=8).fingerprint != first.fingerprint
    assert calls


@pytest.mark.parametrize("file", ["train.u8", "test.u8", "train.labels.npy"])
def test_a_flipped_byte_is_detected_and_named(tmp_path: Path, cache: Path, file: str) -> None:
    tiny(tmp_path)
    load("tiny_imagenet_25", tmp_path, image_size=8)
    (path,) = cache.glob(f"*/{file}")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{file}.*delete the folder"):
        load("tiny_imagenet_25", tmp_path, image_size=8)
    path.unlink()
    with pytest.raises(DataError, match=f"{file} is (missing|damaged)"):
        load("tiny_imagenet_25", tmp_path, image_size=8)


def test_corrupt_images_are_named_left_out_and_fatal_beyond_the_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny(tmp_path)
    clean = load("tiny_imagenet_25", tmp_path, image_size=8)
    paths = [folder / "train" / WNIDS[0] / "images" / f"{WNIDS[0]}_{i}.JPEG" for i in (1, 2)]
    paths[0].write_bytes(b"no picture")
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    with pytest.raises(DataError, match=r"2 of 12 train images cannot be decoded, more than .* 0\.1 %.*_1\.JPEG"):
        load("tiny_imagenet_25", tmp_path, image_size=8)
    data = load_imagenet("tiny_imagenet_25", tmp_path, image_size=8, bad_limit=0.2)
    told = capsys.readouterr().err
    assert f"left out {paths[0]} (UnidentifiedImageError" in told
    assert str(paths[1]) in told
    assert len(data.train_images) == 10
    # The last two images moved into the holes, with their labels.
    rows = [0, 10, 11, 3, 4, 5, 6, 7, 8, 9]
    assert torch.equal(data.train_images, clean.train_images[rows])
    assert torch.equal(data.train_labels, clean.train_labels[rows])


_BUILD = """
import sys, time
from pathlib import Path
from nsl.data import packed
packed.CHUNK = 1
real = packed.decode_chunk
def slow(paths, size):
    time.sleep(0.05)
    return real(paths, size)
packed.decode_chunk = slow
folder = Path(sys.argv[1])
paths = sorted(folder.glob("*.JPEG"))
split = packed.Split(paths, [0] * len(paths))
packed.build_packed(Path(sys.argv[2]), {"train": split, "test": split}, ["a"], 8, "source", workers=1)
"""


def test_a_build_killed_in_the_middle_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(30):
        picture(tmp_path / "in" / f"{i:02}.JPEG", i)
    journal = tmp_path / "out" / "train.journal"
    process = subprocess.Popen([sys.executable, "-c", _BUILD, str(tmp_path / "in"), str(tmp_path / "out")])
    while not journal.exists() or journal.read_text().count("\n") < 3:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / "index.json").exists()
    with journal.open("a") as stream:
        stream.write('{"chunk": 29, "su')  # a line torn by the kill
    with pytest.raises(DataError, match="no finished packed cache"):
        open_packed("x", tmp_path / "out")
    done = journal.read_text().count("\n")
    monkeypatch.setattr(packed, "CHUNK", 1)
    calls = []
    real = packed.decode_chunk
    monkeypatch.setattr(packed, "decode_chunk", lambda *a: calls.append(1) or real(*a))
    paths = sorted((tmp_path / "in").glob("*.JPEG"))
    splits = {name: Split(paths, [0] * 30) for name in ("train", "test")}
    for folder in ("out", "fresh"):
        build_packed(tmp_path / folder, splits, ["a"], 8, "source", workers=1)
        if folder == "out":
            assert len(calls) == 60 - done
    resumed, fresh = (open_packed("x", tmp_path / folder) for folder in ("out", "fresh"))
    assert resumed.fingerprint == fresh.fingerprint
    assert torch.equal(resumed.train_images, fresh.train_images)


def test_decoding_in_processes_gives_the_same_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(6):
        picture(tmp_path / "in" / f"{i}.JPEG", i)
    monkeypatch.setattr(packed, "CHUNK", 3)
    paths = sorted((tmp_path / "in").glob("*.JPEG"))
    splits = {name: Split(paths, [0] * 6) for name in ("train", "test")}
    marks = set()
    for workers in (1, 2):
        build_packed(tmp_path / str(workers), splits, ["a"], 8, "source", workers=workers)
        marks.add(open_packed("x", tmp_path / str(workers)).fingerprint)
    assert len(marks) == 1


def test_hidden_files_are_no_images_and_lists_may_have_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    folder = tiny(tmp_path)
    expected, _ = list_images("tiny_imagenet_25", folder)
    for path in list(folder.glob("**/*.JPEG")):
        path.with_name(f"._{path.name}").write_bytes(b"resource fork")
    for path in (folder / "wnids.txt", folder / "val" / "val_annotations.txt"):
        path.write_text("\ufeff" + path.read_text().replace("\n", "\n\n"), encoding="utf-8")
    found, wnids = list_images("tiny_imagenet_25", folder)
    assert tuple(wnids) == WNIDS
    assert found == expected


def test_a_build_killed_while_its_journal_is_rewritten_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was emptied first, and with it went all that had been decoded."""
    tiny(tmp_path)
    monkeypatch.setattr(packed, "CHUNK", 2)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(packed, "write_index", killed)  # all is decoded, the cache is not finished
        with pytest.raises(KeyboardInterrupt):
            load_imagenet("tiny_imagenet_25", tmp_path, image_size=8, workers=1)
    (journal,) = tmp_path.glob("cache/packed/*/train.journal")
    before = journal.read_text()
    assert before.count("\n") == 6

    def rewritten(path: Path, *_: object, **__: object) -> None:
        with path.open("w"):
            killed()

    with monkeypatch.context() as patch:
        real = Path.write_text
        patch.setattr(
            Path, "write_text", lambda self, *a, **k: (rewritten if "journal" in self.name else real)(self, *a, **k)
        )
        with pytest.raises(KeyboardInterrupt):
            load_imagenet("tiny_imagenet_25", tmp_path, image_size=8, workers=1)
    assert journal.read_text() == before


@pytest.mark.parametrize("where", ["pixels", "journal"])
def test_a_disk_that_fills_while_packing_is_one_clear_sentence_and_packing_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    tiny(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "posix_fallocate") if where == "pixels" else (Path, "write_text")), full)
        with pytest.raises(DataError, match=r"disk of the packed cache .* is full .*NSL_CACHE"):
            load("tiny_imagenet_25", tmp_path, image_size=8)
    assert len(load("tiny_imagenet_25", tmp_path, image_size=8).train_images) == 12


def test_the_pixels_of_a_cache_have_their_blocks_before_anything_is_decoded(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(tmp_path)
    seen = []
    real = packed.decode_chunk

    def look(*arguments: object) -> object:
        seen.extend(path.stat() for path in cache.glob("*/*.u8"))
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(packed, "decode_chunk", look)
    load("tiny_imagenet_25", tmp_path, image_size=64)
    assert len(seen) == 4
    assert all(found.st_blocks * 512 >= found.st_size > 0 for found in seen)


def test_a_file_system_that_reserves_nothing_is_packed_on_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(tmp_path)
    expected = load("tiny_imagenet_25", tmp_path, image_size=8).fingerprint

    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    monkeypatch.setenv("NSL_CACHE", str(tmp_path / "other"))
    assert load("tiny_imagenet_25", tmp_path, image_size=8).fingerprint == expected


def test_a_changed_number_in_the_index_is_detected_and_not_a_wrong_mean(tmp_path: Path, cache: Path) -> None:
    tiny(tmp_path)
    load("tiny_imagenet_25", tmp_path, image_size=8)
    (path,) = cache.glob("*/index.json")
    index = json.loads(path.read_text())
    for change in (lambda: index["splits"]["train"]["total"].reverse(), lambda: index.update(checksum="0")):
        change()
        path.write_text(json.dumps(index))
        with pytest.raises(DataError, match=r"index\.json is damaged; delete the folder"):
            load("tiny_imagenet_25", tmp_path, image_size=8)


def test_a_folder_that_is_not_whole_is_told_and_a_file_listed_twice_is_refused(tmp_path: Path) -> None:
    folder = tiny(tmp_path)
    with pytest.warns(UserWarning, match=r"has 3 classes, 12 training and 6 validation images, Tiny-ImageNet-25 25"):
        list_images("tiny_imagenet_25", folder)
    path = folder / "val" / "val_annotations.txt"
    path.write_text(path.read_text() + f"val_0_0.JPEG\t{WNIDS[1]}\t0\t0\t1\t1\n")
    with pytest.raises(DataError, match=r"line 7 names 'val_0_0\.JPEG', as line 1 does"):
        list_images("tiny_imagenet_25", folder)
    other = ilsvrc(tmp_path, sorted_val=True)
    for file in (other / "train" / WNIDS[1]).iterdir():
        file.unlink()
    (other / "train" / WNIDS[1]).rmdir()
    with pytest.raises(DataError, match=f"{WNIDS[1]} has no training images"):
        list_images("imagenet", other)


@pytest.mark.filterwarnings("ignore:.*numbers are of other data")
def test_an_image_that_was_put_back_is_packed_after_all(tmp_path: Path) -> None:
    folder = tiny(tmp_path)
    file = folder / "train" / WNIDS[0] / "images" / f"{WNIDS[0]}_0.JPEG"
    whole = file.read_bytes()
    file.write_bytes(b"\0" * len(whole))
    with pytest.raises(DataError, match="cannot be decoded"):
        load_imagenet("tiny_imagenet_25", tmp_path, workers=1)
    assert len(load_imagenet("tiny_imagenet_25", tmp_path, workers=1, bad_limit=0.5).train_images) == 11
    file.write_bytes(whole)
    assert len(load_imagenet("tiny_imagenet_25", tmp_path, workers=1).train_images) == 12


def test_a_daemonic_process_which_may_start_none_decodes_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        picture(tmp_path / "in" / f"{i}.JPEG", i)
    monkeypatch.setattr(packed, "CHUNK", 1)
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    paths = sorted((tmp_path / "in").glob("*.JPEG"))
    splits = {name: Split(paths, [0] * 3) for name in ("train", "test")}
    build_packed(tmp_path / "out", splits, ["a"], 8, "source", workers=2)
    assert len(open_packed("x", tmp_path / "out").train_images) == 3


def test_packing_does_without_a_call_that_macos_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(tmp_path)
    monkeypatch.delattr(os, "posix_fallocate")
    assert len(load("tiny_imagenet_25", tmp_path, image_size=8).train_images) == 12


def test_a_finished_cache_is_read_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(tmp_path)
    first = load("tiny_imagenet_25", tmp_path, image_size=8)

    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(packed, "locked", refuse)
    assert load("tiny_imagenet_25", tmp_path, image_size=8).fingerprint == first.fingerprint
    with pytest.raises(OSError, match="Read-only"):
        load("tiny_imagenet_25", tmp_path, image_size=16)


def test_a_file_that_cannot_be_read_is_one_line_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "lock"))

    tiny(tmp_path)
    monkeypatch.setattr("nsl.data.imagenet.load_imagenet", refuse)
    with pytest.raises(SystemExit) as ended:
        imagenet_command(["pack", "tiny_imagenet_25", "--root", str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: [Errno 13] Permission denied: '{tmp_path / 'lock'}'\n"


def test_a_long_error_is_one_line_and_ctrl_c_says_whether_the_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ended(command: str, error: BaseException) -> tuple[object, str]:
        def fail(*_: object, **__: object) -> None:
            raise error

        for name in ("load_imagenet", "verify_packed", "measure"):
            monkeypatch.setattr(f"nsl.data.imagenet.{name}", fail)
        with pytest.raises(SystemExit) as left:
            imagenet_command([command, "tiny_imagenet_25", "--root", str(tmp_path)])
        return left.value.code, capsys.readouterr().err

    tiny(tmp_path)
    assert ended("pack", DataError("one\n  two")) == (2, "error: one two\n")
    assert ended("pack", KeyboardInterrupt()) == (130, "Interrupted; the same command goes on from here.\n")
    for command in ("verify", "bench"):
        assert ended(command, KeyboardInterrupt()) == (130, "Interrupted.\n")


def test_a_cache_that_leaves_images_out_is_measured_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows were drawn among the files, of which the cache has fewer."""
    folder = tiny(tmp_path, train=10)
    for path in sorted((folder / "train").glob("*/images/*.JPEG"))[:15]:
        path.write_bytes(b"no picture")
    monkeypatch.setattr("nsl.data.imagenet.load_imagenet", partial(load_imagenet, bad_limit=0.6))
    found = measure("tiny_imagenet_25", tmp_path, seconds=0.1)
    assert found["decoded"] > 0
    assert found["packed"] > 0
