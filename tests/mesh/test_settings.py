"""Settings, from environment and file, right and wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, ClassVar

import pydantic
import pytest

from mesh.settings import HostPort, RedisUrl, ServerSettings, StoreId, Target, TlsFiles, load, split_host_port


class Settings(ServerSettings):
    """Settings of a service named match."""

    service: ClassVar[str] = "match"
    listen: HostPort = "127.0.0.1:7002"
    embed_target: Target = "127.0.0.1:7001"
    """Where the embedding service is."""
    redis_url: RedisUrl = "redis://127.0.0.1:6379/0"
    store: StoreId = "store-1"
    threshold: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.45
    cameras: tuple[str, ...] = ()


Settings.__module__ = "match_svc.settings"  # where a service keeps its own: errors begin with "match_svc: "


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.upper().startswith("POI_")]:
        monkeypatch.delenv(name)


def refusal(capsys: pytest.CaptureFixture[str], argv: list[str] | None = None) -> str:
    """The one line on stderr when settings are wrong, without the program's name."""
    with pytest.raises(SystemExit) as caught:
        load(Settings, argv or [])
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.endswith("\n")
    program, _, why = err.strip().partition(": ")
    assert program == "match_svc"
    return why


def test_defaults() -> None:
    settings = load(Settings, [])
    assert (settings.listen, settings.drain_seconds, settings.max_message_bytes) == ("127.0.0.1:7002", 0.5, 8388608)
    assert settings.ready_file is None


def test_the_services_own_variable_wins_over_the_shared_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POI_LOG_LEVEL", "debug")
    monkeypatch.setenv("POI_EMBED_TARGET", "10.0.0.1:7001")
    monkeypatch.setenv("POI_EMBED_LISTEN", "0.0.0.0:7001")
    monkeypatch.setenv("POI_LISTEN", "127.0.0.1:1")
    monkeypatch.setenv("POI_MATCH_LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("POI_MATCH_METRICS_LISTEN", "")
    monkeypatch.setenv("POI_READY_FILE", "")
    monkeypatch.setenv("POI_CAMERAS", '["c1", "c2"]')
    settings = load(Settings, [])
    assert (settings.log_level, settings.embed_target, settings.listen) == ("debug", "10.0.0.1:7001", "127.0.0.1:2")
    assert (settings.metrics_listen, settings.ready_file, settings.cameras) == ("", None, ("c1", "c2"))


def test_file_and_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text(
        'store = "s7"\nlog_level = "error"\nthreshold = 0.5\n[match]\nthreshold = 0.6\n[embed]\nother = 1\n'
    )
    monkeypatch.setenv("POI_LOG_LEVEL", "warning")
    monkeypatch.setenv("POI_CONFIG", "/no/such/file: the argument wins")
    settings = load(Settings, ["--config", str(file)])
    assert (settings.store, settings.log_level, settings.threshold) == ("s7", "warning", 0.6)
    monkeypatch.setenv("POI_CONFIG", str(file))
    assert load(Settings, []).store == "s7"


def test_an_object_built_by_hand_does_not_read_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POI_MATCH_LISTEN", "127.0.0.1:2")
    assert Settings(store="s2").listen == "127.0.0.1:7002"


def test_they_are_frozen() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        Settings().listen = "127.0.0.1:1"


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("POI_MATCH_LISTEN", "x", "POI_MATCH_LISTEN: 'x' is not host:port (from environment)"),
        ("POI_LISTEN", "127.0.0.1:99999", "POI_LISTEN: '127.0.0.1:99999' is not host:port (from environment)"),
        ("POI_EMBED_TARGET", "embed", "POI_EMBED_TARGET: 'embed' is not host:port (from environment)"),
        (
            "POI_MATCH_THRESHOLD",
            "1.5",
            "POI_MATCH_THRESHOLD: '1.5': input should be less than or equal to 1 (from environment)",
        ),
        (
            "POI_DRAIN_SECONDS",
            "soon",
            "POI_DRAIN_SECONDS: 'soon': input should be a valid number, "
            "unable to parse string as a number (from environment)",
        ),
        (
            "POI_LOG_LEVEL",
            "loud",
            "POI_LOG_LEVEL: 'loud': input should be 'debug', 'info', 'warning' or 'error' (from environment)",
        ),
        ("POI_CAMERAS", "[", "POI_CAMERAS: is not JSON (from environment)"),
        ("POI_STORE", "mesh", "POI_STORE: 'mesh' is what all stores are called together: a store needs another id"),
        ("POI_STORE", "a/b", "POI_STORE: 'a/b' is not a store id (letters, digits and . _ : -, 128 at most)"),
        (
            "POI_REDIS_URL",
            "http://user:hunter2@host",
            "POI_REDIS_URL: is not a redis://, rediss:// or unix:// URL (from environment)",
        ),
    ],
)
def test_a_wrong_variable_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str, why: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert refusal(capsys).startswith(why)


