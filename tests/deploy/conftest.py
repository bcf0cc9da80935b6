"""What more than one test of the deployment needs."""

from __future__ import annotations

import importlib.util
import json
from types import ModuleType

import pytest

from tests.deploy.test_manifests import K8S


@pytest.fixture
def secrets() -> dict[str, dict[str, str]]:
    """What deploy/credentials.py makes up, by Secret."""
    spec = importlib.util.spec_from_file_location("credentials", K8S.parent / "credentials.py")
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = json.loads(json.dumps(module.credentials()))
    return {item["metadata"]["name"]: item["stringData"] for item in made["items"]}
