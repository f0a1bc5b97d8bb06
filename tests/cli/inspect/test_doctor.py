"""``rlhf doctor``."""

import json
import os

import pytest
from typer.testing import CliRunner

from rlhfcli import console
from rlhfcli.cli import app
from rlhfcli.core.parallel import extensions

runner = CliRunner()


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))


def test_json_alone_on_stdout(capsys):
    done = runner.invoke(app, ["doctor", "--json"])
    findings = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert done.exit_code == 0
    assert {
        "Python",
        "packages",
        "GPU",
        "bf16",
        "cores",
        "compiler",
        "NVMe offload",
        "build locks",
        "memory",
        "runs folder",
        "hub",
    } <= set(findings)
    assert all(finding["verdict"] in ("ok", "note", "warning") for finding in findings.values())


def test_for_people():
    done = runner.invoke(app, ["doctor"])
    assert done.exit_code == 0
    assert "runs folder" in done.stdout
    assert "everything that rlhf needs works here" in done.stderr


def test_a_missing_package_breaks(monkeypatch):
    from importlib import metadata

    version = metadata.version

    def missing(name):
        if name == "deepspeed":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", missing)
    done = runner.invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "pip install deepspeed" in done.stdout
    assert "broken: missing packages" in done.stderr


def test_locks_of_killed_builds(tmp_path):
    lock = tmp_path / "extensions/py311_cpu/cpu_adam/lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (1e9, 1e9))
    found = _finding("build locks")
    assert found["verdict"] == "warning"
    assert f"rm {lock}" in found["advice"]


@pytest.mark.parametrize(
    ("lacks", "built", "verdict", "said"),
    [
        (None, False, "ok", "possible; async_io will be built on first use, in some minutes"),
        (None, True, "ok", "possible; async_io is built"),
        ("ninja", False, "note", "not possible: ninja is missing"),
    ],
)
def test_offload_into_files(lacks, built, verdict, said, monkeypatch):
    monkeypatch.setattr(extensions, "missing_for_files", lambda: lacks)
    monkeypatch.setattr(extensions, "built", lambda _: built)
    found = _finding("NVMe offload")
    assert (found["verdict"], found["found"]) == (verdict, said)
    assert ("libaio-dev" in found["advice"]) == (verdict == "note")


def test_a_compiler_is_only_for_files(monkeypatch):
    monkeypatch.setattr(extensions, "compiler", lambda: None)
    assert _finding("compiler") == {
        "what": "compiler",
        "verdict": "note",
        "found": "no C++ compiler; only deepspeed.nvme needs one",
        "advice": "",
    }


def _finding(what):
    done = runner.invoke(app, ["doctor", "--json"])
    return next(finding for finding in json.loads(done.stdout) if finding["what"] == what)


def test_console_is_shared():
    assert console.messages.stderr
    assert not console.results.stderr
