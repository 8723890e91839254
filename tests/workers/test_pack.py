"""`assay dataset pack`: what it writes is what was there, whole or not at all, and nothing outside the folder is read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.workers.test_parquet import LABELS, LOSSLESS, NAMES, PIL, PIXELS, encoded, structs, written
from workers.datasets import Dataset, read_dataset
from workers.pack import main

SCALED = (PIXELS / np.float32(255)).transpose(0, 3, 1, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """cat: images 0 and 1; dog: 2, 3 and 4. Names sort against the order of creation."""
    root = tmp_path / "pictures"
    for name, rows in (("dog", (2, 3, 4)), ("cat", (0, 1))):
        (root / name).mkdir(parents=True)
        for row in reversed(rows):
            (root / name / f"{row}.png").write_bytes(LOSSLESS[row])
    (root / ".DS_Store").write_bytes(b"hidden")
    (root / ".cache").mkdir()
    (root / "cat" / ".hidden.png").write_bytes(b"hidden")
    return root


def pack(*arguments: str | Path, out: Path) -> Dataset:
    assert main([*map(str, arguments), "--out", str(out)]) == 0
    return read_dataset(out.read_bytes())


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path, out: Path) -> str:
    assert main([*map(str, arguments), "--out", str(out)]) == 4
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert not out.exists()
    assert not list(out.parent.glob(".*.part"))
    return text


def test_the_real_process_packs_a_folder_exactly(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "d.npz"
    command = [sys.executable, "-m", "api.cli.main", "dataset", "pack", folder, "--out", out]
    found = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stderr.splitlines()[-1].endswith("5 examples of shape [3, 4, 6], values 0 to 1, 2 classes: cat, dog")
    assert "read 5 of 5" in found.stderr
    packed = read_dataset(out.read_bytes())
    assert np.array_equal(packed.x.numpy(), SCALED)
    assert packed.y.tolist() == [0, 0, 1, 1, 1]
    assert packed.class_names == ("cat", "dog")


def test_the_real_process_refuses_with_a_sentence_and_exit_code_4(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "api.cli.main", "dataset", "pack", tmp_path / "none", "--out", tmp_path / "d.npz"]
    found = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert found.returncode == 4
    assert found.stderr.startswith("assay: source: cannot read")
    assert found.stderr.count("\n") == 1


def test_the_same_folder_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "1.npz", tmp_path / "2.npz"
    pack(folder, out=first)
    pack(folder, out=second)
    assert first.read_bytes() == second.read_bytes()


def test_size_grey_and_limit(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "cat" / "0.png").write_bytes(encoded(np.full((8, 12, 3), 100, np.uint8)))
    packed = pack(folder, "--size", "2,3", "--grey", "--limit", "1", out=tmp_path / "d.npz")
    assert packed.x.shape == (2, 1, 2, 3)
    assert packed.y.tolist() == [0, 1]
    assert np.array_equal(packed.x.numpy()[0], np.full((1, 2, 3), np.float32(100) / np.float32(255)))
    grey = PIL.fromarray(PIXELS[2]).convert("L").resize((3, 2), PIL.Resampling.BILINEAR)
    assert np.array_equal(packed.x.numpy()[1, 0], np.asarray(grey) / np.float32(255))
    said = capsys.readouterr().err
    assert "resized 2 images to 2 x 3, bilinear with antialias" in said
    assert "turned 2 images grey" in said


def test_images_that_differ_are_refused_by_name(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "dog" / "3.png").write_bytes(encoded(PIXELS[3, ..., 0]))
    text = refusal(capsys, folder, out=tmp_path / "d.npz")
    assert "'dog/3.png' is grey of 4 x 6, but the first image is RGB of 4 x 6" in text
    assert "--grey" in text


@pytest.mark.parametrize(("where", "what"), [("cat/notes.txt", "not a readable PNG"), ("notes.txt", "stands beside the class folders")])
def test_other_files_are_refused_by_name_or_skipped(
    where: str, what: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / where).write_text("no image")
    text = refusal(capsys, folder, out=tmp_path / "d.npz")
    assert f"'{where}'" in text
    assert what in text
    assert len(pack(folder, "--skip-unreadable", out=tmp_path / "d.npz").x) == 5
    assert f"skipped: '{where}'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["file", "class", "dangling", "loop"])
def test_links_that_lead_outside_are_refused_or_skipped(
    kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "pictures-private"  # its path begins as the folder's does
    outside.mkdir()
    (outside / "secret.png").write_bytes(LOSSLESS[0])
    link = folder / "yak" if kind == "class" else folder / "cat" / "9.png"
    link.symlink_to({"file": outside / "secret.png", "class": outside, "dangling": outside / "none", "loop": link}[kind])
    assert "is a link that leads outside the folder" in refusal(capsys, folder, out=tmp_path / "d.npz")
    packed = pack(folder, "--skip-unreadable", out=tmp_path / "d.npz")
    assert (len(packed.x), packed.class_names) == (5, ("cat", "dog"))


def test_a_link_within_the_folder_is_followed_and_a_pipe_is_not_opened(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cat" / "2.png").symlink_to(folder / "dog" / "2.png")
    packed = pack(folder, out=tmp_path / "d.npz")
    assert np.array_equal(packed.x.numpy()[2], SCALED[2])
    (tmp_path / "d.npz").unlink()
    os.mkfifo(folder / "cat" / "3.png")
    assert "'cat/3.png' is no plain file" in refusal(capsys, folder, out=tmp_path / "d.npz")


def test_a_parquet_file_keeps_names_and_takes_the_first_of_each_class(tmp_path: Path) -> None:
    source = tmp_path / "d.parquet"
    source.write_bytes(written(structs(LOSSLESS)))
    whole = pack(source, out=tmp_path / "all.npz")
    assert np.array_equal(whole.x.numpy(), read_dataset(source.read_bytes()).x.numpy())
    assert (whole.y.tolist(), whole.class_names) == (LABELS, tuple(NAMES))
    some = pack(source, "--limit", "1", out=tmp_path / "some.npz")
    assert some.y.tolist() == [1, 0, 2]
    assert np.array_equal(some.x.numpy(), SCALED[[0, 1, 3]])


def test_arrays_are_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", PIXELS)
    np.save(tmp_path / "y.npy", np.array(LABELS, np.uint8))
    arrays = ("--x", tmp_path / "x.npy", "--y", tmp_path / "y.npy")
    packed = pack(*arrays, "--classes", "cat, dog,owl", out=tmp_path / "d.npz")
    assert np.array_equal(packed.x.numpy(), PIXELS / np.float32(255))
    assert (packed.y.tolist(), packed.class_names) == (LABELS, tuple(NAMES))
    assert "divided by 255" in capsys.readouterr().err
    np.save(tmp_path / "x.npy", PIXELS / 255)
    assert np.array_equal(pack(*arrays, "--limit", "1", out=tmp_path / "d.npz").x.numpy(), np.float32(PIXELS / 255)[[0, 1, 3]])
    assert "rounded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "either a folder or Parquet file, or --x and --y"),
        (("F", "--x", "x.npy"), "either a folder or Parquet file"),
        (("--x", "x.npy"), "belong together"),
        (("--classes", "a,b"), "belong together"),
        (("--x", "x.npy", "--y", "y.npy", "--grey"), "are for images"),
        (("--x", "x.npy", "--y", "y.npy"), "x: cannot read x.npy"),
        (("F", "--size", "32"), "'32' is not H,W"),
        (("F", "--size", "0,9"), "'0,9' is not H,W"),
        (("F", "--limit", "0"), "limit: 0 is not a positive number"),
        (("F/cat/0.png",), "neither a folder nor a Parquet file"),
        (("F/cat",), "stands beside the class folders"),
    ],
)
def test_bad_arguments_are_a_sentence(
    arguments: tuple[str, ...], sentence: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(folder) + word[1:] if word.startswith("F") else word for word in arguments]
    assert sentence in refusal(capsys, *given, out=tmp_path / "d.npz")


def test_empty_classes_and_empty_folders_are_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "yak").mkdir()
    assert "the class folder 'yak' has no images" in refusal(capsys, folder, out=tmp_path / "d.npz")
    assert "has no sub-folders" in refusal(capsys, folder / "yak", out=tmp_path / "d.npz")


def test_an_old_file_survives_a_failure(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "d.npz"
    out.write_bytes(b"old")
    (folder / "dog" / "4.png").write_bytes(b"broken")
    assert main([str(folder), "--out", str(out)]) == 4
    assert out.read_bytes() == b"old"
    assert main([str(folder), "--out", str(tmp_path / "none" / "d.npz"), "--skip-unreadable"]) == 4


def test_an_object_array_is_not_unpickled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], object))
    np.save(tmp_path / "y.npy", np.array([0]))
    text = refusal(capsys, "--x", tmp_path / "x.npy", "--y", tmp_path / "y.npy", out=tmp_path / "d.npz")
    assert "dataset.x: holds object objects, which would need pickle" in text
