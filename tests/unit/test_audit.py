"""What CI makes of what pip-audit says: a flaw is a failure, silence is told."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci/audit"
SOUND = {"name": "sound", "version": "1.0", "vulns": []}
WORN = {"name": "worn", "version": "1.0", "vulns": [{"id": "CVE-2026-1", "fix_versions": ["1.1"]}]}
UNKNOWN = {"name": "unknown", "skip_reason": "not found"}


def said(packages: list[dict[str, Any]]) -> str:
    return json.dumps({"dependencies": packages})


@pytest.mark.parametrize(
    ("answer", "required", "code", "line"),
    [
        (said([SOUND, UNKNOWN]), "1", 0, "audit: 1 of 2 packages are known, with 0 flaws"),
        (said([SOUND, WORN]), "", 1, "worn 1.0: CVE-2026-1, mended in 1.1"),
        (
            said([UNKNOWN, UNKNOWN]),
            "",
            0,
            "audit: NOT DONE, the advisory service cannot be reached from here",
        ),
        ("", "0", 0, "audit: NOT DONE, the advisory service cannot be reached from here"),
        ("", "1", 1, "audit: NOT DONE, the advisory service cannot be reached from here"),
        (said([UNKNOWN]), "1", 1, "audit: NOT DONE, the advisory service cannot be reached from here"),
    ],
)
def test_only_a_flaw_fails_and_silence_is_told_or_fails_where_it_is_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, required: str, code: int, line: str
) -> None:
    monkeypatch.setenv("AUDIT_REQUIRED", required)
    (tmp_path / "python").symlink_to(sys.executable)
    (tmp_path / "pip-audit").write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
    (tmp_path / "pip-audit").chmod(0o755)
    done = subprocess.run([tmp_path / "python", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.startswith(line)
