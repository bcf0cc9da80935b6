"""`poi enrol --check` and `poi import` on a running mesh."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Poi

REQUIRED = ("--purpose", "theft", "--legal-basis", "legitimate-interests", "--expire", "90d")


@pytest.fixture(autouse=True)
def nobody(poi: Poi) -> None:
    """A gallery without anybody."""
    for person in poi.json("list").get("pois", []):
        poi.output("delete", person["name"])


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_photo_is_checked_and_nobody_enrolled(poi: Poi, photos: dict[str, Path]) -> None:
    fine = poi("enrol", "Jo", photos["woman"], "--check", *REQUIRED)
    bad = poi("enrol", "Jo", photos["woman"], photos["both"], photos["man"], "--check", *REQUIRED)

    assert (fine.exit_code, fine.stdout.splitlines()[-1]) == (0, "would be enrolled")
    assert (bad.exit_code, bad.stdout.splitlines()[-1]) == (1, "would be refused")
    assert "MULTIPLE_FACES: the image shows 2 faces where one is wanted" in bad.stdout
    assert f"{photos['woman']} looks like somebody else than {photos['man']}" in bad.stdout
    assert poi.json("list").get("pois", []) == []


def test_what_is_missing_is_said(poi: Poi, photos: dict[str, Path]) -> None:
    line = poi.fails("enrol", "Jo", photos["woman"])

    assert all(f"poi.{field}" in line for field in ("purpose", "legal_basis", "expire_time"))


def test_who_is_enrolled_already_needs_a_word(poi: Poi, photos: dict[str, Path]) -> None:
    poi.output("enrol", "Jo", photos["woman"], "--id", "jo", *REQUIRED)

    assert "stores/store-1/pois/jo: looks like images[0]" in poi.fails("enrol", "Twin", photos["woman"], *REQUIRED)
    twin = poi.json("enrol", "Twin", photos["woman"], "--allow-duplicate", "--legal-reference", "case 7", *REQUIRED)
    assert (twin["legalReference"], twin["legalBasis"]) == ("case 7", "LEGAL_BASIS_LEGITIMATE_INTERESTS")
    assert twin["enrolledBy"]


def test_a_folder_is_imported_and_a_second_run_does_the_rest(poi: Poi, photos: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "people"
    (folder / "Jane Roe").mkdir(parents=True)
    shutil.copy(photos["woman"], folder / "Jane Roe" / "1.jpg")
    shutil.copy(photos["both"], folder / "man.jpg")
    (folder / "notes.txt").write_text("nobody")
    report = tmp_path / "people.import.jsonl"

    first = poi("import", folder, *REQUIRED)

    assert (first.exit_code, first.stdout.splitlines()[0]) == (1, "1 enrolled, 1 failed")
    jane, man = lines(report)
    assert (jane["row"], jane["status"]) == ("Jane Roe", "enrolled")
    assert (man["row"], man["status"], man["reason"]) == ("man.jpg", "failed", "MULTIPLE_FACES")
    (person,) = poi.json("list")["pois"]
    assert (person["name"], person["displayName"]) == (jane["poi"], "Jane Roe")

    shutil.copy(photos["man"], folder / "man.jpg")
    assert poi.output("import", folder, *REQUIRED).splitlines()[0] == "1 enrolled, 1 done before"
    assert poi.output("import", folder, *REQUIRED).splitlines()[0] == "2 done before"
    # Without the report, and after the day that request ids are remembered: other content that says the same.
    report.unlink()
    assert poi.output("import", folder, *REQUIRED[:-1], "91d").splitlines()[0] == "2 enrolled already"
    other = poi("import", folder, *REQUIRED[2:], "--purpose", "other", "--report", tmp_path / "other.csv")
    assert other.exit_code == 1
    failed = list(csv.DictReader((tmp_path / "other.csv").read_text().splitlines()))
    assert {line["reason"] for line in failed} == {"RESOURCE_EXISTS"}
    assert all(line["message"].endswith("with another purpose") for line in failed)


def test_a_csv_file_says_who_everybody_is(poi: Poi, photos: dict[str, Path], tmp_path: Path) -> None:
    roster = tmp_path / "people.csv"
    with roster.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "display_name", "severity", "photos", "purpose", "legal_basis", "expire"])
        writer.writerow(["", "Jane", "high", photos["woman"], "missing child", "VITAL_INTERESTS", "2099-01-01"])
        writer.writerow(["bo", "Bo", "", f"{photos['man']};missing.jpg", "", "", ""])
        writer.writerow(["no", "No", "huge", photos["man"], "", "", ""])
        writer.writerow(["bo2", "Bo", "", photos["man"], "", "", ""])

    outcome = poi("import", roster, *REQUIRED)

    assert (outcome.exit_code, outcome.stdout.splitlines()[0]) == (1, "2 enrolled, 2 failed")
    by_row = {line["row"]: line for line in lines(tmp_path / "people.csv.import.jsonl")}
    assert {row: line["status"] for row, line in by_row.items()} == {
        "line 2": "enrolled",
        "line 3": "failed",
        "line 4": "failed",
        "line 5": "enrolled",
    }
    assert "missing.jpg" in by_row["line 3"]["message"]
    people = {person["displayName"]: person for person in poi.json("list")["pois"]}
    assert (people["Jane"]["legalBasis"], people["Jane"]["severity"], people["Jane"]["purpose"]) == (
        "LEGAL_BASIS_VITAL_INTERESTS",
        "SEVERITY_HIGH",
        "missing child",
    )
    assert (people["Bo"]["legalBasis"], people["Bo"]["purpose"]) == ("LEGAL_BASIS_LEGITIMATE_INTERESTS", "theft")


def test_the_folder_one_stands_in_is_a_folder(poi: Poi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "people").mkdir()
    monkeypatch.chdir(tmp_path / "people")

    assert poi.fails("import", ".") == ".: nobody is in it"


def test_a_file_that_is_no_roster_is_one_line(poi: Poi, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("name,photos\nx,y\n")

    assert "unknown columns name" in poi.fails("import", wrong)
