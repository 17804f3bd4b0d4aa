"""What another process may read is whole: the old content or the new one, whatever happens to the writer."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from fmsci import files
from fmsci.errors import UserError
from fmsci.files import (
    ASIDE_PREFIX,
    aside,
    discard,
    exchange,
    open_to_append,
    publish_file,
    publish_folder,
    read_json,
    regular_file,
    write_json,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def publish(path, **contents):
    """Publish a folder of small files."""
    with publish_folder(path) as folder:
        for name, text in contents.items():
            (folder / name).write_text(text)


# ------------------------------------------------------------------ files


def test_a_files_bytes_are_forced_to_storage_before_it_has_its_name_and_the_name_after(tmp_path, monkeypatch):
    synced, fsync, path = [], os.fsync, tmp_path / "result"

    def noticed(handle):
        synced.append((Path(f"/proc/self/fd/{handle}").readlink(), path.exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noticed)
    write_text(path, "all of it")
    assert synced == [(aside(path), False), (tmp_path, True)]


def test_a_file_appears_whole_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    with publish_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == path.parent  # the same file system, or a rename would be a copy
        assert temporary.name.startswith(ASIDE_PREFIX)
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert names(path.parent) == ["c.txt"]


def test_a_file_is_replaced(tmp_path):
    write_text(tmp_path / "a", "old")
    write_text(tmp_path / "a", "new ü")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "new ü"


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, OSError, UserError])
def test_a_writer_that_fails_leaves_a_file_as_it_was(tmp_path, old, failure):
    path = tmp_path / "a"
    if old is not None:
        path.write_text(old)

    def write():
        with publish_file(path) as temporary:
            temporary.write_text("half")
            raise failure("reason")

    expected = UserError if failure is OSError else failure
    with pytest.raises(expected, match="reason"):
        write()
    assert names(tmp_path) == ([] if old is None else ["a"])
    assert old is None or path.read_text() == old


def publish_nothing(path):
    with publish_file(path):
        pass


def test_a_writer_that_writes_nothing_is_told(tmp_path):
    with pytest.raises(UserError, match=re.escape(f"cannot write {tmp_path / 'a'}: No such file or directory")):
        publish_nothing(tmp_path / "a")


# ------------------------------------------------------------------ folders


def test_a_folder_appears_whole(tmp_path):
    path = tmp_path / "deep" / "run"
    with publish_folder(path) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "x").write_text("1")
        assert not path.exists()
    assert (path / "inner" / "x").read_text() == "1"
    assert names(path.parent) == ["run"]


@pytest.mark.parametrize("atomic", [True, False], ids=["exchange", "two renames"])
def test_a_folder_replaces_the_old_one_and_keeps_nothing_of_it(tmp_path, atomic, monkeypatch):
    if not atomic:  # as on file systems that cannot exchange names
        monkeypatch.setattr(files, "exchange", lambda first, second: False)
    publish(tmp_path / "m", a="1", b="1")
    publish(tmp_path / "m", b="2", c="2")
    assert names(tmp_path) == ["m"]
    assert {path.name: path.read_text() for path in (tmp_path / "m").iterdir()} == {"b": "2", "c": "2"}


@pytest.mark.parametrize("old", [False, True])
def test_a_writer_that_fails_leaves_a_folder_as_it_was(tmp_path, old):
    path = tmp_path / "m"
    if old:
        publish(path, a="old")

    def write():
        with publish_folder(path) as folder:
            (folder / "a").write_text("half")
            raise ValueError("reason")

    with pytest.raises(ValueError, match="reason"):
        write()
    assert names(tmp_path) == (["m"] if old else [])
    assert not old or (path / "a").read_text() == "old"


def test_a_folder_does_not_replace_a_file(tmp_path):
    (tmp_path / "m").write_text("precious")
    with pytest.raises(UserError, match=re.escape(f"cannot write {tmp_path / 'm'}: there is a file of that name")):
        publish(tmp_path / "m", a="1")
    assert (tmp_path / "m").read_text() == "precious"
    assert names(tmp_path) == ["m"]


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_a_folder_needs_a_name(tmp_path, monkeypatch, name):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/notes.txt").write_text("mine")
    monkeypatch.chdir(tmp_path / "inside")
    with pytest.raises(UserError, match=r"^\S+ is no name for a new folder; write it out, such as models/name$"):
        publish(Path(name), a="1")
    assert names(tmp_path) == ["inside"]
    assert names(tmp_path / "inside") == ["notes.txt"]


def test_a_link_to_a_folder_is_replaced_and_what_it_named_stays(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a").write_text("old")
    (tmp_path / "m").symlink_to(tmp_path / "elsewhere")
    publish(tmp_path / "m", a="new")
    assert (tmp_path / "m" / "a").read_text() == "new"
    assert (tmp_path / "elsewhere" / "a").read_text() == "old"
    assert names(tmp_path) == ["elsewhere", "m"]


def test_two_names_change_places_at_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_text("b")
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("the file system of the temporary folder cannot exchange names")
    assert (tmp_path / "a").read_text() == "b"
    assert (tmp_path / "b").is_dir()
    assert not exchange(tmp_path / "a", tmp_path / "none")
    assert (tmp_path / "a").read_text() == "b"


def test_a_reader_never_finds_a_folder_missing_or_mixed_while_it_is_replaced(tmp_path):
    path = tmp_path / "m"
    publish(path, a="0", b="0")
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    if not exchange(tmp_path / "x", tmp_path / "y"):
        pytest.skip("the file system of the temporary folder cannot exchange names")
    stop, missing, looks = threading.Event(), [], 0

    def write():
        for number in range(1, 150):
            publish(path, a=str(number), b=str(number))
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not stop.is_set():
        looks += 1
        if not path.is_dir():
            missing.append(looks)
        folder = os.open(path, os.O_RDONLY)  # what was opened stays one folder
        with suppress(FileNotFoundError):  # replaced and removed since it was opened
            assert read_inside(folder, "a") == read_inside(folder, "b")
        os.close(folder)
    writer.join()
    assert looks > 100
    assert missing == []


def read_inside(folder, name):
    with open(name, opener=lambda name, flags: os.open(name, flags, dir_fd=folder)) as stream:
        return stream.read()


# ------------------------------------------------------------------ killed

KILLED = """
import os, signal, sys
from pathlib import Path
from fmsci.files import publish_file, publish_folder
path = Path(sys.argv[2])
if sys.argv[1] == "file":
    with publish_file(path) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
