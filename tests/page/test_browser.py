"""The page in a real browser: a picture is given, a question asked, and the answer seen."""

import os
import shutil

import pytest
from PIL import Image

from mmkit.page import app
from tests.page.parts import answering

SLOW = 120_000  # milliseconds, on a machine that has much else to do
NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture
def url():
    page = app.make_page([answering()], title="tests")
    app.launch(page, prevent_thread_lock=True)
    yield page.local_url
    page.close()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: Debian's is `apt-get install chromium`")
def test_a_picture_a_question_and_the_answer(url, tmp_path):
    from playwright.sync_api import expect, sync_playwright

    Image.new("RGB", (60, 40), "red").save(tmp_path / "red.png")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    outside, wanted = [], answering().answer([tmp_path / "red.png"], ["is it red?"])[0][0]
    with sync_playwright() as play:
        root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        browser = play.chromium.launch(executable_path=BROWSER, args=[*root, "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.set_default_timeout(SLOW)
        expect.set_options(timeout=SLOW)
        page.on("request", lambda asked: outside.append(asked.url) if asked.url.startswith("http") else None)
        page.goto(url)
        field = page.locator("input[type=file]")
        field.set_input_files(tmp_path / "broken.png")
        page.get_by_label("Question").fill("is it red?")
        go = page.get_by_role("button", name="Go", exact=True)
        go.click()
        expect(page.get_by_text("cannot be read as a picture").first).to_be_visible()
        page.get_by_label("Remove").or_(page.get_by_label("Clear")).first.click()
        field.set_input_files(tmp_path / "red.png")
        expect(page.get_by_role("img").first).to_be_visible()
        go.click()
        answers = page.locator("#answers")
        expect(answers).to_contain_text(wanted[0])
        expect(answers).to_contain_text(f"{round(100 * wanted[1])}%")
        wide = page.evaluate("document.documentElement.scrollWidth")
        page.goto(f"{url}zh")
        expect(page.get_by_role("tab", name="提问")).to_be_visible()
        browser.close()
    assert wide <= 390
    assert not [asked for asked in outside if not asked.startswith(url)]
