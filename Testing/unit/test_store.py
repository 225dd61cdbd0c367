"""The model store: which weights are used, whether they are whole, and that installing is all or nothing."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
from LabelFreeCovidSegLib import cli, store
from LabelFreeCovidSegLib.errors import WeightsError
from LabelFreeCovidSegLib.store import MANIFEST, VARIABLE, Entry, Stored

WEIGHTS = b"weights"
SHA = store.sha256(WEIGHTS)
OWN_NAME = f"one-{SHA[:8]}.safetensors"


def entry(**changes) -> Entry:
    usual = {
        "name": "toy", "version": "1.0.0", "files": {"one.safetensors": SHA}, "recipe": {}, "scans": [],
        "licence": "Apache-2.0", "licence_confirmed": True, "citation": "", "expects": "",
    }  # fmt: skip
    return Entry(**(usual | changes))


def make(folder: Path, *rows: Entry, **files: bytes) -> Path:
    """A store of `rows`; `files` are given without their suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    store.write_manifest(folder, {row.name: row for row in rows or (entry(),)})
    for name, data in (files or {"one": WEIGHTS}).items():
        (folder / f"{name}.safetensors").write_bytes(data)
    return folder


def pack(source: Path, top: str = "", more: dict[str, bytes] | None = None, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip of a store, inside the folder `top` of it, with `more` members."""
    path = source.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in source.iterdir():
            archive.write(file, f"{top}{file.name}")
        for name, data in (more or {}).items():
            archive.writestr(name, data)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def users(tmp_path, monkeypatch) -> Path:
    """The user's store, which is not there yet; the shipped one holds `toy` 1.0.0."""
    shipped = make(tmp_path / "shipped")
    monkeypatch.setattr(store, "folder", lambda: shipped)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "users"))
    return tmp_path / "users"


# Which weights


def test_an_entry_of_the_user_goes_before_the_shipped_one_of_the_same_name(users):
    assert store.find("toy").entry.version == "1.0.0"
    make(users, entry(version="2.0.0"))
    assert store.find("toy") == Stored(entry(version="2.0.0"), users)
    assert [stored.entry.version for stored in store.entries()] == ["2.0.0", "1.0.0"]


def test_the_shipped_entry_of_another_name_stays(users):
    make(users, entry(name="other"))
    assert store.find("toy").folder == store.folder()
    assert store.find("nothing") is None


def test_weights_are_verified_damaged_or_missing(users):
    make(users)
    (stored, _) = store.entries()
    assert stored.state == "verified"
    (users / "one.safetensors").write_bytes(b"weightz")
    assert store.find("toy").state == "damaged"
    (users / "one.safetensors").unlink()
    assert store.find("toy").state == "missing"


@pytest.mark.parametrize(
    ("platform", "variable", "folder"),
    [
        ("win32", "LOCALAPPDATA", "{data}/LabelFreeCovidSeg/Models"),
        ("linux", "XDG_DATA_HOME", "{data}/LabelFreeCovidSeg/Models"),
        ("linux", None, "{home}/.local/share/LabelFreeCovidSeg/Models"),
        ("darwin", None, "{home}/Library/Application Support/LabelFreeCovidSeg/Models"),
    ],
)
def test_without_the_variable_the_users_store_lies_where_the_platform_keeps_data(
    tmp_path, monkeypatch, platform, variable, folder
):
    for name in (VARIABLE, "LOCALAPPDATA", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "data"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(sys, "platform", platform)
    assert store.user_folder() == Path(folder.format(data=tmp_path / "data", home=tmp_path / "home"))


@pytest.mark.parametrize(
    ("licence", "scans", "allowed"),
    [
        ("Apache-2.0", [{"licence": "CC BY 4.0"}], True),
        ("Apache-2.0", [{"licence": "CC BY 4.0"}, {"licence": "CC BY-NC 4.0"}], False),
        ("Non-commercial research only", [], False),
        ("Apache-2.0", [{"name": "a scan whose licence nobody stated"}], False),
    ],
)
def test_commercial_use_is_allowed_only_where_every_licence_is_stated_and_allows_it(licence, scans, allowed):
    assert entry(licence=licence, scans=scans).commercial_use is allowed


@pytest.mark.parametrize(
    "text",
    ["{}", "no JSON", '{"weights": [{"name": "toy"}]}', '{"weights": 3}', '{"weights": [["toy"]]}'],
)
def test_a_manifest_that_is_none_is_refused_by_its_name(users, text):
    users.mkdir()
    (users / MANIFEST).write_text(text)
    with pytest.raises(WeightsError, match=r"users.manifest\.json: not a manifest of weights .* install the weights"):
        store.entries()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scans", None), ("scans", ["patient"]), ("scans", {}), ("recipe", None), ("recipe", []), ("files", []),
        ("files", None), ("files", {"one.safetensors": 3}), ("licence", None), ("version", 2), ("citation", []),
    ],
)  # fmt: skip
def test_a_manifest_with_a_field_of_another_kind_is_none(users, capsys, field, value):
    users.mkdir()
    (users / MANIFEST).write_text(json.dumps({"weights": [asdict(entry()) | {field: value}]}))
    assert cli.main(["models"]) == 1
    assert "users/manifest.json: not a manifest of weights (" in capsys.readouterr().err.replace("\\", "/")


