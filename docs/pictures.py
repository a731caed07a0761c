"""Takes the README's pictures anew, of the demo in a real browser: `make pictures`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import HttpCredentials, sync_playwright

from sidecar.demo.changes import change
from sidecar.demo.prepare import existing
from sidecar.demo.sample import DEMO_PASSWORD, DEMO_USER

IMAGES = Path(__file__).parent / "images"
# Page, the picture's name, its height in pixels.
PICTURES = (("", "status", 760), ("fleet", "fleet", 1340))
WIDTH = 1000
SIDECAR = (sys.executable, "-m", "sidecar")


def main() -> None:
    """Start a demo, change something, update the fleet, and take the pictures."""
    folder = Path(tempfile.mkdtemp(prefix="demo-"))
    demo = subprocess.Popen(
        [*SIDECAR, "demo", "--folder", folder, "--json"], stdout=subprocess.PIPE, text=True
    )
    assert demo.stdout is not None
    try:
        said = ""
        while not said.rstrip().endswith("]"):
            line = demo.stdout.readline()
            assert line, "the demo has ended"
            said += line
        first = json.loads(said)[0]
        change(existing(folder), "studio")
        for _ in range(2):
            subprocess.run([*SIDECAR, "--config", first["config"], "fleet", "update"], check=True, timeout=60)
        take(first["page"])
    finally:
        demo.terminate()
        demo.wait(20)
        shutil.rmtree(folder)


def take(url: str) -> None:
    """One picture a page."""
    browser = shutil.which("chromium")
    login = HttpCredentials(username=DEMO_USER, password=DEMO_PASSWORD)
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(http_credentials=login, viewport={"width": WIDTH, "height": 800})
        page.goto(f"{url}fleet")
        page.get_by_role("button", name="Look now").click()
        for path, name, height in PICTURES:
            page.set_viewport_size({"width": WIDTH, "height": height})
            page.goto(url + path)
            page.screenshot(path=IMAGES / f"{name}.png")
        chromium.close()


if __name__ == "__main__":
    main()
