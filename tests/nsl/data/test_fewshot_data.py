"""Few-shot sets: no class is in two parts, and what is missing is named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nsl.data import DataError, ImageSet, load_fewshot, make_dataset, split_classes
from nsl.data.fewshot import load_cifar_fs
from nsl.data.splits import CIFAR_FS, MINI_IMAGENET, PARTS


@pytest.mark.parametrize("split", [CIFAR_FS, MINI_IMAGENET])
def test_published_splits_have_64_16_and_20_different_classes(split: dict[str, tuple[str, ...]]) -> None:
    assert [len(split[part]) for part in PARTS] == [64, 16, 20]
    assert len({name for part in PARTS for name in split[part]}) == 100


def test_glyphs_are_split_64_16_20_with_every_kind_of_character_in_every_part() -> None:
    data = load_fewshot("glyphs_fs", images_per_class=2, image_size=16)
    parts = (data.base, data.validation, data.novel)
    assert [part.num_classes for part in parts] == [64, 16, 20]
    names = [set(part.class_names) for part in parts]
    assert not (names[0] & names[1] | names[0] & names[2] | names[1] & names[2])
    assert all(any(name.isdigit() for name in part) and any(ord(n) > 900 for n in part) for part in names)
    assert data.base.images.shape == (128, 3, 16, 16)
    assert data.base.labels.bincount().tolist() == [2] * 64
    assert data.fingerprint == load_fewshot("glyphs_fs", images_per_class=2, image_size=16).fingerprint


def toy(split: dict[str, list[str]]) -> None:
    split_classes("toy", torch.zeros(6, 3, 4, 4, dtype=torch.uint8), torch.arange(6) % 3, ["a", "b", "c", "d"], split)


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"base": ["a"], "validation": ["b"], "novel": ["a"]}, "class 'a' is in two parts, base and novel"),
        ({"base": ["a"], "validation": ["b"], "novel": ["x"]}, "'x', which the set does not have"),
        ({"base": ["a"], "validation": ["b"], "novel": ["d"]}, "class 'd' has no images"),
        ({"base": ["a"], "validation": ["b"], "novel": []}, "part 'novel' of the split has no classes"),
        ({"base": ["a"], "novel": ["b"]}, "must have the parts base, validation, novel"),
    ],
)
def test_a_bad_split_is_one_clear_sentence(split: dict[str, list[str]], words: str) -> None:
    with pytest.raises(DataError, match=words):
        toy(split)


def test_unknown_names_and_options_are_listed() -> None:
    with pytest.raises(DataError, match="known are cifar_fs, mini_imagenet"):
        load_fewshot("omniglot")
    with pytest.raises(DataError, match="has no option seed"):
        load_fewshot("cifar_fs", seed=1)
    with pytest.raises(DataError, match="image_size must be a whole number"):
        load_fewshot("glyphs_fs", image_size="16")
    with pytest.raises(DataError, match="seed must be at least 0"):
        load_fewshot("glyphs_fs", seed=-1)
    with pytest.raises(DataError, match="plain must be True or False"):
        load_fewshot("glyphs_fs", plain="yes")


def write_images(folder: Path, count: int, name: str = "{wnid}_{number}.JPEG", size: int = 2) -> None:
    """Tiny pictures for every class of Mini-ImageNet, each file of one class a link to the same one."""
    folder.mkdir(parents=True)
    picture = folder / "one.png"
    Image.fromarray(np.full((size, size, 3), 7, np.uint8)).save(picture)
    for part in PARTS:
        for wnid in MINI_IMAGENET[part]:
            (folder / wnid).mkdir()
            for number in range(count):
                (folder / wnid / name.format(wnid=wnid, number=number)).symlink_to(picture)


def test_mini_imagenet_needs_600_images_of_every_class(tmp_path: Path) -> None:
    write_images(tmp_path / "mini-imagenet", 2)
    with pytest.raises(DataError, match=r"class n01532829 \(base\) has 2 images under .*, expected 600"):
        load_fewshot("mini_imagenet", tmp_path)
    with pytest.raises(DataError, match=r"class n01532829 \(base\) has 0 images"):
        load_fewshot("mini_imagenet", tmp_path / "mini-imagenet" / "n01532829")


def test_mini_imagenet_is_read_from_folders_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsl.data.fewshot.MINI_IMAGES", 3)
    write_images(tmp_path / "mini-imagenet", 3)
    data = load_fewshot("mini_imagenet", tmp_path, image_size=4)
    assert data.base.images.shape == (192, 3, 4, 4)
    assert data.novel.class_names == MINI_IMAGENET["novel"]
    assert int(data.base.images.min()) == int(data.base.images.max()) == 7


def test_mini_imagenet_finds_the_images_that_the_splits_files_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """n…00000002.jpg is the second image of the class by the number in its own name, not by spelling."""
    from nsl.data.fewshot import _listed

    folder = tmp_path / "n01532829"
    folder.mkdir()
    for number in (100, 9, 20):
        (folder / f"n01532829_{number}.JPEG").write_bytes(b"")
    lines = ["filename,label", "n0153282900000002.jpg,n01532829", "n0153282900000003.jpg,n01532829"]
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    found = _listed(tmp_path, [tmp_path / "train.csv"])
    assert [path.name for path in found["n01532829"]] == ["n01532829_20.JPEG", "n01532829_100.JPEG"]
    (tmp_path / "train.csv").write_text("filename,label\nn0153282900000004.jpg,n01532829\n")
    with pytest.raises(DataError, match="which is not among the 3 images of n01532829"):
        _listed(tmp_path, [tmp_path / "train.csv"])
    (tmp_path / "train.csv").write_text("file,label\nx,y\n")
    with pytest.raises(DataError, match="must have the columns filename and label"):
        _listed(tmp_path, [tmp_path / "train.csv"])


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    from nsl.data.fewshot import _read_image

    path = tmp_path / "x.jpg"
    path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"x\.jpg cannot be read as an image"):
        _read_image(path, 4)


@pytest.mark.parametrize(("shift", "wrong"), [(1, 6), (-2, -2)])
def test_labels_outside_the_class_names_are_refused_and_not_shifted(shift: int, wrong: int) -> None:
    images, labels = torch.zeros(12, 3, 4, 4, dtype=torch.uint8), torch.arange(12) % 6 + shift
    names = [f"c{i}" for i in range(6)]
    split = {"base": names[:2], "validation": names[2:4], "novel": names[4:]}
    with pytest.raises(DataError, match=f"label {wrong} is outside 0 to 5"):
        split_classes("mine", images, labels, names, split)
    with pytest.raises(DataError, match=f"label {wrong} is outside 0 to 5"):
        ImageSet("mine", images, labels, tuple(names))


def test_a_class_name_given_twice_is_refused() -> None:
    images, labels = torch.zeros(6, 3, 4, 4, dtype=torch.uint8), torch.arange(6)
    names = ["a", "b", "c", "a", "e", "f"]
    split = {"base": ["a", "b"], "validation": ["c"], "novel": ["e", "f"]}
    with pytest.raises(DataError, match="class name 'a' is given twice"):
        split_classes("mine", images, labels, names, split)


def test_lists_may_have_blank_lines_and_a_byte_order_mark_and_hidden_files_are_no_images(tmp_path: Path) -> None:
    from nsl.data.fewshot import _listed

    wnids = [MINI_IMAGENET[part][0] for part in PARTS]
    folder = tmp_path / "tiny-imagenet-25"
    (folder / "val" / "images").mkdir(parents=True)
    for wnid in wnids:
        (folder / "train" / wnid / "images").mkdir(parents=True)
        for name in (f"train/{wnid}/images/{wnid}_1.JPEG", f"val/images/{wnid}.JPEG"):
            place = folder / name
            Image.fromarray(np.full((4, 4, 3), 9, np.uint8)).save(place)
            place.with_name(f"._{place.name}").write_bytes(b"\0\5\x16\7 resource fork")
    lines = [f"{wnid}.JPEG\t{wnid}" for wnid in wnids]
    (folder / "val" / "val_annotations.txt").write_text("\ufeff" + "\n\n".join(lines) + "\n\n", encoding="utf-8")
    data = load_fewshot("tiny_imagenet_25_fs", tmp_path, image_size=4)
    assert [len(part.images) for part in (data.base, data.validation, data.novel)] == [2, 2, 2]

    (folder / "train.csv").write_text(f"\ufefffilename,label\n\n{wnids[0]}00000001.jpg,{wnids[0]}\n", encoding="utf-8")
    (folder / wnids[0]).symlink_to(folder / "train" / wnids[0])
    assert [path.name for path in _listed(folder, [folder / "train.csv"])[wnids[0]]] == [f"{wnids[0]}_1.JPEG"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"filename,label\nx.jpg\n", r"train\.csv: line 2 has no file name or no label"),
        (b"filename,label\n\xff\xfe,\n", r"train\.csv cannot be read as text"),
    ],
)
def test_a_bad_list_of_files_is_one_clear_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    from nsl.data.fewshot import _listed

    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(DataError, match=words):
        _listed(tmp_path, [tmp_path / "train.csv"])


def test_a_line_of_annotations_without_a_class_is_named(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "val_annotations.txt").write_text("\nval_0.JPEG\n")
    with pytest.raises(DataError, match=r"val_annotations\.txt: line 2 is not a file name, a tab and a class"):
        load_fewshot("tiny_imagenet_25_fs", tmp_path)


def test_pickles_of_mini_imagenet_are_never_read_and_the_sentence_says_what_to_put_there(tmp_path: Path) -> None:
    (tmp_path / "mini-imagenet-cache-train.pkl").write_bytes(b"")
    with pytest.raises(DataError, match=r"cache-train\.pkl is a pickle, .* put there one folder of images a class"):
        load_fewshot("mini_imagenet", tmp_path)


@pytest.mark.parametrize(("split", "digest"), [(CIFAR_FS, "83bbfb99835c5c56"), (MINI_IMAGENET, "0ef648a2d4a45f10")])
def test_the_classes_of_published_splits_are_where_they_were(split: dict[str, tuple[str, ...]], digest: str) -> None:
    """Digests of the lists as they are stored here: an exchange of two classes would keep all counts."""
    names = "\n".join(f"{part}/{name}" for part in PARTS for name in split[part])
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == digest


def test_images_of_cifar_fs_keep_their_labels_and_all_of_them_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted(name for part in PARTS for name in CIFAR_FS[part])
    train, test = torch.arange(100).repeat_interleave(3), torch.arange(100).repeat_interleave(2).flip(0)

    def pixels(labels: torch.Tensor) -> torch.Tensor:
        return labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous()

    whole = make_dataset("cifar100", pixels(train), train, pixels(test), test, names)
    monkeypatch.setattr("nsl.data.cifar.load_cifar", lambda *_, **__: whole)
    data = load_cifar_fs(Path())
    for part in (data.base, data.validation, data.novel):
        assert part.labels.bincount().tolist() == [5] * part.num_classes
        for image, label in zip(part.images, part.labels):
            assert names[int(image[0, 0, 0])] == part.class_names[int(label)]


def test_missing_classes_and_images_of_tiny_imagenet_are_told(tmp_path: Path) -> None:
    novel = MINI_IMAGENET["novel"][0]
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "val_annotations.txt").write_text("")
    (tmp_path / "wnids.txt").write_text(f"{novel}\nn00000000\n")
    with pytest.raises(DataError, match=f"wnids.txt names 1 classes without a folder, the first {novel}"):
        load_fewshot("tiny_imagenet_25_fs", tmp_path)
