"""The command line in real processes: what it prints, how it ends, and that it can be stopped anywhere."""

import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from LabelFreeCovidSegLib import cli, output, script
from LabelFreeCovidSegLib.console import Plain
from LabelFreeCovidSegLib.session import Session

PACKAGE_FOLDER = Path(cli.__file__).resolve().parents[1]
SCRIPT = PACKAGE_FOLDER / "Scripts" / "segment.py"

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")

# The command line with one more method, which does what its environment says; `waits` never comes back.
ENTRY = """
import os, signal, sys, threading
import numpy as np
from LabelFreeCovidSegLib import cli, report
from LabelFreeCovidSegLib.methods import base

BEHAVIOUR = os.environ["STAND_IN"]
if os.name == "posix":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever started the tests may have it ignored

class StandIn:
    card, weights = base.Card("stand-in", "Stand-in", "Thresholds.", "Nobody."), "none"

    def predict(self, scan, lungs, compute, progress):
        progress(0.5, "Standing in")
        if BEHAVIOUR == "chatters":
            print("from Python")
            os.write(1, b"from C\\n")
        if BEHAVIOUR == "breaks":
            raise RuntimeError("a fault")
        if BEHAVIOUR == "waits":
            threading.Event().wait()
        lesion = ((scan.hu > -700) & (lungs.labels > 0)).astype(np.uint8)
        return base.Prediction(lesion, lesion.astype(np.float32))

def wait_while_writing(result):
    os.write(2, b"half-written\\n")
    threading.Event().wait()

def signalled(rename):
    def rename_meanwhile(source, target):
        os.kill(os.getpid(), signal.SIGTERM)
        rename(source, target)
    return rename_meanwhile

if BEHAVIOUR == "waits while writing":
    report.render = wait_while_writing
if BEHAVIOUR == "is signalled":
    os.replace = signalled(os.replace)
sys.modules["stand_in"] = sys.modules["__main__"]
CARD, load = StandIn.card, StandIn
base.REGISTRY["stand-in"] = "stand_in"
sys.exit(cli.main())
"""


