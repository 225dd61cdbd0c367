"""The child process, with real processes: its messages, its crashes, and that nothing of it is left."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from LabelFreeCovidSegLib import runner as runner_module
from LabelFreeCovidSegLib.runner import Conversation, Listener, Step, SubprocessRunner

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and process groups are POSIX")

# What the program does with --progress json --watch-stdin; `wait` stands for a long computation.
CHILD = """
import json, os, subprocess, sys, threading

def say(**message):
    print(json.dumps(message), flush=True)

def step():
    say(fraction=0.5, phase="Finding lesions", seconds_left=None)

def watch():
    sys.stdin.read()
    say(error={"kind": "CancelledError", "message": "Cancelled."})
    os._exit(3)

def wait():
    threading.Thread(target=watch, daemon=True).start()
    step()
    threading.Event().wait()

def remember(name, pid):
    with open(name, "w") as file:
        file.write(str(pid))

"""


@dataclass
class Heard:
    """Everything a run told its listener, in order."""

    steps: list[Step] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)

    def listener(self, on_step: Callable[[], None] = lambda: None) -> Listener:
        def progress(step: Step) -> None:
            self.steps.append(step)
            on_step()

        return Listener(
            progress=progress,
            log=self.log.append,
            finished=lambda: self.ends.append("finished"),
            failed=self.ends.append,
            cancelled=lambda: self.ends.append("cancelled"),
        )


@pytest.fixture
def run(tmp_path: Path):
    """Run a child that does what `code` says and wait for its end; `on_step` is called at each progress line."""

    def run(code: str, on_step: Callable[[SubprocessRunner], None] = lambda _: None) -> Heard:
        script = tmp_path / "child.py"
        script.write_text(CHILD + code)
        heard, runner = Heard(), SubprocessRunner()
        runner.start([str(script)], tmp_path, heard.listener(lambda: on_step(runner)))
        runner.wait()
        return heard

    return run


def pid(path: Path) -> int:
    return int(path.read_text())


def gone(process: int) -> bool:
    """Whether a process has ended (a zombie has), within two seconds."""
    for _ in range(200):
        try:
            os.kill(process, 0)
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_progress_log_and_end_arrive_in_order(run):
    heard = run(
        'say(fraction=0.1, phase="Reading", seconds_left=None)\n'
        'print("a library says hello")\n'
        'say(fraction=0.9, phase="Measuring", seconds_left=2.5)\n'
        'say(done={"folder": ".", "files": {}})\n'
    )
    assert heard.steps == [Step(0.1, "Reading"), Step(0.9, "Measuring", 2.5)]
    assert heard.log == ["a library says hello"]
    assert heard.ends == ["finished"]


def test_an_error_of_the_child_reaches_the_user_in_its_own_words(run):
    heard = run('say(error={"kind": "ScanError", "message": "ct.nii.gz: not HU. Export it again."})\nsys.exit(1)\n')
    assert heard.ends == ["ct.nii.gz: not HU. Export it again."]


def test_a_traceback_ends_in_one_message_with_what_the_child_said_last(run):
    (message,) = run("import a_module_that_is_not_there\n").ends
    assert message.startswith("The computation ended unexpectedly (exit code 1).")
    assert "ModuleNotFoundError: No module named 'a_module_that_is_not_there'" in message


def test_an_exit_without_a_result_is_no_success(run):
    assert run("step()\n").ends == ["The computation ended unexpectedly (exit code 0)."]


@posix
def test_a_child_killed_by_the_system_gives_one_message_that_names_the_memory(run, tmp_path):
    heard = run(
        'remember("pid", os.getpid())\nwait()\n',
        on_step=lambda _: os.kill(pid(tmp_path / "pid"), signal.SIGKILL),
    )
    (message,) = heard.ends
    assert "ended by the system, probably because the memory ran out" in message
    assert gone(pid(tmp_path / "pid"))


@posix
def test_cancelling_ends_the_child_and_its_grandchild_within_two_seconds(run, tmp_path):
    started = []

    def cancel(runner: SubprocessRunner) -> None:
        started.append(time.monotonic())
        runner.stop()

    heard = run(
        'grandchild = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])\n'
        'remember("grandchild", grandchild.pid)\nremember("pid", os.getpid())\nwait()\n',
        on_step=cancel,
    )
    assert time.monotonic() - started[0] < 2
    assert heard.ends == ["cancelled"]
    assert gone(pid(tmp_path / "pid"))
    assert gone(pid(tmp_path / "grandchild"))


def launcher(folder: Path, *, own_session: bool) -> None:
    """A stand-in for `PythonSlicer`: it spawns the interpreter instead of becoming it.

    In a session of its own the interpreter is out of reach of signals to the launcher's group, as on Windows.
    """
    folder.mkdir()
    file = folder / "PythonSlicer"
    file.write_text(
        f"#!{sys.executable}\n"
        "import os, subprocess, sys\n"
        "with open('launcher', 'w') as file: file.write(str(os.getpid()))\n"
        f"child = subprocess.Popen([{sys.executable!r}, *sys.argv[1:]], start_new_session={own_session})\n"
        "sys.exit(child.wait())\n"
    )
    file.chmod(0o755)


@posix
@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.parametrize("cancelled", [False, True])
def test_no_interpreter_is_left_when_the_launcher_before_it_ends(run, tmp_path, monkeypatch, own_session, cancelled):
    launcher(tmp_path / "bin", own_session=own_session)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)

    def end_launcher(runner: SubprocessRunner) -> None:
        assert pid(tmp_path / "launcher") != pid(tmp_path / "pid")
        if cancelled:
            runner.stop()
        else:
            os.kill(pid(tmp_path / "launcher"), signal.SIGKILL)

    heard = run('remember("pid", os.getpid())\nwait()\n', on_step=end_launcher)
    (end,) = heard.ends
    assert end == "cancelled" if cancelled else "ended by the system" in end
    assert gone(pid(tmp_path / "launcher"))
    assert gone(pid(tmp_path / "pid"))


def test_the_child_finds_this_package_and_nothing_of_its_working_folder(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "")
    (tmp_path / "SimpleITK.py").write_text("raise ImportError('a file in the data folder was imported')\n")
    heard = run(
        "import LabelFreeCovidSegLib, SimpleITK, tempfile\n"
        "print(LabelFreeCovidSegLib.__file__); print(os.getcwd()); print(tempfile.gettempdir())\n"
    )
    package, folder, temporary = heard.log
    assert Path(package).parent == Path(runner_module.__file__).parent
    assert Path(folder) == Path(temporary) == tmp_path


def test_what_is_not_ascii_arrives_unchanged(run):
    assert run('print("Grüße aus Ελλάδα")\n').log == ["Grüße aus Ελλάδα"]


def test_a_second_run_is_refused_while_one_is_going_on_and_allowed_after_it(tmp_path):
    (tmp_path / "child.py").write_text(CHILD + "wait()\n")
    heard, runner = Heard(), SubprocessRunner()
    runner.start([str(tmp_path / "child.py")], tmp_path, heard.listener())
    with pytest.raises(RuntimeError, match="still going on"):
        runner.start([str(tmp_path / "child.py")], tmp_path, Heard().listener())
    runner.stop()
    runner.wait()
    runner.start(["-c", "print('again')"], tmp_path, heard.listener())
    runner.wait()
    assert heard.ends[0] == "cancelled"
    assert heard.log == ["again"]


def test_stopping_when_nothing_runs_leaves_the_runner_ready(tmp_path):
    runner, heard = SubprocessRunner(), Heard()
    runner.stop()
    runner.wait()
    runner.start(["-c", "print('here')"], tmp_path, heard.listener())
    runner.wait()
    assert heard.log == ["here"]


def test_a_listener_that_raises_leaves_the_runner_ready_for_the_next_run(tmp_path):
    def fail() -> None:
        raise ValueError("the scene said no")

    runner, heard = SubprocessRunner(), Heard()
    done = json.dumps({"done": {"folder": ".", "files": {}}})
    runner.start(["-c", f"print({done!r})"], tmp_path, Listener(finished=fail))
    with pytest.raises(ValueError, match="the scene said no"):
        runner.wait()
    runner.start(["-c", f"print({done!r})"], tmp_path, heard.listener())
    runner.wait()
    assert heard.ends == ["finished"]


@pytest.mark.parametrize("exit_code", [-9, 9, 137])
def test_every_way_a_kill_is_told_reads_the_same(exit_code):
    heard = Heard()
    Conversation(heard.listener()).end(exit_code, stopped=False)
    assert "memory ran out" in heard.ends[0]


@pytest.mark.parametrize("line", ["[1, 2]", "null", '"fraction"', "{broken", "12"])
def test_lines_that_are_json_but_no_message_are_only_logged(line):
    heard = Heard()
    Conversation(heard.listener()).hear(line)
    assert heard.log == [line]
    assert not heard.steps
