from __future__ import annotations

import hashlib
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nsl.data import DataError, load
from nsl.data.catalogue import CATALOGUE, Archive, Layout
from nsl.data.dataset import make_dataset
from nsl.data.known import check_known, is_published, record_digest

TRAIN, TEST = 20, 10  # records a file of the small copies made here


def layout_of(name: str) -> Layout:
    layout = CATALOGUE[name].layout
    assert layout is not None
    return layout


@pytest.fixture(autouse=True)
def small_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the reader expect files of a few records."""
    for name in ("cifar10", "cifar100"):
        layout = layout_of(name)
        small = replace(
            layout, train=dict.fromkeys(layout.train, TRAIN), test=dict.fromkeys(layout.test, TEST)
        )
        monkeypatch.setitem(CATALOGUE, name, replace(CATALOGUE[name], layout=small))


def write(root: Path, name: str) -> Path:
    """A small copy of a set in the official layout; every file has its own random contents."""
    layout = layout_of(name)
    folder = root / layout.folder
    folder.mkdir()
    for seed, (file, count) in enumerate({**layout.train, **layout.test}.items()):
        random = np.random.default_rng(seed)
        labels = [random.integers(0, values, (count, 1), dtype=np.uint8) for values in layout.label_ranges]
        labels[-1][:, 0] = np.arange(count) % layout.num_classes
        pixels = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        np.concatenate([*labels, pixels], axis=1).tofile(folder / file)
    # The official file of names ends with an empty line.
    names = "".join(f"class{label}\n" for label in range(layout.num_classes)) + "\n"
    (folder / layout.names_file).write_text(names)
    return folder


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_records_become_images_and_labels_in_the_order_of_the_files(name: str, tmp_path: Path) -> None:
    folder, layout = write(tmp_path, name), layout_of(name)
    dataset = load(name, tmp_path, download=False)
    label_bytes = len(layout.label_ranges)
    for files, images, labels in (
        (layout.train, dataset.train_images, dataset.train_labels),
        (layout.test, dataset.test_images, dataset.test_labels),
    ):
        raw = b"".join((folder / file).read_bytes() for file in files)
        record = label_bytes + 3072
        assert len(images) * record == len(raw)
        for i in (0, 7, len(images) - 1):
            one = raw[i * record : (i + 1) * record]
            assert int(labels[i]) == one[label_bytes - 1]
            red, green, blue = (one[label_bytes + 1024 * c :][:1024] for c in range(3))
            assert images[i, 0, 3, 5] == red[3 * 32 + 5]
            assert images[i, 1, 31, 0] == green[31 * 32]
            assert images[i, 2, 0, 31] == blue[31]
    assert dataset.class_names[1] == "class1"
    assert dataset.num_classes == layout.num_classes
    assert dataset.train_labels.dtype == torch.int64


def test_the_root_may_be_the_folder_of_the_set_itself(tmp_path: Path) -> None:
    folder = write(tmp_path, "cifar10")
    write(tmp_path, "cifar100")
    wanted = load("cifar10", tmp_path, download=False).fingerprint
    assert load("cifar10", folder, download=False).fingerprint == wanted
    assert load("cifar100", folder, download=False).num_classes == 100
    renamed = folder.rename(tmp_path / "renamed")
    assert load("cifar10", renamed, download=False).fingerprint == wanted


def test_the_root_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "cifar10")
    monkeypatch.setenv("NSL_DATA", str(tmp_path))
    assert load("cifar10", download=False).num_classes == 10


def test_a_subset_has_as_many_images_of_every_class(tmp_path: Path) -> None:
    write(tmp_path, "cifar10")
    dataset = load("cifar10", tmp_path, download=False, train_per_class=3, test_per_class=1)
    assert dataset.train_labels.bincount().tolist() == [3] * 10
    assert dataset.test_labels.bincount().tolist() == [1] * 10


def test_without_download_an_absent_set_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cifar10 is not under .*expected the folder cifar-10-batches-bin"):
        load("cifar10", tmp_path, download=False)


@pytest.mark.parametrize("file", ["data_batch_4.bin", "test_batch.bin", "batches.meta.txt"])
def test_a_missing_file_is_named_and_nothing_is_downloaded(file: str, tmp_path: Path) -> None:
    folder = write(tmp_path, "cifar10")
    (folder / file).unlink()
    for root in (tmp_path, folder):
        with pytest.raises(DataError, match=rf"only a part of cifar10: {file} missing"):
            load("cifar10", root)


@pytest.mark.parametrize(
    ("size", "problem"), [(20 * 3073 - 1, "truncated"), (0, "truncated"), (20 * 3073 + 1, "too long")]
)
def test_a_file_of_the_wrong_size_is_named_with_expected_and_found_bytes(
    size: int, problem: str, tmp_path: Path
) -> None:
    path = write(tmp_path, "cifar10") / "data_batch_3.bin"
    path.write_bytes(path.read_bytes().ljust(size)[:size])
    with pytest.raises(
        DataError, match=rf"data_batch_3.bin is {problem}: expected 61460 bytes .* found {size}"
    ):
        load("cifar10", tmp_path, download=False)


@pytest.mark.parametrize(
    ("name", "file", "byte", "words"),
    [
        ("cifar10", "data_batch_2.bin", 0, r"data_batch_2.bin: record 4 .*label 200, expected 0 to 9"),
        ("cifar100", "test.bin", 0, r"test.bin: record 4 .*coarse label 200, expected 0 to 19"),
        ("cifar100", "train.bin", 1, r"train.bin: record 4 .*fine label 200, expected 0 to 99"),
    ],
)
def test_a_label_out_of_range_is_named_with_its_record(
    name: str, file: str, byte: int, words: str, tmp_path: Path
) -> None:
    path = write(tmp_path, name) / file
    data = bytearray(path.read_bytes())
    data[4 * (len(layout_of(name).label_ranges) + 3072) + byte] = 200
    path.write_bytes(data)
    with pytest.raises(DataError, match=words):
        load(name, tmp_path, download=False)


def test_a_wrong_number_of_class_names_is_refused(tmp_path: Path) -> None:
    (write(tmp_path, "cifar10") / "batches.meta.txt").write_text("cat dog")
    with pytest.raises(DataError, match=r"batches.meta.txt has 2 class names, expected 10"):
        load("cifar10", tmp_path, download=False)


def test_images_are_compared_as_a_set_whatever_their_order_and_blank_ones_are_refused() -> None:
    random = np.random.default_rng(0)
    labels, images = random.integers(0, 10, 200), random.integers(0, 256, (200, 12), dtype=np.uint8)
    order = random.permutation(200)
    assert record_digest(labels, images) == record_digest(labels[order], images[order])
    assert record_digest(labels, images) != record_digest(labels, images[order])
    with pytest.warns(UserWarning, match="train images of cifar10 are not those of the published set"):
        check_known("cifar10", "train", labels, images, "0" * 32)
    images[:100] = 0
    with pytest.raises(DataError, match="cifar10: 100 train images have one value in all pixels"):
        check_known("cifar10", "train", labels, images, "0" * 32)


def test_a_published_set_is_known_in_whatever_order_and_a_part_of_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 32, 32), generator=random, dtype=torch.uint8)
    labels = torch.randint(0, 10, (20,), generator=random)
    names = [str(place) for place in range(10)]
    digest = record_digest(labels.numpy(), images.view(20, -1).numpy())
    layout = replace(layout_of("cifar10"), digests={"train": digest, "test": digest})
    monkeypatch.setitem(CATALOGUE, "cifar10", replace(CATALOGUE["cifar10"], layout=layout))
    order = torch.randperm(20, generator=random)
    assert is_published(make_dataset("cifar10", images, labels, images[order], labels[order], names))
    assert not is_published(make_dataset("cifar10", images, labels, images[:19], labels[:19], names))
    assert not is_published(make_dataset("cifar10", images, labels, images, labels[order], names))
    assert not is_published(make_dataset("mine", images, labels, images, labels, names))


def test_an_archive_that_lies_in_the_data_folder_is_unpacked_without_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, layout = write(tmp_path, "cifar10"), layout_of("cifar10")
    wanted = load("cifar10", tmp_path, download=False).fingerprint
    path = tmp_path / layout.archive.file
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        tar.add(folder, layout.folder)
    shutil.rmtree(folder)
    with pytest.raises(DataError, match="does not have the md5"):
        load("cifar10", tmp_path, download=False)
    mark = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    small = replace(layout, archive=Archive(path.name, mark))
    monkeypatch.setitem(CATALOGUE, "cifar10", replace(CATALOGUE["cifar10"], layout=small))
    killed = tmp_path / f".{layout.folder}-x.partial"
    killed.mkdir()
    assert load("cifar10", tmp_path, download=False).fingerprint == wanted
    assert folder.is_dir()
    assert not killed.exists()


@pytest.mark.parametrize("name", ["cifar-10-batches-py", "cifar-10-python.tar.gz"])
def test_the_version_of_pickles_is_never_read_and_the_binary_one_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=r"is the Python version.* put the official binary version"):
        load("cifar10", tmp_path, download=False)
