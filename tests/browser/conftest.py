"""A real Chromium, and the real stack behind the page."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from playwright.sync_api import Error as PlaywrightError

from tests.containers.conftest import engine, open_stack, stack
from twinhost.agent.state_folder import ASSETS_VARIABLE

__all__ = ["browser", "engine", "open_stack", "stack"]

ASSETS = Path("build/assets")  # with the chart library, as `make test` puts it there
CHROMIUM = shutil.which("chromium")
# Without a sandbox, since it runs as root and opens this project's page alone; drawn by the processor, and with its
# shared memory on the disk: a test machine has no graphics card, and in a container often 64 MB of the other.
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
NETWORK_CHANGED = "ERR_NETWORK_CHANGED"  # of Chromium's requests when the host's addresses change, as by a new stack
FIRST_FRAME_MS = 120_000  # a Chromium that was just installed reads hundreds of megabytes before it draws anything


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, which has drawn a first frame.

    It ends with these tests: until then an event loop runs in this thread, in which no other test could run its own.
    """
    if CHROMIUM is None:
        pytest.skip("needs Chromium (Debian: chromium), as `make test` installs it")
    with sync_playwright() as playwright, pytest.MonkeyPatch.context() as patch:
        if (ASSETS / "uplot.js").exists():
            patch.setenv(ASSETS_VARIABLE, str(ASSETS.absolute()))
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page()
        page.wait_for_function("new Promise(drawn => requestAnimationFrame(drawn))", timeout=FIRST_FRAME_MS)
        page.close()
        yield browser
        browser.close()


def loads(page: Page, url: str) -> bool:
    """Open the page; return False if a change of the host's network stopped it."""
    try:
        page.goto(url)
    except PlaywrightError as error:
        if NETWORK_CHANGED not in error.message:
            raise
        return False
    return True
