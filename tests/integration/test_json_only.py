"""What would have messages be more than JSON, or go elsewhere, keeps a process from starting."""

from pathlib import Path

import pytest

from tests.conftest import Run
from worker.errors import Exit, SettingsError
from worker.jsononly import require_plain_environment

LOADER = """
from celery.loaders.app import AppLoader

class Loader(AppLoader):
    def config_from_object(self, given, silent=False):
        return super().config_from_object({**given, "accept_content": ["json", "pickle"]}, silent)
"""


def test_loader_that_accepts_pickle_is_refused_in_a_line(ingest: Run, tmp_path: Path) -> None:
    (tmp_path / "loader.py").write_text(LOADER)
    done = ingest("worker", "ingest", CELERY_LOADER="loader:Loader")
    assert done.returncode == Exit.SETTINGS
    assert done.stderr.decode().splitlines()[-1] == (
        "error: Celery's accept_content names pickle: messages are JSON, and nothing else"
        " → leave Celery's configuration to worker/app.py"
    )


def test_variable_of_celery_is_refused_in_a_line_that_shows_no_login(ingest: Run) -> None:
    done = ingest("beat", CELERY_BROKER_URL="redis://:hush@elsewhere")
    assert done.returncode == Exit.SETTINGS
    assert done.stderr.decode() == (
        "error: CELERY_BROKER_URL is set: Celery would follow it and not our settings"
        " → unset it, and set BROKER_URL\n"
    )


def test_what_celerys_own_command_sets_by_our_setting_is_no_other_server() -> None:
    require_plain_environment({"BROKER_URL": "redis://h", "CELERY_BROKER_URL": "redis://h"})
    with pytest.raises(SettingsError, match="CELERY_RESULT_BACKEND is set"):
        require_plain_environment({"BROKER_URL": "redis://h", "CELERY_RESULT_BACKEND": "redis://other"})
