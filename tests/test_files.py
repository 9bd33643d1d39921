import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from dreamfusion.assets.formats import save_mesh
from dreamfusion.assets.images import save_png
from dreamfusion.assets.mesh import Mesh
from dreamfusion.assets.video import save_video
from dreamfusion.errors import DreamFusionError
from dreamfusion.io import files
from dreamfusion.io.files import (
    free_disk_bytes,
    prepare_output_dir,
    read_rows,
    replace_folder,
    slugify,
    write_atomically,
    write_text,
)
from dreamfusion.io.signatures import is_signed


@pytest.mark.parametrize(
    ("prompt", "slug"),
    [
        ("a red mushroom", "a-red-mushroom"),
        ("  A  Red\tMushroom!!! ", "a-red-mushroom"),
        ("the king's hat", "the-kings-hat"),
        ("crème brûlée", "creme-brulee"),
        ("Straße", "strasse"),
        ("一个红蘑菇", "一个红蘑菇"),
        ("красный гриб", "красный-гриб"),
        ("लाल मशरूम", "लाल-मशरूम"),
        ("버섯", "버섯"),
        ("../../etc/passwd", "etc-passwd"),
        ('C:\\temp\\*?"', "c-temp"),
        ("CON", "prompt-con"),
        ("com1", "prompt-com1"),
        ("console", "console"),
        ("-rf", "rf"),
        ("a\0b\nc", "a-b-c"),
    ],
)
def test_slug_is_readable(prompt, slug):
    assert slugify(prompt) == slug


@pytest.mark.parametrize("prompt", ["", "...", ".", "..", "!?", "🍄", "\u200f", "\ud800"])
def test_slug_of_nothing_readable_is_a_hash(prompt):
    assert len(slugify(prompt)) == len("prompt-") + 8
    assert slugify(prompt).startswith("prompt-")


def test_prompts_that_differ_in_symbols_get_different_slugs():
    assert slugify("🍄") != slugify("🚗")
    assert slugify("red 🍄") != slugify("red 🚗")
    assert slugify("red 🍄").startswith("red-")
    assert slugify("1 < 2 | 3").startswith("1-2-3-")


@pytest.mark.parametrize("letter", ["a", "é", "字", "𒀀", "ﷺ"])
def test_long_prompts_are_cut_and_told_apart(letter, tmp_path):
    words = " ".join([letter * 7] * 200)
    one, other = slugify(words + " one"), slugify(words + " other")
    assert one != other
    assert one == slugify(words + " one")
    assert len(one.encode()) <= 89
    (tmp_path / one).mkdir()


def test_long_prompt_is_cut_at_a_word():
    assert slugify("mushroom " * 20)[:-9] == "-".join(["mushroom"] * 9)


def test_write_replaces_the_file_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "notes.txt"
    write_text(target, "one\n")
    write_text(target, "zwei – 二\n")
    assert target.read_bytes() == "zwei – 二\n".encode()
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_the_temporary_name_keeps_the_suffix(tmp_path):
    with write_atomically(tmp_path / "turntable.mp4") as temporary:
        assert temporary.suffix == ".mp4"
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"film")
    assert (tmp_path / "turntable.mp4").read_bytes() == b"film"


def _write_half(path):
    path.write_text("half")
    raise ZeroDivisionError


def test_a_failure_in_the_block_keeps_the_earlier_file(tmp_path):
    target = tmp_path / "notes.txt"
    write_text(target, "earlier")
    with pytest.raises(ZeroDivisionError), write_atomically(target, ours=True) as temporary:
        _write_half(temporary)
    assert target.read_text() == "earlier"
    assert os.listdir(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
    ],
)
def test_disk_trouble_becomes_one_line_and_keeps_the_earlier_file(number, words, tmp_path, monkeypatch):
    target = tmp_path / "notes.txt"
    write_text(target, "earlier")

    def fail(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(DreamFusionError, match=words) as caught:
        write_text(target, "later")
    assert "\n" not in str(caught.value)
    assert str(target) in str(caught.value)
    assert target.read_text() == "earlier"
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_other_errors_are_not_disguised(tmp_path):
    with pytest.raises(ConnectionResetError), write_atomically(tmp_path / "x"):
        raise ConnectionResetError(errno.ECONNRESET, "reset")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DreamFusionError, match="does not exist"):
        write_text(tmp_path / "absent" / "notes.txt", "text")


def test_folders_are_replaced_as_a_whole(tmp_path):
    for text in ("one", "two"):
        with replace_folder(tmp_path / "result") as temporary:
            (temporary / f"{text}.txt").write_text(text)
    assert os.listdir(tmp_path) == ["result"]
    assert sorted(os.listdir(tmp_path / "result")) == [".dreamfusion", "two.txt"]


def test_a_failed_folder_keeps_the_earlier_one(tmp_path, monkeypatch):
    with replace_folder(tmp_path / "result") as temporary:
        (temporary / "one.txt").write_text("one")

    real, calls = os.rename, []

    def fail_on_second(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "full")
        real(source, target)

    monkeypatch.setattr(files.os, "rename", fail_on_second)
    with pytest.raises(DreamFusionError, match="full"), replace_folder(tmp_path / "result") as temporary:
        (temporary / "two.txt").write_text("two")
    assert os.listdir(tmp_path) == ["result"]
    assert sorted(os.listdir(tmp_path / "result")) == [".dreamfusion", "one.txt"]


