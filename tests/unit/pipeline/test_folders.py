"""Names of a sweep's folders, which are there already, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimum_grail.errors import ConfigError, OutputError
from optimum_grail.pipeline.folders import Folders
from optimum_grail.report.report import REPORT_FILE, Report


@pytest.mark.parametrize(
    ("method", "size", "name"),
    [
        ("grail-plus", "0.5", "grail-plus-0.5"),
        ("a/../../etc", "0.5", "a-..-..-etc-0.5"),
        ("wanda:a=1,b=2", "1e+06", "wanda-a-1-b-2-1e+06"),
        ("größe \n\0", "10 MB", "größe--10-MB"),
    ],
)
def test_names_stay_inside_the_folder(tmp_path: Path, method: str, size: str, name: str) -> None:
    place = Folders(tmp_path, "model")
    assert place.name(method, size) == name
    assert (tmp_path / place.name(method, size)).resolve().parent == tmp_path.resolve()


def test_a_folder_is_there_when_its_report_is(report: Report, tmp_path: Path) -> None:
    place, folder = Folders(tmp_path, "model"), tmp_path / "wanda-0.5"
    assert not place.has("wanda", "0.5")
    (folder / REPORT_FILE).mkdir(parents=True)
    assert not place.has("wanda", "0.5"), "a folder of that name is no report"
    (folder / REPORT_FILE).rmdir()
    report.save(folder)
    assert place.has("wanda", "0.5") and not place.has("wanda", "0.3")
    place.check([("wanda", "0.5")])


def test_a_cell_may_be_named_twice_but_not_two_cells_alike(tmp_path: Path) -> None:
    place = Folders(tmp_path / "new", "model")
    place.check([("a b", "0.5"), ("a b", "0.5"), ("a b", "0.3")])
    with pytest.raises(ConfigError, match=r"\('a b', '0\.5'\) and \('a:b', '0\.5'\) would both.*Give one another name"):
        place.check([("a b", "0.5"), ("a:b", "0.5")])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_no_run_wrote_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "wanda-0.5").mkdir()
    (tmp_path / "wanda-0.5" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="nothing in it says" if overwrite else "is not empty"):
        Folders(tmp_path, "model", overwrite=overwrite).check([("magnitude", "0.5"), ("wanda", "0.5")])
    assert (tmp_path / "wanda-0.5" / "mine.txt").read_text() == "mine"


def test_names_too_long_for_a_folder_are_told(tmp_path: Path) -> None:
    place = Folders(tmp_path, "model")
    assert not place.has("x" * 300, "0.5")
    with pytest.raises(OutputError, match=r"cannot be a folder: .*[Tt]oo long"):
        place.check([("x" * 300, "0.5")])
