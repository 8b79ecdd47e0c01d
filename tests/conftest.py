"""What all tests share: they are offline, quiet, and leave the checkout as it is."""

import os

import pytest

# Set before any test imports these libraries: no telemetry, no network, one question less to git.
os.environ |= {"HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet", "DVC_NO_ANALYTICS": "1"}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder as working folder and checkout, so that artifacts and state of a test land there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path
