"""``rlhf doctor``."""

import json
import os

import pytest
from typer.testing import CliRunner

from rlhfcli import console
from rlhfcli.cli import app
from rlhfcli.cli.doctor import stale_locks

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
    old, new = (
        tmp_path / "extensions/py311_cpu/cpu_adam/lock",
        tmp_path / "extensions/py311_cpu/fused_adam/lock",
    )
    for lock in (old, new):
        lock.parent.mkdir(parents=True)
        lock.touch()
    os.utime(old, (1e9, 1e9))
    os.utime(new, (2e9, 2e9))
    assert stale_locks(now=2e9 + 5) == [old]
    done = runner.invoke(app, ["doctor", "--json"])
    found = next(finding for finding in json.loads(done.stdout) if finding["what"] == "build locks")
    assert found["verdict"] == "warning"
    assert f"rm {old}" in found["advice"]


def test_console_is_shared():
    assert console.messages.stderr
    assert not console.results.stderr
