"""A start that cannot succeed ends with one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def start(**environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "embed_svc"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [("POI_EMBED_MAX_IMAGE_PIXELS", "100000000"), ("POI_EMBED_STREAM_WINDOW", "0"), ("POI_EMBED_LISTEN", "nowhere")],
)
def test_a_wrong_setting_is_named(variable: str, value: str) -> None:
    status, text = start(**{variable: value})
    assert status == 2
    assert text.count("\n") == 1
    assert variable in text


def test_missing_models_are_named(tmp_path: Path) -> None:
    status, text = start(POI_MODELS_DIR=str(tmp_path))
    assert status == 2
    assert text.count("\n") == 1
    assert str(tmp_path) in text
    assert "make models" in text


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, models_dir: Path) -> None:
    (tmp_path / "file").write_text("")
    status, text = start(POI_MODELS_DIR=str(models_dir), POI_EMBED_CACHE_DIR=str(tmp_path / "file" / "cache"))
    assert status == 2
    assert text.count("\n") == 1
    assert "POI_EMBED_CACHE_DIR" in text
