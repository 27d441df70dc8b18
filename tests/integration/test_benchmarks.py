"""Every benchmark runs, at a tiny scale, and leaves a file of the promised form; times do not count."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "name", ["pipeline", "writer", "rerun", "memory", "edits", "sealing", "halfvec", "growth"]
)
def test_a_benchmark_leaves_its_figures(name: str, tmp_path: Path) -> None:
    run = benchmark(name, tmp_path)
    assert run.returncode in (0, 1), run.stderr  # 1: a demand does not hold, as is to be expected here
    assert "Traceback" not in run.stderr, run.stderr
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert set(found) == {"name", "scale", "machine", "versions", "settings", "figures", "demands"}
    assert found["name"] == name
    assert found["machine"]["cores"] >= 1
    assert {"python", "postgres", "pgvector", "valkey", "celery"} <= set(found["versions"])
    assert found["figures"]
    assert found["demands"]
    for demand in found["demands"]:
        assert set(demand) == {"name", "demanded", "measured", "holds"}
        assert demand["measured"] > 0 or name == "memory"
        assert isinstance(demand["holds"], bool)


def test_a_benchmark_nobody_wrote_is_refused(tmp_path: Path) -> None:
    run = benchmark("nothing", tmp_path)
    assert run.returncode == 2
    assert "pipeline" in run.stderr


def test_without_the_peers_nothing_is_compared_with_them(tmp_path: Path) -> None:
    run = benchmark("peers", tmp_path)
    assert run.returncode == 2
    assert run.stderr.splitlines() == [
        "the peers are not installed: run `make bench NAME=peers`, which installs them"
    ]


def benchmark(name: str, out: Path) -> "subprocess.CompletedProcess[str]":
    """Run a benchmark as on a machine without the peers."""
    environment = {**os.environ, "SCALE": "0.002", "OUT": str(out), "PEERS_VENV": str(out / "none")}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", name],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
