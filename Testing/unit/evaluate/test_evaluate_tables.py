"""`evaluate`: the tables, the page and the lists that it writes."""

import csv
import io
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from evaluating import CARDS, METHODS, evaluate, result, texts
from LabelFreeCovidSegLib import cli, phantom
from LabelFreeCovidSegLib.console import Plain
from LabelFreeCovidSegLib.errors import LungError
from LabelFreeCovidSegLib.evaluation import datasets, judge, page, run, tables
from LabelFreeCovidSegLib.evaluation.protocols import PROTOCOLS, Unit
from LabelFreeCovidSegLib.evaluation.run import FILES, Plan
from LabelFreeCovidSegLib.evaluation.statistics import Summary
from LabelFreeCovidSegLib.session import Session


def test_one_line_a_method_with_mean_sd_interval_and_kind(stand_in, data):
    evaluate(data)
    written = texts(data)
    assert set(os.listdir(data.parent / "out")) == {*FILES, run.CASES, run.LOCKS}
    rows = {(row["method"], row["metric"]): row for row in csv.DictReader(io.StringIO(written["table.csv"]))}
    good, taught = (rows[method, "DSC"] for method in METHODS)
    values = [1, 2 / 3, 1]
    assert float(good["mean"]) == pytest.approx(np.mean(values), abs=1e-5)
    assert float(good["sd"]) == pytest.approx(np.std(values), abs=1e-5)
    assert 2 / 3 - 1e-5 <= float(good["low"]) < float(good["mean"]) < float(good["high"]) <= 1
    assert (good["n"], good["kind"], good["source"]) == ("3", "label-free", "this run")
    assert float(taught["mean"]) == pytest.approx(np.mean([1, 2 / 3, 0]), abs=1e-5)
    assert taught["kind"] == "supervised"
    assert "| good | label-free | 3 | 88.9 ± 15.7 [66.7, 100.0] |" in written["table.md"]
    assert PROTOCOLS["volume"].caveat in written["table.md"]
    assert "DSC: good - taught = +33.3 [+0.0, +100.0] points over the 3 cases" in written["table.md"]
    assert r"88.9 $\pm$ 15.7 [66.7, 100.0]" in written["table.tex"]


def test_every_case_is_in_the_list_of_cases(stand_in, data):
    evaluate(data)
    rows = list(csv.DictReader(io.StringIO(texts(data)["cases.csv"])))
    dice = {(row["method"], row["case"]): float(row["value"]) for row in rows if row["metric"] == "DSC"}
    assert dice == pytest.approx({
        ("good", "a"): 1, ("good", "b"): 2 / 3, ("good", "c"): 1,
        ("taught", "a"): 1, ("taught", "b"): 2 / 3, ("taught", "c"): 0,
    }, abs=1e-5)  # fmt: skip


