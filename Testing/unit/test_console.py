"""What is told of a run while it goes on."""

import json

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
