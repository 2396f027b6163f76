"""Files, folders and logs: whole or not at all, also when the disk is full or the process is killed."""

import os
from io import FileIO
from pathlib import Path

import pytest

from limbeck import files
from limbeck.errors import DiskError, RunInUseError
from limbeck.files import AppendLog, whole_binary_file, whole_file, whole_folder

from .disk import disk_of


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as stream:
        stream.write("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_lines_and_bytes_are_written_as_given(tmp_path: Path) -> None:
    with whole_file(tmp_path / "deep" / "a.txt") as stream:
        stream.write("é\u2028\n")
    assert (tmp_path / "deep" / "a.txt").read_bytes() == "é\u2028\n".encode()
    with whole_binary_file(tmp_path / "b") as binary:
        binary.write(b"\xff\r\n")
    assert (tmp_path / "b").read_bytes() == b"\xff\r\n"


def test_files_get_the_usual_mode(tmp_path: Path) -> None:
    with whole_file(tmp_path / "ours") as stream:
        stream.write("x")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="below: "), whole_file(tmp_path / "file" / "below"):
        pass
    with pytest.raises(DiskError, match="below: "), whole_folder(tmp_path / "file" / "below"):
        pass


def test_what_another_process_removes_meanwhile_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On NFS a removed file lies there until the last process closes it, which may be after it was listed."""
    (tmp_path / "kept").touch()
    monkeypatch.setattr(Path, "rglob", lambda folder, what: [folder / ".nfs0001", folder / "kept"])
    files.sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        files.sync(tmp_path / "gone")


def test_a_missing_file_is_no_question_of_space(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        (tmp_path / "gone").stat()
    said = str(DiskError(tmp_path / "gone", error.value))
    assert said.endswith("gone: No such file or directory; check that the file is there, then run again")


def test_a_folder_takes_its_place_only_when_it_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with whole_folder(folder) as partial:
        (partial / "deep").mkdir()
        (partial / "deep" / "old.txt").write_text("old")
        assert not folder.exists()
    with pytest.raises(KeyboardInterrupt), whole_folder(folder) as partial:
        (partial / "new.txt").write_text("half")
        raise KeyboardInterrupt
    assert [path.name for path in folder.rglob("*.txt")] == ["old.txt"]
    with whole_folder(folder) as partial:
        (partial / "new.txt").write_text("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "new.txt"]


def test_bytes_from_a_place_are_all_read_however_few_the_system_gives_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numbers").write_bytes(bytes(range(20)))
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda handle, count, begin: pread(handle, min(count, 3), begin))
    with FileIO(tmp_path / "numbers") as stream:
        assert files.read_at(stream, 10, 5) == bytes(range(5, 15))
        assert files.read_at(stream, 10, 15) == bytes(range(15, 20)), "the file ends there"
        assert files.read_at(stream, 0, 0) == files.read_at(stream, 4, 20) == b""


# --- logs


@pytest.fixture
def log(tmp_path: Path) -> AppendLog:
    """A log with three lines."""
    log = AppendLog(tmp_path / "deep" / "log")
    for line in (b"one", b"", b"three"):
        log.append(line)
    return log


def lines(log: AppendLog) -> list[bytes]:
    return [line for _, line in log.lines()]


def test_what_was_appended_is_read_back(log: AppendLog) -> None:
    again = AppendLog(log.path, durable=True)
    assert lines(again) == lines(log) == [b"one\n", b"\n", b"three\n"]
    offset = again.append(b"four")
    assert [*again.lines(offset)] == [(offset, b"four\n")] and [*again.at([offset, 0])] == [
        b"four\n",
        b"one\n",
    ]
    assert log.path.read_bytes() == b"one\n\nthree\nfour\n"


def test_no_file_is_an_empty_log(tmp_path: Path) -> None:
    log = AppendLog(tmp_path / "none")
    assert lines(log) == [] and not log.path.exists()


def test_a_torn_line_is_not_read_and_goes_with_the_next_append(log: AppendLog) -> None:
    with log.path.open("ab") as stream:
        stream.write(b"to")
    again = AppendLog(log.path)
    assert lines(again) == [b"one\n", b"\n", b"three\n"]
    assert log.path.read_bytes().endswith(b"to"), "reading changes nothing"
    again.append(b"four")
    assert log.path.read_bytes() == b"one\n\nthree\nfour\n"


@pytest.mark.parametrize("size", [2, 5, 1 << 16])
def test_a_long_torn_line(log: AppendLog, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(files, "BLOCK", size)
    with log.path.open("ab") as stream:
        stream.write(b"x" * 17)
    assert lines(AppendLog(log.path)) == [b"one\n", b"\n", b"three\n"]
    log.path.write_bytes(b"x" * 17)
    assert lines(AppendLog(log.path)) == []


def test_a_second_writer_is_noticed_and_a_reader_follows(log: AppendLog) -> None:
    other = AppendLog(log.path)
    log.append(b"four")
    with pytest.raises(RunInUseError, match="another process writes here"):
        other.append(b"mine")
    assert lines(other) == [b"one\n", b"\n", b"three\n"], "as it was when it was opened"
    other.refresh()
    assert lines(other)[3:] == [b"four\n"]


def test_a_line_that_does_not_fit_is_taken_back(log: AppendLog) -> None:
    with disk_of(15), pytest.raises(DiskError, match=r"log: .*free the space"):
        log.append(b"x" * 30)
    assert log.path.read_bytes() == b"one\n\nthree\n"
    log.append(b"four")
    assert lines(log)[3:] == [b"four\n"]