@pytest.mark.parametrize("change", ["new", "changed", "empty", "unlisted", "link"])
def test_a_folder_with_anything_else_in_it_is_refused_and_stays(change, tmp_path):
    target = tmp_path / "result"
    with replace_folder(target) as temporary:
        (temporary / "below").mkdir()
        (temporary / "below/one.txt").write_text("one")
    match change:
        case "new":
            (target / "below/mine.txt").write_text("mine")
        case "changed":
            (target / "below/one.txt").write_text("mended by hand")
        case "empty":
            (target / "mine").mkdir()
        case "unlisted":
            (target / files.MARKER).unlink()
        case "link":
            (target / "mine").symlink_to(tmp_path)
    before = {path: path.read_bytes() if path.is_file() else None for path in target.rglob("*")}
    with pytest.raises(DreamFusionError, match="holds other things") as caught, replace_folder(target):
        pytest.fail("the work was begun")
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() if path.is_file() else None for path in target.rglob("*")} == before
    assert os.listdir(tmp_path) == ["result"]


def test_a_file_or_folder_of_the_users_is_not_replaced(tmp_path):
    (tmp_path / "result").write_text("mine")
    with pytest.raises(DreamFusionError, match="is a file"), replace_folder(tmp_path / "result"):
        pytest.fail("the work was begun")
    with pytest.raises(DreamFusionError, match="not written by this program"), write_atomically(tmp_path / "result"):
        pytest.fail("the work was begun")
    assert (tmp_path / "result").read_text() == "mine"
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DreamFusionError, match="was not written by this program"), write_atomically(tmp_path / "link"):
        pytest.fail("the work was begun")
    assert (tmp_path / "link").is_symlink()


def _picture(path, value):
    save_png(torch.full((3, 4, 4), value), path)


def _film(path, value):
    save_video([torch.full((3, 16, 16), value)] * 2, path)


def _textured(subdivisions):
    ball = trimesh.creation.icosphere(subdivisions)
    count = len(ball.vertices)
    normals = ball.vertices.astype(np.float32)
    return Mesh(
        vertices=normals,
        faces=ball.faces.astype(np.int32),
        normals=normals,
        colors=np.full((count, 3), 0.5, np.float32),
        uv=np.full((count, 2), 0.5, np.float32),
        texture=np.full((4, 4, 3), 90, np.uint8),
    )


def _mesh(path, value):
    save_mesh(_textured(round(4 * value)), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.png", _picture),
        ("a.mp4", _film),
        ("a.webm", _film),
        ("a.gif", _film),
        ("a.glb", _mesh),
        ("a.obj", _mesh),
        ("a.ply", _mesh),
        ("a.stl", _mesh),
        ("a.usdz", _mesh),
    ],
)
def test_every_format_is_signed_and_replaced_only_while_it_is_as_written(name, write, tmp_path):
    target = tmp_path / name
    write(target, 0.25)
    first = target.read_bytes()
    assert is_signed(target)
    write(target, 0.75)
    assert is_signed(target)
    assert target.read_bytes() != first
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    target.write_bytes(data)
    assert not is_signed(target)
    with pytest.raises(DreamFusionError, match="was changed since"):
        write(target, 0.25)
    assert target.read_bytes() == data


@pytest.mark.parametrize("sibling", ["cat.png", "cat.mtl"])
def test_a_mesh_does_not_take_the_place_of_a_file_beside_it(sibling, tmp_path):
    (tmp_path / sibling).write_bytes(b"a cat")
    with pytest.raises(DreamFusionError, match=sibling):
        save_mesh(_textured(1), tmp_path / "cat.obj")
    assert (tmp_path / sibling).read_bytes() == b"a cat"
    assert os.listdir(tmp_path) == [sibling]


def test_output_dir_is_created_and_empty(tmp_path):
    folder = prepare_output_dir(tmp_path / "runs" / "a-red-mushroom")
    assert folder.is_dir()
    assert os.listdir(folder) == []
    assert prepare_output_dir(str(folder)) == folder


def test_output_dir_on_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DreamFusionError, match="--output"):
            prepare_output_dir(path)
    assert (tmp_path / "file").read_text() == "kept"


def test_output_dir_with_bad_name_is_refused(tmp_path):
    with pytest.raises(DreamFusionError, match="null"):
        prepare_output_dir("a\0b")
    with pytest.raises(DreamFusionError, match="too long"):
        prepare_output_dir(tmp_path / ("x" * 300))


def test_output_dir_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    # Tests may run as root, whom permission bits do not stop, so the refusal is simulated where it would arise.
    def refuse(self, data):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(DreamFusionError, match="permission denied"):
        prepare_output_dir(tmp_path)


def test_free_disk(tmp_path):
    free = free_disk_bytes(tmp_path / "not" / "yet")
    assert free > 0


def test_rows_of_a_log(tmp_path: Path):
    log = tmp_path / "metrics.jsonl"
    assert read_rows(log) == []
    log.write_text('{"step": 1, "loss": 2.5}\n[3]\n{"step": 2}\n{"step": 3, "lo')
    assert read_rows(log) == [{"step": 1, "loss": 2.5}, {"step": 2}]
    log.unlink()
    log.mkdir()
    with pytest.raises(DreamFusionError, match=r"metrics.jsonl cannot be read \(Is a directory\): move it away"):
        read_rows(log)