def test_several_wrong_values_are_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POI_LISTEN", "x")
    monkeypatch.setenv("POI_STORE", "")
    why = refusal(capsys)
    assert "POI_LISTEN" in why
    assert "POI_STORE" in why


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('store = "s"\nlisten_on = "x"\n', "listen_on: no such setting (from {file})"),
        ("[match]\nlisen = 1\n", "lisen: no such setting (from {file})"),
        ("[mach]\n", "mach: no such setting (from {file})"),
        ('listen = "x"\n', "listen: 'x' is not host:port (from {file})"),
        ("threshold = true && false\n", "{file}: not TOML: "),
    ],
)
def test_a_wrong_file_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, why: str) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text(content)
    assert refusal(capsys, ["--config", str(file)]).startswith(why.format(file=file))


def test_a_missing_file_and_a_wrong_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, ["--config", "/no/such.toml"]) == "/no/such.toml: No such file or directory"
    assert refusal(capsys, ["--port", "7"]) == "unrecognized arguments: --port 7"


def test_help_says_each_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load(Settings, ["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "embed_target = '127.0.0.1:7001'" in out
    assert "Where the embedding service is." in out


def test_a_server_refuses_to_start_with_one_line(environment: dict[str, str]) -> None:
    ended = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "mesh_echo.py")],
        env=environment | {"POI_EMBED_LISTEN": "x"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "embed_svc: POI_EMBED_LISTEN: 'x' is not host:port (from environment)\n"


def test_split_host_port() -> None:
    assert split_host_port("[::1]:7001") == ("[::1]", 7001)
    for wrong in ("", "host", "host:", ":7001", "host:65536", "a b:1", "::1:7001"):
        with pytest.raises(ValueError, match="is not host:port"):
            split_host_port(wrong)


TLS = {"tls_certificate": "/c.pem", "tls_key": "/k.pem", "tls_ca": "/r.pem"}


def test_no_tls_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(Settings, []).tls is None

    for name, value in TLS.items():
        monkeypatch.setenv(f"POI_{name.upper()}", value)
    monkeypatch.setenv("POI_MATCH_TLS_KEY", "/match.pem")
    monkeypatch.setenv("POI_AUTH", "required")
    monkeypatch.setenv("POI_JWT_ISSUERS", '{"https://login.example.com/": ""}')
    settings = load(Settings, [])

    assert settings.tls == TlsFiles(Path("/c.pem"), Path("/match.pem"), Path("/r.pem"))
    assert settings.jwt_issuers == {"https://login.example.com/": ""}


@pytest.mark.parametrize("missing", TLS)
def test_certificate_key_and_roots_go_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    for name, value in TLS.items():
        if name != missing:
            monkeypatch.setenv(f"POI_{name.upper()}", value)

    assert refusal(capsys) == "POI_MATCH_TLS_CERTIFICATE, _TLS_KEY and _TLS_CA go together"


def test_authorisation_needs_tls(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("POI_AUTH", "required")

    assert refusal(capsys).startswith("POI_MATCH_AUTH: required needs POI_MATCH_TLS_CERTIFICATE")
