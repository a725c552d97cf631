"""Each trouble that an operator must be told of, on the page: what, since when, why, and the command that mends it."""

import re
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.watched import PATIENCE_MS, Watched, watch
from tests.staged_troubles import STAGINGS, Deployment, Staging


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """One page for all tests: each shows another agent, on a port of its own."""
    with closing(browser.new_context(timezone_id="UTC")) as context:
        yield context.new_page()


@pytest.fixture
def watched(page: Page, tmp_path: Path) -> Iterator[Watched]:
    with watch(page, tmp_path, measured=False) as watched:
        yield watched


@pytest.mark.parametrize("staging", STAGINGS, ids=lambda staging: staging.name)
def test_the_page_says_what_since_why_and_what_to_do(watched: Watched, tmp_path: Path, staging: Staging) -> None:
    """From "All is well." to one item, which opens to all of it; what it explains is no item of its own."""
    deployment, page = Deployment(watched.twin, watched.clock, tmp_path), watched.page
    watched.headline("well", "All is well.")
    began = staging.stage(deployment)
    deployment.turn()
    watched.headline(staging.level, re.compile(staging.what))
    items = page.locator("#troubles .trouble")
    expect(items).to_have_count(1 + len(staging.beside))
    trouble = items.first
    expect(trouble.locator(".trouble-what")).to_have_text(re.compile(staging.what))
    expect(trouble).to_have_attribute("data-level", staging.level)
    trouble.locator("summary").first.click()
    body = trouble.locator(".trouble-body")
    expect(body).to_be_visible(timeout=PATIENCE_MS)
    since = body.locator(".facts time").first.get_attribute("datetime")
    assert since is not None
    assert abs(datetime.fromisoformat(since).timestamp() - began) <= staging.within_s
    expect(body.locator(".facts")).to_contain_text(re.compile(rf"Cause[\s\S]*{staging.cause}"))
    remedy = body.locator(".remedies .remedy", has=page.locator("code", has_text=staging.command)).first
    expect(remedy.locator(".remedy-on")).to_have_text(f"On {staging.on}")
    expect(remedy.locator("code")).to_have_text(staging.command)
    expect(body.locator(".explains li")).to_have_count(len(staging.hides))
    expect(body.locator(".acknowledge code")).to_have_text(f"./twinhost attention acknowledge {staging.id}")