class Pictures(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[dict] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.found.append(dict(attrs))


def test_the_page_has_box_plots_and_the_best_median_and_worst_case_and_needs_nothing(stand_in, data):
    evaluate(data)
    text = texts(data)["evaluation.html"]
    pictures = Pictures(text)
    assert [picture["alt"] for picture in pictures.found] == ["a", "c", "b", "a", "b", "c"]
    assert all(picture["src"].startswith("data:image/png;base64,") for picture in pictures.found)
    assert re.findall(r"(best|median|worst): (\w)", text) == [
        ("best", "a"), ("median", "c"), ("worst", "b"), ("best", "a"), ("median", "b"), ("worst", "c"),
    ]  # fmt: skip
    assert pictures.tags.count("svg") == 1
    assert pictures.tags.count("rect") == 2
    assert pictures.tags.count("circle") == 6
    assert not re.findall(r"(?:src|href)=.http", text)


def test_the_page_and_the_tables_of_all_protocols(stand_in, data):
    made, failed = evaluate(data, methods=("good",), protocols=tuple(PROTOCOLS))
    assert not failed
    assert [table.protocol.name for table in made] == list(PROTOCOLS)
    assert [row.kind for row in made[-1].rows] == ["oracle"]
    for protocol in PROTOCOLS.values():
        assert protocol.caveat in texts(data)["table.md"]


def test_latex_has_no_bare_special_characters(stand_in, data):
    evaluate(data, methods=("good",), protocols=("B_slice", "oracle_threshold"))
    text = texts(data)["table.tex"]
    assert r"protocol B\_slice" in text
    assert "±" not in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    for line in text.splitlines():
        assert not re.search(r"(?<!\\)[%_#]", line.replace(r"\resizebox{\textwidth}{!}{%", ""))


def test_published_numbers_stand_beside_ours_with_their_source(stand_in, data, monkeypatch):
    monkeypatch.setitem(CARDS, "normnet", CARDS["good"])
    monkeypatch.setattr(judge.pipeline, "segment", lambda scan, method, *more: result(scan, "good"))
    known = replace(datasets.REGISTRY["coronacases"], find=datasets.find(str(data))[0].find, cases=3)
    plan = Plan(("normnet",), [(known, data)], ("C",))
    (table,), _ = run.run(plan, data.parent / "out", Session(Plain()))
    ours, theirs = table.rows
    assert (ours.source, theirs.kind, theirs.source) == ("this run", "published", "Yao et al. (TMI), Table III")
    assert (theirs.numbers["DSC"].mean, theirs.numbers["DSC"].sd) == (pytest.approx(0.698), pytest.approx(0.152))
    assert "69.8 ± 15.2" in texts(data)["table.md"]
    assert "validation results" in texts(data)["table.md"]


def test_published_numbers_are_of_metrics_that_protocols_give():
    lines = tables._lines()
    assert len(lines) == 237
    assert {line["protocol"] for line in lines} <= set(PROTOCOLS)
    assert {line["data"] for line in lines} <= set(datasets.REGISTRY)
    assert all(line["source"] and 0 < float(line["mean"]) <= 100 for line in lines)


# Numbers to text


def test_a_box_by_hand():
    box = page.Box.of([0.1, 0.5, 0.52, 0.54, 0.56, 0.58, 0.6])
    assert (box.first, box.median, box.third) == pytest.approx((0.51, 0.54, 0.57))
    assert (box.low, box.high) == (0.5, 0.6)  # 0.1 lies beyond 1.5 interquartile ranges


def test_best_median_and_worst_are_by_the_mean_of_a_case():
    cases = {name: [Unit("slice 0", {"DSC": value}), Unit("slice 1", {"DSC": 0.5})] for name, value in
             (("a", 0.1), ("b", 0.9), ("c", 0.3), ("d", 0.8))}  # fmt: skip
    cases["e"] = [Unit("slice 0", {"DSC": 1.0}, counts=False)]
    series = page.series("m", "DSC", cases, dict.fromkeys(cases, "data:"))
    assert [(shown.which, shown.case) for shown in series.shown] == [("best", "b"), ("median", "c"), ("worst", "a")]
    assert len(series.values) == 8


def test_of_a_single_case_there_is_no_best_and_no_worst():
    series = page.series("m", "DSC", {"a": [Unit("slice 0", {"DSC": 0.5})]}, {"a": "data:"})
    assert [(shown.which, shown.case) for shown in series.shown] == [("only", "a")]


def test_methods_are_compared_by_cases_not_by_slices():
    def cases(**dsc):
        return {name: [Unit(f"slice {k}", {"DSC": one}) for k, one in enumerate(of)] for name, of in dsc.items()}

    (said,) = tables.compared(
        replace(PROTOCOLS["volume"], primary="DSC"),
        {"one": cases(a=[0.5, 0.5, 0.5, 0.5], b=[0.4]), "other": cases(a=[0.3, 0.3, 0.3, 0.3], b=[0.6])},
    )
    assert "one - other = +0.0 [-20.0, +20.0] points over the 2 cases" in said


def test_half_an_interval_is_printed_as_one():
    (row,) = tables.published("uda", "medseg-9", "D_slice")
    mean, low, high = (getattr(row.numbers["infection DSC"], name) for name in ("mean", "low", "high"))
    assert mean - low == pytest.approx(high - mean)
    assert mean - low > 0
    assert np.isnan(row.numbers["infection DSC"].sd)
    assert "lung DSC" not in row.numbers


@pytest.mark.parametrize(
    ("name", "summary", "text"),
    [
        ("DSC", Summary(0.6981, 0.152, 0.61, 0.7649, 10), "69.8 ± 15.2 [61.0, 76.5]"),
        ("HD95 (mm)", Summary(12.345, 1.0, np.nan, np.nan, 1), "12.35 ± 1.00"),
        ("ACC", Summary(0.93, np.nan, np.nan, np.nan, 0), "93.0"),
        ("DSC", Summary(np.nan, np.nan, np.nan, np.nan, 0), ""),
        ("DSC", None, ""),
    ],
)
def test_numbers_as_text(name, summary, text):
    assert tables.cell(name, summary) == text


# From the command line


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    made = phantom.make(shape=(60, 86, 114), spacing_mm=(5.0, 3.0, 3.0))
    for kind, array in (("ct", made.scan.hu), ("lesions", (made.lesions > 0).astype(np.uint8)), ("lungs", made.lungs)):
        (folder / kind).mkdir(parents=True)
        sitk.WriteImage(made.scan.native_image(array), folder / kind / "sample.nii.gz")
    return folder


def test_one_command_makes_the_table_of_the_threshold_on_the_phantom(phantoms, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["evaluate", "--methods", "threshold", "--data", str(phantoms), "-o", str(out), "--progress", "none"]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert (out / "table.md").read_text(encoding="utf-8").strip() in printed
    rows = {row["metric"]: float(row["mean"]) for row in csv.DictReader((out / "table.csv").open(encoding="utf-8"))}
    assert rows["lung DSC"] > 0.95
    assert 0.1 < rows["DSC"] < 0.6  # it finds lesions, and takes vessels for some
    assert rows["AUC"] > 0.9


def failing(scan, *choices):
    if scan.name == "b.nii.gz":
        raise LungError("b.nii.gz: no lungs in view.")
    return result(scan, "good")


def test_a_failed_case_ends_in_an_error_that_says_where_the_tables_are(stand_in, data, capsys, monkeypatch):
    monkeypatch.setitem(CARDS, "threshold", CARDS["good"])
    monkeypatch.setattr(judge.pipeline, "segment", failing)
    out = data.parent / "out"
    command = ["evaluate", "--methods", "threshold", "--data", str(data), "-o", str(out), "--progress", "none"]
    assert cli.main(command) == 1
    assert "1 cases failed. The first, chests/threshold/b: b.nii.gz: no lungs in view." in capsys.readouterr().err
    assert (out / "table.md").exists()


def test_the_public_sets_are_listed_without_any_other_argument(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", "--list-data"])
    assert ended.value.code == 0
    assert "uestc: UESTC-COVID-19: get it from" in capsys.readouterr().out


def test_an_unknown_data_set_is_an_error(tmp_path, capsys):
    command = ["evaluate", "--data", "corona=/data", "-o", str(tmp_path / "out"), "--progress", "none"]
    assert cli.main(command) == 1
    assert "no data set 'corona'" in capsys.readouterr().err