@pytest.mark.parametrize(
    "name", ["../one.safetensors", "/one.safetensors", "a\\b.safetensors", "run.py", ".safetensors"]
)
def test_a_manifest_that_names_anything_but_weight_files_in_its_own_folder_is_refused(users, name):
    make(users, entry(files={name: SHA}))
    with pytest.raises(WeightsError, match=r"is not the name of a \.safetensors file"):
        store.entries()


def test_torch_is_not_needed():
    code = "import sys; from LabelFreeCovidSegLib import store; store.entries(); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "False\n"


def test_a_variable_that_names_a_file_is_answered_with_what_it_must_name(users, capsys):
    users.write_bytes(b"")
    assert cli.main(["models"]) == 1
    assert f"{users}: not a folder. If {VARIABLE} names it, let it name a folder." in capsys.readouterr().err


# Installing


@pytest.mark.parametrize("source", ["folder", "zip", "zip of a folder", "zip made on a Mac"])
def test_a_store_is_installed_from_a_folder_and_from_a_zip(tmp_path, users, source):
    offered = make(tmp_path / "offered", entry(version="2.0.0"))
    path = {
        "folder": lambda: offered,
        "zip": lambda: pack(offered),
        "zip of a folder": lambda: pack(offered, "models/"),
        "zip made on a Mac": lambda: pack(offered, "models/", {"__MACOSX/models/._a": b"", "models/.DS_Store": b""}),
    }[source]()
    (installed,) = store.install(path)
    assert installed == store.find("toy") == Stored(entry(version="2.0.0", files={OWN_NAME: SHA}), users)
    assert installed.state == "verified"
    assert set(contents(users)) == {MANIFEST, OWN_NAME}


def test_installing_again_changes_nothing(tmp_path, users):
    offered = pack(make(tmp_path / "offered"))
    store.install(offered)
    before = contents(users)
    store.install(offered)
    store.install(users)
    assert contents(users) == before


def test_another_entry_keeps_its_file_when_a_file_of_the_same_name_is_installed(tmp_path, users):
    store.install(make(tmp_path / "first", entry(name="first")))
    other = store.sha256(b"others")
    store.install(make(tmp_path / "second", entry(name="second", files={"one.safetensors": other}), one=b"others"))
    assert {stored.entry.name: stored.state for stored in store.entries() if stored.folder == users} == {
        "first": "verified",
        "second": "verified",
    }


def test_a_new_version_takes_the_place_of_the_old_one_and_its_files(tmp_path, users):
    store.install(make(tmp_path / "old"))
    newer = entry(version="2.0.0", files={"one.safetensors": store.sha256(b"newer")})
    store.install(make(tmp_path / "new", newer, one=b"newer"))
    assert store.find("toy").entry.version == "2.0.0"
    assert sorted(contents(users).values(), key=len)[0] == b"newer"
    assert len(contents(users)) == 2


def test_an_installation_that_is_cut_off_leaves_the_store_as_it_was(tmp_path, users, monkeypatch):
    store.install(make(tmp_path / "old"))
    newer = entry(version="2.0.0", files={"one.safetensors": store.sha256(b"newer")})
    offered = make(tmp_path / "new", newer, one=b"newer")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_manifest", full)
    with pytest.raises(WeightsError, match=rf"users: weights can't be written .*No space left.*{VARIABLE}"):
        store.install(offered)
    assert store.find("toy").entry.version == "1.0.0"
    assert store.find("toy").state == "verified"


def test_weights_with_another_threshold_have_another_fingerprint_under_the_same_label(users):
    make(users, entry(recipe={"threshold": 0.3}))
    before, label = store.fingerprint(["toy", "unknown"]), store.find("toy").entry.label
    assert store.fingerprint(["toy"]) == before
    make(users, entry(recipe={"threshold": 0.4}))
    assert store.find("toy").entry.label == label
    assert store.fingerprint(["toy"]) != before


