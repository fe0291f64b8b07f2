"""A folder of one's own images becomes a data set."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from nsl.data import DataError, load_folder, read_folder

Image = pytest.importorskip("PIL.Image")


def write(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 8) -> Path:
    for value, name in enumerate(classes, start=1):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            picture = np.full((9 + number, 12, 3), 40 * value + number, np.uint8)
            if number == 0:
                Image.fromarray(picture[..., 0]).save(folder / name / f"{number}.png")  # a grey one
            else:
                Image.fromarray(picture).save(folder / name / f"{number}.png")
    (folder / classes[0] / ".hidden.png").write_bytes(b"")
    (folder / classes[0] / "notes.txt").write_text("not an image")
    return folder


def test_every_class_is_split_and_labels_are_the_folders(tmp_path: Path) -> None:
    data = load_folder(write(tmp_path / "pets"), 8)
    assert (data.name, data.class_names, data.image_size) == ("pets", ("cat", "dog"), 8)
    assert torch.bincount(data.train_labels).tolist() == [6, 6]
    assert torch.bincount(data.test_labels).tolist() == [2, 2]
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        assert torch.equal(images.flatten(1).amax(1) // 40, (labels + 1).to(torch.uint8))
    assert load_folder(tmp_path / "pets", 8).fingerprint == data.fingerprint
    assert load_folder(str(tmp_path / "pets"), 8, seed=1).fingerprint != data.fingerprint


def test_train_and_test_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    write(tmp_path / "train", count=5)
    with pytest.raises(DataError, match="has a folder train and neither test nor val"):
        load_folder(tmp_path, 8)
    write(tmp_path / "val", count=3)
    data = load_folder(tmp_path, 8)
    assert (len(data.train_labels), len(data.test_labels)) == (10, 6)
    assert load_folder(write(tmp_path / "vehicles", ("bus", "train")), 8).class_names == ("bus", "train")
    write(tmp_path / "test", ("cat", "cow"))
    with pytest.raises(DataError, match="the class 'cow' is not both in train and in test"):
        load_folder(tmp_path, 8)


def test_what_is_wrong_with_a_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none is no folder"):
        load_folder(tmp_path / "none", 8)
    with pytest.raises(DataError, match="has no folders in it"):
        read_folder(tmp_path, 8)
    pets = write(tmp_path / "pets")
    with pytest.raises(DataError, match="image_size must be a whole number of at least 1, got 0"):
        load_folder(pets, 0)
    with pytest.raises(DataError, match=r"test_share must be above 0 and below 1, got 1\.5"):
        load_folder(pets, 8, test_share=1.5)
    (pets / "dog" / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.jpg cannot be read as an image"):
        read_folder(pets, 8)
    (pets / "bird").mkdir()
    with pytest.raises(DataError, match="bird has no JPEG or PNG files"):
        read_folder(pets, 8)
    with pytest.raises(DataError, match="has one image, of which none is left for a test"):
        load_folder(write(tmp_path / "one", count=1), 8)


def test_the_command_trains_on_a_folder_and_evaluates_what_it_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from nsl.train import main

    pets, file = str(write(tmp_path / "pets")), str(tmp_path / "pets.safetensors")
    data = ["--data", pets, "--data-option", "image_size=8"]
    recipe = ["--model", "cnn9", "--option", "width=2", "--iterations", "2", "--batch-size", "4", "--device", "cpu"]
    assert main([*recipe, *data, "--export", file]) == 0
    said = capsys.readouterr().out
    assert "cnn9 on pets" in said
    assert main(["--evaluate", file, "--data", pets]) == 0  # in the size that it was trained on
    assert main(["--evaluate", file]) == 2
    assert "was trained on images of your own, pets: name their folder by --data" in capsys.readouterr().err
    assert main(["--evaluate", file, *data]) == 0
    assert re.search(r"test error [\d.]+ %", capsys.readouterr().out)
    assert main([*recipe, *data, "--data-option", "width=3"]) == 2
    assert "--data-option width: images of a folder take image_size, test_share, seed" in capsys.readouterr().err
    assert main([*recipe, "--data", f"{pets}/none"]) == 2
    assert "none is no folder; name one of images, or a data set: digits, " in capsys.readouterr().err
    assert main([*recipe, *data, "--root", str(tmp_path)]) == 2
    assert "--root belongs to the data sets that have names" in capsys.readouterr().err
