"""What becomes of earlier results of slices, and of whatever else lies where results go."""

import contextlib
import itertools
import json
import os

import pytest
from LabelFreeCovidSegLib import output, segment_slices
from LabelFreeCovidSegLib.errors import OutputError
from slice_runs import Bright, read, run, write


def test_an_unchanged_earlier_result_is_replaced(folder, tmp_path, register):
    register(Bright())
    run(folder, tmp_path / "out")
    (folder / "s10.png").unlink()
    run(folder, tmp_path / "out")
    assert not (tmp_path / "out" / "lesions" / "s10.png").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(segment_slices.CONTENTS)


def test_results_go_where_a_link_leads(folder, tmp_path, register):
    register(Bright())
    (tmp_path / "disk").mkdir()
    for place in ("there", "not yet there"):
        (tmp_path / place).symlink_to(tmp_path / "disk" / place)
    (tmp_path / "disk" / "there").mkdir()
    for place in ("there", "not yet there", "there"):
        run(folder, tmp_path / place)
        assert (tmp_path / place).is_symlink()
        assert (tmp_path / "disk" / place / "result.json").is_file()
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["not yet there", "there"]


class Killed(BaseException):
    """Nothing is undone: a process that is killed does nothing any more."""


@pytest.mark.parametrize("moves", [0, 4, 5, 6, 9, 10])  # of ten, the first five of which go out
def test_after_a_kill_between_two_renamings_the_next_run_finds_a_whole_result(
    folder, tmp_path, register, monkeypatch, moves
):
    register(Bright())
    out, rename, calls = tmp_path / "out", os.replace, itertools.count()
    run(folder, out)

    def rename_or_die(source, target):
        if next(calls) >= moves:
            raise Killed
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", rename_or_die)
        patch.setattr(output, "discard", lambda staged: None)
        with contextlib.suppress(Killed):
            run(folder, out, pixel_mm=0.8)
    run(folder, out)
    assert {path.name for path in out.iterdir()} == set(segment_slices.CONTENTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini"])
def test_what_a_look_at_a_result_leaves_there_is_nobodys_work(folder, tmp_path, register, name):
    register(Bright())
    run(folder, tmp_path / "out")
    for place in (tmp_path / "out", tmp_path / "out" / "lesions"):
        (place / name).touch()
    (folder / "s10.png").unlink()
    run(folder, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "lesions").iterdir()] == ["s2.png"]


@pytest.mark.parametrize("name", ["lesions/s2.png", "lungs/notes.txt", "lungs/.notes", "slices.csv"])
def test_a_result_that_someone_has_worked_on_is_never_replaced(folder, tmp_path, register, name):
    register(Bright())
    run(folder, tmp_path / "out")
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(OutputError, match="changed or added since"):
        run(folder, tmp_path / "out")
    assert (tmp_path / "out" / name).read_text() == "mine"


@pytest.mark.parametrize("missing", ["source", "source_sha256", "files"])
def test_numbers_that_lack_what_is_read_of_them_are_not_this_programs(folder, tmp_path, register, missing):
    register(Bright())
    path = tmp_path / "out" / "result.json"
    path.parent.mkdir()
    numbers = {"schema": segment_slices.SCHEMA, "source": "in", "source_sha256": {}, "files": {}}
    del numbers[missing]
    path.write_text(json.dumps(numbers))
    with pytest.raises(OutputError, match="not an earlier result"):
        run(folder, tmp_path / "out")


def test_other_files_beside_a_result_are_not_touched(folder, tmp_path, register):
    register(Bright())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    run(folder, tmp_path / "out")
    run(folder, tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_other_folders_are_never_replaced(folder, tmp_path, register):
    register(Bright())
    run(folder, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "lungs").touch()
    with pytest.raises(OutputError, match="not an earlier result"):
        run(folder, tmp_path / "mine")
    for name in ("s2.png", "s10.png"):  # another patient's, at the same path
        write(folder / name, read(folder / name)[:, ::-1])
    with pytest.raises(OutputError, match="results of other pictures, 'in'"):
        run(folder, tmp_path / "out")


def test_pictures_that_were_moved_are_the_same(folder, tmp_path, register):
    register(Bright())
    run(folder, tmp_path / "out")
    run(folder.rename(tmp_path / "moved"), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "result.json").read_text())["source"] == "moved"


@pytest.mark.parametrize("place", [".", "results"])
def test_results_never_lie_among_the_pictures(folder, register, place):
    register(Bright())
    with pytest.raises(OutputError, match="among the pictures"):
        run(folder, folder / place)


def test_a_fault_leaves_nothing(folder, tmp_path, register, monkeypatch):
    method = register(Bright())
    monkeypatch.setattr(method, "predict", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