@pytest.fixture(scope="session")
def chest(tmp_path_factory) -> Path:
    """A folder with a body of two lungs, one with a lesion of 72 x 60 x 60 mm, the mask of the lungs, and ENTRY."""
    folder = tmp_path_factory.mktemp("chest")
    hu = np.full((60, 70, 90), -1000, np.int16)
    hu[:, 5:65, 5:85] = 40
    lungs = np.zeros(hu.shape, np.uint8)
    lungs[5:55, 12:58, 10:40], lungs[5:55, 12:58, 50:80] = 1, 2
    hu[lungs > 0] = -850
    hu[10:28, 20:35, 15:30] = -500
    for name, array in (("ct.nii.gz", hu), ("lungs.nii.gz", lungs)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((4.0, 4.0, 4.0))
        sitk.WriteImage(image, str(folder / name))
    (folder / "entry.py").write_text(ENTRY)
    return folder


def start(chest: Path, out: Path, behaviour: str, *options: str) -> subprocess.Popen:
    """Segment the chest with the stand-in method, in a process of its own."""
    return subprocess.Popen(
        [
            sys.executable, chest / "entry.py", "segment", chest / "ct.nii.gz", "-o", out, "--method", "stand-in",
            "--lungs", chest / "lungs.nii.gz", "--device", "cpu", "--precision", "float32", *options,
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "STAND_IN": behaviour, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a process that ends by itself, its input being closed."""
    said, complained = process.communicate(timeout=60)
    return process.returncode, said, complained


def run(*arguments: object, cwd: Path | None = None) -> tuple[int, str, str]:
    """The command line as a user starts it."""
    done = subprocess.run(
        [sys.executable, "-m", "LabelFreeCovidSegLib", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, cwd=cwd, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


# What it says


def test_json_progress_is_all_that_standard_output_carries(chest, tmp_path):
    code, said, complained = finish(start(chest, tmp_path / "out", "chatters", "--progress", "json"))
    assert code == 0, complained
    *steps, last = [json.loads(line) for line in said.splitlines()]
    assert all(set(step) == {"fraction", "phase", "seconds_left"} for step in steps)
    fractions = [step["fraction"] for step in steps]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    phases = [step["phase"] for step in steps]
    assert phases.index("Reading the scan") < phases.index("Standing in") < phases.index("Writing the report")
    assert steps[0]["seconds_left"] is None
    assert steps[-1]["seconds_left"] == 0.0
    assert last["done"]["folder"] == str(tmp_path / "out")
    assert {name: Path(path).name for name, path in last["done"]["files"].items()} == {f: f for f in output.FILES}
    assert all(Path(path).is_file() for path in last["done"]["files"].values())
    assert "from Python" in complained
    assert "from C" in complained


def test_a_person_is_told_the_numbers_and_where_the_results_lie(chest, tmp_path):
    code, said, complained = finish(start(chest, tmp_path / "out", "answers"))
    assert code == 0, complained
    right = next(line for line in said.splitlines() if line.startswith("right"))
    # 18 x 15 x 15 voxels of 0.064 mL are lesion, of 50 x 46 x 30.
    assert right.split() == ["right", "4416", "mL", "259.2", "mL", "0.0", "mL", "259.2", "mL", "5.9", "%"]
    assert f"Results in {tmp_path / 'out'}" in said
    assert "Research software. Not a medical device." in said
    assert all(name in said for name in output.FILES)


# How it fails


def test_a_missing_scan_is_an_error_and_writes_nothing(tmp_path):
    code, said, complained = run("segment", tmp_path / "no.nii.gz", "-o", tmp_path / "out", "--progress", "json")
    assert code == 1
    error = json.loads(said.splitlines()[-1])["error"]
    assert error["kind"] == "ScanError"
    assert "no.nii.gz" in error["message"]
    assert "Traceback" not in complained
    assert list(tmp_path.iterdir()) == []


def test_an_error_is_told_to_a_person_without_a_traceback(tmp_path):
    code, said, complained = run("segment", tmp_path / "no.nii.gz", "-o", tmp_path / "out")
    assert (code, said) == (1, "")
    assert "no.nii.gz" in complained
    assert "Traceback" not in complained


def test_an_unusable_folder_is_found_out_before_the_scan_is_read(chest, tmp_path):
    (tmp_path / "out").write_text("a file")
    code, said, _ = finish(start(chest, tmp_path / "out", "answers", "--progress", "json"))
    assert code == 1
    lines = [json.loads(line) for line in said.splitlines()]
    assert lines[-1]["error"]["kind"] == "OutputError"
    assert "Reading the scan" not in [line.get("phase") for line in lines]


def test_a_fault_of_the_program_gives_a_traceback_and_one_json_line(chest, tmp_path):
    code, said, complained = finish(start(chest, tmp_path / "out", "breaks", "--progress", "json"))
    assert code == 1
    assert json.loads(said.splitlines()[-1]) == {"error": {"kind": "RuntimeError", "message": "RuntimeError: a fault"}}
    assert "Traceback" in complained
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [(), ("segment",), ("paint",), ("segment", "ct.nii.gz", "--device", "abacus")])
def test_wrong_usage_exits_with_2(arguments):
    code, said, complained = run(*arguments)
    assert (code, said) == (2, "")
    assert "usage: labelfreecovidseg" in complained


FIT = "train fit normnet cache -o run"
LEAVE_ONE_OUT = "train leave-one-out normnet cache -o folds --fold anna"


@pytest.mark.parametrize(
    ("command", "option", "number", "fault"),
    [
        (FIT, "--iterations", "0", "is not a whole number from 1 on"),
        (FIT, "--iterations", "-3", "is not a whole number from 1 on"),
        (FIT, "--iterations", "many", "is not a whole number from 1 on"),
        (FIT, "--batch", "0", "is not a whole number from 1 on"),
        (FIT, "--every", "0", "is not a whole number from 1 on"),
        (FIT, "--devices", "0", "is not a whole number from 1 on"),
        (FIT, "--workers", "-1", "is not a whole number from 0 on"),
        (FIT, "--seed", "-1", "is not a whole number from 0 on"),
        (LEAVE_ONE_OUT, "--seeds", "-1", "is not a whole number from 0 on"),
        ("segment --slices .", "--pixel-mm", "0,7", "is no size of a pixel of a chest CT. Give millimetres"),
        ("segment --slices .", "--pixel-mm", "0.19", "is no size of a pixel"),
        ("segment --slices .", "--pixel-mm", "3.1", "is no size of a pixel"),
        ("segment --slices .", "--pixel-mm", "nan", "is no size of a pixel"),
    ],
)
def test_a_number_that_makes_no_sense_is_wrong_usage(capsys, command, option, number, fault):
    with pytest.raises(SystemExit) as ended:
        cli.main([*command.split(), option, number])
    assert ended.value.code == 2
    assert f"argument {option}: '{number}' {fault}" in capsys.readouterr().err


def test_workers_and_seeds_may_be_0(tmp_path, capsys):
    numbers = ["--workers", "0", "--seed", "0", "--iterations", "1", "--batch", "1", "--every", "1", "--devices", "1"]
    command = ["train", "fit", "normnet", str(tmp_path / "none"), "-o", str(tmp_path / "run"), *numbers]
    assert cli.main([*command, "--progress", "none"]) == 1
    assert "none: there is no cache of prepared scans in this folder." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("ct.nii.gz", "--pixel-mm", "0.7"), "--pixel-mm is for pictures"),
        (("ct.nii.gz", "--equalised"), "--equalised is for pictures"),
        (("ct.nii.gz", "--orientation", "LP"), "--orientation is for pictures"),
        (("--slices", ".", "--lungs", "classical"), "--lungs classical is for a CT"),
    ],
)
def test_an_option_that_would_mean_nothing_is_refused(arguments, fault):
    code, said, complained = run("segment", *arguments)
    assert (code, said) == (1, "")
    assert fault in complained


@pytest.mark.parametrize("arguments", [["--version"], ["segment"], ["segment", "--help"]])
def test_nothing_heavy_is_imported_to_answer_about_the_usage(arguments):
    code = f"""
import contextlib, sys
from LabelFreeCovidSegLib import cli
with contextlib.suppress(SystemExit):
    cli.main({arguments!r})
print(sorted({{"torch", "SimpleITK", "scipy", "jinja2", "tqdm"}} & set(sys.modules)))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert said.splitlines()[-1] == "[]"


def test_a_reader_who_leaves_early_is_no_fault(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "LabelFreeCovidSegLib", "methods"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 0


def test_a_sample_replaces_no_file(tmp_path):
    (tmp_path / "ct.nrrd").write_text("mine")
    code, said, complained = run("sample", "-o", tmp_path / "ct.nrrd")
    assert (code, said) == (1, "")
    assert "ct.nrrd is there already" in complained


# How it is stopped


def wait_for(stream, words: str) -> None:
    """Read on until `words` come."""
    for line in stream:
        if words in line:
            return
    raise AssertionError(f"ended without saying {words!r}")


def assert_cancelled(process: subprocess.Popen, tmp_path: Path) -> None:
    code, said, complained = finish(process)
    assert code == 3, complained
    assert json.loads(said.splitlines()[-1]) == {"error": {"kind": "CancelledError", "message": "Cancelled."}}
    assert list(tmp_path.iterdir()) == []


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_the_computation_at_once(chest, tmp_path, name):
    process = start(chest, tmp_path / "out", "waits", "--progress", "json")
    wait_for(process.stdout, "Standing in")
    process.send_signal(getattr(signal, name))
    assert_cancelled(process, tmp_path)


@posix
def test_a_terminal_that_hangs_up_ends_nothing_that_shall_survive_it():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` has it
    try:
        with Session(Plain()):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with Session(Plain()):
            assert signal.getsignal(signal.SIGHUP) != signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@posix
def test_a_signal_while_writing_leaves_nothing_half_written(chest, tmp_path):
    process = start(chest, tmp_path / "out", "waits while writing", "--progress", "json")
    wait_for(process.stderr, "half-written")
    assert list(tmp_path.iterdir()) != []
    process.send_signal(signal.SIGTERM)
    assert_cancelled(process, tmp_path)


def test_closing_standard_input_ends_the_computation_if_it_is_watched(chest, tmp_path):
    process = start(chest, tmp_path / "out", "waits", "--progress", "json", "--watch-stdin")
    wait_for(process.stdout, "Standing in")
    process.stdin.close()
    process.stdin = None
    assert_cancelled(process, tmp_path)


@posix
def test_a_signal_while_results_are_put_into_their_place_comes_too_late(chest, tmp_path):
    code, said, complained = finish(start(chest, tmp_path / "out", "is signalled", "--progress", "json"))
    assert code == 0, complained
    assert "done" in json.loads(said.splitlines()[-1])
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(output.FILES)


def test_a_reader_of_progress_that_goes_away_ends_the_computation(chest, tmp_path):
    process = start(chest, tmp_path / "out", "answers", "--progress", "json")
    process.stdout.close()
    assert process.wait(timeout=60) == 3
    assert list(tmp_path.iterdir()) == []


# Where it writes, and the other ways to start it


@pytest.mark.parametrize(
    ("name", "folder"), [("ct.nii.gz", "ct-lesions"), ("ct.v2.nrrd", "ct.v2-lesions"), ("1.2.840", "1.2.840-lesions")]
)
def test_the_default_folder_is_named_after_the_scan(tmp_path, name, folder):
    (tmp_path / name).mkdir() if name == "1.2.840" else (tmp_path / name).touch()
    assert cli.default_out(tmp_path / name) == Path(folder)


def test_the_methods_are_listed_with_what_to_cite(capsys):
    assert cli.main(["methods"]) == 0
    assert "normnet: NormNet" in capsys.readouterr().out


def test_the_script_runs_under_plain_python_from_any_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "no.nii.gz"], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "no.nii.gz" in done.stderr


@pytest.mark.parametrize(("arguments", "code"), [(["no.nii.gz"], 1), (["--nonsense"], 2), (["--help"], 0)])
def test_inside_the_application_the_script_ends_it_with_its_exit_code(tmp_path, monkeypatch, arguments, code):
    codes = []
    application = types.SimpleNamespace(app=object(), util=types.SimpleNamespace(exit=codes.append))
    monkeypatch.setitem(sys.modules, "slicer", application)
    monkeypatch.setattr(sys, "argv", ["segment.py", *arguments])
    monkeypatch.chdir(tmp_path)
    script.run("segment")
    assert codes == [code]


def test_a_scan_without_lungs_in_view_is_refused_and_nothing_is_written(tmp_path, capsys):
    hu = np.full((30, 60, 60), -1000, np.int16)
    hu[:, 10:50, 10:50] = 40  # a leg, say
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing((5.0, 5.0, 5.0))
    sitk.WriteImage(image, tmp_path / "leg.nii.gz")
    assert cli.main(["segment", str(tmp_path / "leg.nii.gz"), "-o", str(tmp_path / "out"), "--progress", "none"]) == 1
    message = capsys.readouterr().err
    assert "leg.nii.gz: no lungs in view (less than 300 mL" in message
    assert "Load a chest CT" in message
    assert [path.name for path in tmp_path.iterdir()] == ["leg.nii.gz"]
