"""Files go where they are sent, complete or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from trm_fast import writing
from trm_fast.errors import UserError
from trm_fast.writing import check_file, make_folder, new_file, new_folder, remove_unfinished, write_bytes


def device(folder: Path, minor: int) -> Path:
    """A device of its own, because a fault would destroy the machine's: 3 is /dev/null, 7 is /dev/full."""
    path = folder / "device"
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        path.open("rb").close()
    except OSError:
        pytest.skip("devices cannot be made here")
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_device_is_written_to(tmp_path: Path) -> None:
    path = device(tmp_path, 3)
    (tmp_path / "link").symlink_to(path)
    for name in (path, tmp_path / "link"):
        write_bytes(name, b"text")
        assert stat.S_ISCHR(path.stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["device", "link"]


def test_a_full_device_is_named(tmp_path: Path) -> None:
    path = device(tmp_path, 7)
    with pytest.raises(UserError, match=r"cannot write .*device: No space left on device"):
        write_bytes(path, b"text")
    assert stat.S_ISCHR(path.stat().st_mode)


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    read: list[bytes] = []
    for name in ("pipe", "link"):
        reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
        reader.start()
        write_bytes(tmp_path / name, b"x" * 100_000)
        reader.join()
    assert [len(each) for each in read] == [100_000] * 2
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize("target", ["folder/file", "folder/new"])
def test_a_symbolic_link_is_followed(target: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("old")
    (tmp_path / "second").symlink_to(target)
    (tmp_path / "first").symlink_to("second")
    write_bytes(tmp_path / "first", b"new")
    assert (tmp_path / "first").is_symlink()
    assert (tmp_path / "second").is_symlink()
    assert (tmp_path / target).read_text() == "new"
    assert not list(tmp_path.rglob("*.part"))


def test_a_link_to_itself_and_a_link_to_nowhere(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("missing/file")
    with pytest.raises(UserError, match="leads back to itself"):
        write_bytes(tmp_path / "loop", b"")
    with pytest.raises(UserError, match=r"the folder .* does not exist"):
        write_bytes(tmp_path / "nowhere", b"")
    assert (tmp_path / "loop").is_symlink()


TO_STDOUT = """
import sys
from trm_fast.writing import write_bytes
print("before")
write_bytes(sys.argv[1], b"written\\n")
print("after")
"""


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "{tmp}/link"])
@pytest.mark.parametrize("to_file", [False, True])
def test_standard_output_keeps_its_order(path: str, to_file: bool, tmp_path: Path) -> None:
    if not Path("/dev/stdout").exists():
        pytest.skip("there is no /dev/stdout here")
    (tmp_path / "link").symlink_to("/dev/stdout")
    command = [sys.executable, "-c", TO_STDOUT, path.format(tmp=tmp_path)]
    if to_file:
        with (tmp_path / "file").open("w") as stream:
            stream.write("first\n")
            stream.flush()
            subprocess.run(command, check=True, stdout=stream)
        assert (tmp_path / "file").read_text() == "first\nbefore\nwritten\nafter\n"
    else:
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        assert run.stdout == "before\nwritten\nafter\n"


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(umask: int, expected: int, tmp_path: Path) -> None:
    old = os.umask(umask)
    try:
        with new_file(tmp_path / "file") as file:  # as safetensors does: a file of its own, for its owner only
            file.unlink()
            os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
        with new_folder(tmp_path / "folder", last="b") as new:
            os.close(os.open(new / "b", os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(old)
    assert mode(tmp_path / "file") == mode(tmp_path / "folder" / "b") == expected
    assert mode(tmp_path / "folder") == 0o777 & ~umask


def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "private"
    path.write_text("old")
    path.chmod(0o600)
    write_bytes(path, b"new")
    assert mode(path) == 0o600
    assert path.read_text() == "new"


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("function", ["os.fsync", "os.replace", "pathlib.Path.write_bytes"])
def test_a_full_disk_leaves_nothing(function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(function, full)
        for name in ("old", "new"):
            with pytest.raises(UserError, match=f"cannot write .*{name}: No space left on device") as error:
                write_bytes(tmp_path / name, b"text")
            assert writing.out_of_space(error.value.__cause__)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old", "old")]


def test_an_error_of_the_writer_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        (path / "a").write_text("half")
        (path / "litter").write_text("")
        raise RuntimeError("stop")

    for exists in (False, True):
        with pytest.raises(RuntimeError), new_folder(tmp_path / "folder", last="a") as new:
            fail(new)
        assert not list(tmp_path.rglob("*.part"))
        assert (tmp_path / "folder").exists() == exists
        (tmp_path / "folder").mkdir(exist_ok=True)
    with pytest.raises(RuntimeError), new_file(tmp_path / "file") as file:
        fail(file.parent)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_files_join_an_existing_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "part").mkdir(parents=True)
    (folder / "notes").write_text("kept")
    (folder / "a").symlink_to("elsewhere")
    with new_folder(folder, last="a") as new:
        (new / "part").mkdir()
        (new / "part" / "b").write_text("b")
        (new / "a").write_text("a")
        assert not (folder / "elsewhere").exists()
    assert {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()} == {
        "notes": "kept", "a": "a", "elsewhere": "a", "part/b": "b",
    }  # fmt: skip


def test_a_folder_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real/folder")
    with new_folder(tmp_path / "link", last="a") as new:
        (new / "a").write_text("a")
    assert (tmp_path / "real" / "folder" / "a").read_text() == "a"
    (tmp_path / "second").symlink_to("made")
    make_folder(tmp_path / "second" / "inside")
    assert (tmp_path / "made" / "inside").is_dir()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "it is a folder"),
        ("folder", "it is a folder"),
        ("missing/file", "the folder .*missing does not exist"),
        ("file/inside", ".*file is not a folder"),
        ("n" * 300, "file name too long"),
    ],
)
def test_causes_are_named(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for write in (check_file, lambda path: write_bytes(path, b"")):
        with pytest.raises(UserError, match=f"(?i)cannot write .*: {words}"):
            write(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.parametrize("name", ["file", "file/inside"])
def test_a_file_is_not_a_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(UserError, match=r"not a folder|Not a directory"):
        make_folder(tmp_path / name)
    with pytest.raises(UserError, match=r"not a folder|Not a directory"), new_folder(tmp_path / name, last="a"):
        pass
    assert (tmp_path / "file").read_text() == "text"


def test_a_file_that_can_be_written_but_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file that a container mounts."""
    path = tmp_path / "mounted"
    path.write_text("old and longer")

    def busy(*_: Any) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr("os.replace", busy)
    write_bytes(path, b"new")
    assert path.read_text() == "new"
    with pytest.raises(UserError, match="resource busy"):
        write_bytes(tmp_path / "other", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["mounted"]


AS_NOBODY = """
import os, sys
from pathlib import Path
from trm_fast.errors import UserError
from trm_fast.writing import write_bytes
folder = Path(sys.argv[1])
os.setgid(65534), os.setuid(65534)
write_bytes(folder / "closed" / "writable", b"new")
for name in ("closed/new", "open/read-only"):
    try:
        write_bytes(folder / name, b"new")
    except UserError as error:
        print(error)
"""


def test_permissions_are_the_cause(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root, to become somebody else")
    for folder, bits in (("closed", 0o755), ("open", 0o777)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder).chmod(bits)
    for name, bits in (("closed/writable", 0o666), ("open/read-only", 0o444)):
        (tmp_path / name).write_text("old")
        (tmp_path / name).chmod(bits)
    for parent in (tmp_path, *tmp_path.parents):
        if not mode(parent) & 0o001:
            parent.chmod(mode(parent) | 0o011)  # pytest's folders are for their owner only
    run = subprocess.run([sys.executable, "-c", AS_NOBODY, tmp_path], capture_output=True, text=True, cwd="/")
    lines = run.stdout.splitlines()
    assert [line.endswith(": Permission denied") for line in lines] == [True, True], run.stderr
    assert (tmp_path / "closed" / "writable").read_text() == "new"
    assert (tmp_path / "open" / "read-only").read_text() == "old"


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".model.abc.part").mkdir()
    (tmp_path / ".model.abc.part" / "model").write_text("half")
    (tmp_path / "kept.part").write_text("")
    remove_unfinished(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["kept.part"]
