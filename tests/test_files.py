import errno
import os
from pathlib import Path

import pytest

from dreamfusion.errors import DreamFusionError
from dreamfusion.io import files
from dreamfusion.io.files import (
    free_disk_bytes,
    prepare_output_dir,
    replace_folder,
    slugify,
    write_atomically,
    write_text,
)


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
    with pytest.raises(ZeroDivisionError), write_atomically(target) as temporary:
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
    assert os.listdir(tmp_path / "result") == ["two.txt"]


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
    assert os.listdir(tmp_path / "result") == ["one.txt"]


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
