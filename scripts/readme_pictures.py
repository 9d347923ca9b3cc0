"""Make the pictures of README and docs from the report of a real run.

    make quickstart && .venv/bin/python scripts/readme_pictures.py

Needs the `dev` extra, and Chromium on the PATH.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
REPORT, PICTURES = ROOT / "checkpoint" / "quickstart" / "report.html", ROOT / "docs"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


def main() -> int:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not REPORT.is_file() or not chromium:
        print(f"readme_pictures.py: needs Chromium and {REPORT}; run make quickstart first", file=sys.stderr)
        return 2
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1180, "height": 1000})
        page.goto(REPORT.as_uri())
        page.wait_for_timeout(500)
        page.locator(".chart").first.screenshot(path=PICTURES / "learning-curve.png")
        page.evaluate("window.scrollTo(0, 0)")
        second_row = page.locator(".figure:visible").nth(2).bounding_box()
        assert second_row
        height = second_row["y"]  # the picture ends above it
        page.screenshot(
            path=PICTURES / "report.png", clip={"x": 0, "y": 0, "width": 1180, "height": height}, full_page=True
        )
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
