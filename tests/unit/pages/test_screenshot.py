"""A real browser shows the page, where one is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from optimum_grail.pages.folder import write_page
from optimum_grail.report.report import Report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-zygote", "--hide-scrollbars")


def browser() -> str:
    """What ``OPTIMUM_GRAIL_BROWSER`` names, or the first that is on the path."""
    found = os.environ.get("OPTIMUM_GRAIL_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium or Chrome is installed")
    return found


@pytest.mark.slow
def test_a_browser_shows_it_in_light_and_dark(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    page = write_page(tmp_path, tmp_path / "report.html")
    corners = {}
    for name, size, flags in (("light", (1000, 1400), ()), ("dark", (420, 900), ("preferredColorScheme=0",))):
        shot = tmp_path / f"{name}.png"
        more = (f"--blink-settings={flag}" for flag in flags)
        command = [browser(), *QUIET, *more, f"--user-data-dir={tmp_path / name}"]
        command += [f"--window-size={size[0]},{size[1]}", f"--screenshot={shot}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        with Image.open(shot) as image:
            pixels = image.convert("RGB")
        corners[name] = sum(pixels.getpixel((2, 2)))
        assert pixels.size == size
        assert len(pixels.getcolors(1_000_000)) > 50, "an empty page has one colour"
    assert corners["light"] > 600 > 150 > corners["dark"]
