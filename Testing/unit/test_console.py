"""What is told of a run while it goes on."""

import json
import subprocess
import sys

from LabelFreeCovidSegLib import console


def test_the_time_left_is_counted_from_where_a_run_goes_on(capfd, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    lines = console.JsonLines()
    for at, fraction in ((101.0, 0.5), (106.0, 0.6), (110.0, 0.75), (130.0, 1.0)):
        now[0] = at
        lines.progress(fraction, "Training")
    lines.close()
    told = [json.loads(line)["seconds_left"] for line in capfd.readouterr().out.splitlines()]
    assert told == [None, 24.0, 10.0, 0.0]


def test_work_that_is_done_is_no_fault_because_nobody_reads_of_it_any_more():
    code = "import sys; from LabelFreeCovidSegLib.console import *; sys.stdin.read(); JsonLines().done(Outcome(''))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 0