with publish_folder(path) as folder:
    (folder / "a").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("old", [False, True])
def test_a_killed_writer_leaves_the_old_content_and_a_name_that_says_unfinished(tmp_path, kind, old):
    path = tmp_path / "m"
    if old and kind == "file":
        write_text(path, "old")
    elif old:
        publish(path, a="old")
    done = subprocess.run([sys.executable, "-c", KILLED, kind, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    left = [name for name in names(tmp_path) if name != "m"]
    assert len(left) == 1
    assert left[0].startswith(ASIDE_PREFIX)
    assert path.exists() == old
    if old:
        assert (path if kind == "file" else path / "a").read_text() == "old"
    if kind == "file":
        write_text(path, "new")
    else:
        publish(path, a="new")
    assert (path if kind == "file" else path / "a").read_text() == "new"


REPLACING = """
import sys
from pathlib import Path
from fmsci.files import publish_folder
number = 0
while True:
    number += 1
    with publish_folder(Path(sys.argv[1])) as folder:
        for name in "abc":
            (folder / name).write_text(str(number) * 1000)
    print(number, flush=True)
"""


def test_a_folder_whose_writer_is_killed_at_any_moment_is_whole(tmp_path):
    path = tmp_path / "m"
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    if not exchange(tmp_path / "x", tmp_path / "y"):
        pytest.skip("the file system of the temporary folder cannot exchange names")
    for attempt in range(6):
        process = subprocess.Popen([sys.executable, "-c", REPLACING, str(path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2 + attempt):
            process.stdout.readline()
        process.kill()
        process.communicate()
        texts = {(path / name).read_text() for name in "abc"}
        assert len(texts) == 1


# ------------------------------------------------------------------ places that cannot be written


@pytest.mark.parametrize("writer", [lambda path: write_text(path, "x"), lambda path: publish(path, a="x")])
def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path, writer):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    places = [
        tmp_path / "file" / "x",
        tmp_path / "file" / "deeper" / "x",
        tmp_path / ("n" * 250),  # too long with what is added to the name
        type(tmp_path)("/proc/fmsci/x"),
    ]
    for path in places:
        with pytest.raises(UserError, match=r"^cannot write .*; free or change the place and repeat$") as caught:
            writer(path)
        assert str(path) in str(caught.value)
    assert names(tmp_path) == ["file", "folder"]


def test_a_file_does_not_replace_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="Is a directory"):
        write_text(tmp_path / "folder", "x")
    assert names(tmp_path) == ["folder"]


@pytest.fixture
def tiny_disk(tmp_path):
    """A real file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a tiny file system is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_a_sentence_and_leaves_the_old_content(tiny_disk):
    write_text(tiny_disk / "a", "old")
    publish(tiny_disk / "m", a="old")
    with pytest.raises(UserError, match="No space left on device; free or change the place"):
        write_text(tiny_disk / "a", "x" * 100_000)
    with pytest.raises(UserError, match="No space left on device; free or change the place"):
        publish(tiny_disk / "m", a="x" * 100_000)
    assert (tiny_disk / "a").read_text() == "old"
    assert (tiny_disk / "m" / "a").read_text() == "old"
    assert names(tiny_disk) == ["a", "m"]


# ------------------------------------------------------------------ JSON


def test_json_comes_back(tmp_path):
    value = {"a": [1, 2.5, None, True, "ü"], "b": {}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert (tmp_path / "a.json").read_text().endswith("\n")


def test_json_that_others_could_not_read_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"error": float("nan")})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read as JSON: Expecting value"),
        (b'{"a": 1', "cannot be read as JSON: Expecting ',' delimiter"),
        (b"\xff\xfe\x00", "cannot be read as JSON: 'utf-8' codec"),
        (b"[" * 100_000, "cannot be read as JSON: "),
        (b"9" * 5000, "cannot be read as JSON: Exceeds the limit"),
    ],
    ids=["empty", "cut", "binary", "deep", "long number"],
)
def test_what_is_no_json_is_a_sentence(tmp_path, content, reason):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"{path} {reason}")):
        read_json(path)


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match=re.escape(f"there is no file {tmp_path / 'a.json'}")):
        read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match=re.escape(f"{tmp_path} cannot be read: Is a directory")):
        read_json(tmp_path)


# ------------------------------------------------------------------ small parts


def test_each_process_writes_aside_under_its_own_name(tmp_path):
    code = "import sys; from pathlib import Path; from fmsci.files import aside; print(aside(Path(sys.argv[1])))"
    other = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, check=True
    ).stdout.strip()
    ours = aside(tmp_path / "a")
    assert ours.parent == tmp_path
    assert str(ours) != other


def test_discard_removes_files_folders_links_and_nothing(tmp_path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    for name in ("folder", "file", "link", "nothing"):
        discard(tmp_path / name)
    assert names(tmp_path) == ["kept"]


def test_published_json_is_plain_text(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1})
    assert json.loads((tmp_path / "a.json").read_text(encoding="ascii")) == {"b": 1}


def test_json_that_is_far_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("fmsci.files.LARGEST_JSON", 1000)
    write_json(tmp_path / "a.json", "x" * 900)
    assert len(read_json(tmp_path / "a.json")) == 900
    write_json(tmp_path / "a.json", "x" * 1000)
    with pytest.raises(UserError, match=r"a.json has more than 1,000 bytes, far more than it needs; do not use it"):
        read_json(tmp_path / "a.json")


# ------------------------------------------------------------------ pipes, devices and links


def test_only_a_file_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    assert regular_file(tmp_path / "link") == tmp_path / "link"
    for name, words in [("pipe", "a pipe or a device"), ("folder", "Is a directory"), ("none", "No such file")]:
        with pytest.raises(OSError, match=words):
            regular_file(tmp_path / name)
    with pytest.raises(OSError, match="a pipe or a device"):
        regular_file(type(tmp_path)("/dev/zero"))


def test_nothing_is_appended_through_a_link_or_into_a_pipe(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    (tmp_path / "new").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "pipe")
    for name, words in [("link", "it is a symbolic link"), ("new", "it is a symbolic link"), ("pipe", "it is a pipe")]:
        with pytest.raises(OSError, match=words):
            open_to_append(tmp_path / name)
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "lines").write_text("a\n")
    with open_to_append(tmp_path / "lines") as stream:
        stream.write("b\n")
    assert (tmp_path / "lines").read_text() == "a\nb\n"
    assert (tmp_path / "lines").stat().st_mode == (tmp_path / "victim").stat().st_mode