def test_a_file_that_is_cut_off_while_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "weights" / "one"
    path.parent.mkdir()
    path.write_bytes(b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.write_atomically(path, b"new")
    assert contents(path.parent) == {"one": b"old"}


# What is not installed


def damaged(offered: Path) -> Path:
    (offered / "one.safetensors").write_bytes(b"weightz")
    return pack(offered)


def incomplete(offered: Path) -> Path:
    (offered / "one.safetensors").unlink()
    return offered


def without_manifest(offered: Path) -> Path:
    (offered / MANIFEST).unlink()
    return pack(offered)


def cut_short(offered: Path) -> Path:
    path = pack(offered)
    path.write_bytes(path.read_bytes()[:-40])
    return path


def no_zip(offered: Path) -> Path:
    path = offered.with_suffix(".zip")
    path.write_bytes(WEIGHTS)
    return path


def another_hash_in_the_zip(offered: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """The members' own checksum fails, or what is packed can't be unpacked."""
    path = pack(offered, method=method)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("one.safetensors").header_offset + 30 + len("one.safetensors")
    data[start + 4] ^= 0xFF
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damaged, r"offered\.zip: one\.safetensors is not the file that the manifest describes\. Download"),
        (incomplete, r"offered: one\.safetensors is missing\. Download"),
        (without_manifest, r"offered\.zip: holds no manifest\.json, so it is no store of weights\. Give its \.zip"),
        (cut_short, r"offered\.zip: can't be read .* Download or copy it again"),
        (no_zip, r"offered\.zip: can't be read .* Download or copy it again"),
        (another_hash_in_the_zip, r"offered\.zip: can't be read .* Download or copy it again"),
        (partial(another_hash_in_the_zip, method=zipfile.ZIP_LZMA), r"offered\.zip: can't be read .* Download or copy"),
        (
            partial(another_hash_in_the_zip, method=zipfile.ZIP_BZIP2),
            r"offered\.zip: can't be read .* Download or copy",
        ),
        (lambda offered: offered / "nowhere", r"nowhere: can't be read .*No such file"),
        (lambda offered: pack(offered, more={"run.py": b"evil"}), r"its manifest does not describe 'run\.py'"),
        (lambda offered: pack(offered, more={"../../evil.safetensors": b""}), r"does not describe '\.\./\.\./evil"),
        (lambda offered: pack(offered, more={"/evil.safetensors": b""}), r"does not describe '/evil"),
    ],
)
def test_what_is_not_whole_or_not_described_is_refused_and_nothing_is_written(tmp_path, users, spoil, message):
    path = spoil(make(tmp_path / "offered"))
    before = contents(tmp_path)
    with pytest.raises(WeightsError, match=message):
        store.install(path)
    assert contents(tmp_path) == before
    assert not users.exists()


def test_a_zip_that_claims_more_than_a_gigabyte_is_not_unpacked(tmp_path, users, monkeypatch):
    path = pack(make(tmp_path / "offered"))
    monkeypatch.setattr(store, "_LARGEST", len(WEIGHTS) - 1)
    with pytest.raises(WeightsError, match="larger than 1 GiB"):
        store.install(path)
    assert not users.exists()


# The command


def test_the_command_lists_what_a_user_has_to_know_of_the_weights(users, capsys):
    make(users, entry(version="2.0.0", licence="CC BY-NC 4.0"))
    (users / "one.safetensors").write_bytes(b"weightz")
    assert cli.main(["models"]) == 0
    said = capsys.readouterr().out
    mine, shipped = said.split("\n\n")[:2]
    assert "toy 2.0.0: damaged" in mine
    assert "CC BY-NC 4.0; commercial use: no" in mine
    assert str(users) in mine
    assert "toy 1.0.0: verified, not used" in shipped
    assert "Apache-2.0; commercial use: yes" in shipped


def test_the_command_says_that_licences_still_have_to_be_confirmed(users, capsys):
    make(users, entry(licence_confirmed=False))
    assert cli.main(["models"]) == 0
    assert "commercial use: yes, once the licences of the training scans are confirmed" in capsys.readouterr().out


def test_the_command_installs_a_file(tmp_path, users, capsys):
    path = pack(make(tmp_path / "offered", entry(version="2.0.0")))
    assert cli.main(["models", "install", str(path)]) == 0
    assert f"toy 2.0.0 ({SHA[:8]}) in {users}" in capsys.readouterr().out
    shutil.rmtree(users)
    path.write_bytes(b"")
    assert cli.main(["models", "install", str(path)]) == 1
    assert "offered.zip: can't be read" in capsys.readouterr().err
