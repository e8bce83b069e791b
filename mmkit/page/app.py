"""The page: one for each language, with a tab for each task that one of its models can do.

It works offline: the fonts are the system's, nothing is counted or sent, and it is seen on this machine alone unless
it is asked for otherwise. Left out: accounts, and keeping what visitors give longer than Gradio's cache does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

for _name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_name, "False" if _name.startswith("GRADIO") else "1")

import gradio as gr  # noqa: E402  # reads the environment when it is imported

from mmkit.inference.predictor import Predictor  # noqa: E402
from mmkit.page.parts import Given, Tab  # noqa: E402
from mmkit.page.shelf import Shelf  # noqa: E402
from mmkit.page.tabs import TABS  # noqa: E402
from mmkit.page.words import LANGUAGES, Language  # noqa: E402

FONTS = ["system-ui", "-apple-system", "Segoe UI", "Noto Sans CJK SC", "Microsoft YaHei", "PingFang SC", "sans-serif"]
CODE = ["ui-monospace", "Consolas", "monospace"]
LARGEST = "30mb"
"""Of a file that a visitor gives."""
CSS = (
    ".gradio-container {max-width: 980px !important; width: 100%; margin: 0 auto !important} "
    "footer {display: none !important}"
)


def make_page(
    models: Sequence[Predictor], *, title: str = "", shelf: Shelf | None = None, tabs: Sequence[Tab] = (),
    first: Language = "en",
) -> gr.Blocks:  # fmt: skip
    """The page over some models: each task is of the first model that can do it.

    title: of the model, shown above. shelf: pictures to look through. tabs: of projects, after the page's own. first:
    the language of "/"; the other has a page of its own, "/zh" or "/en", which the bar above leads to.
    """
    other: Language = "zh" if first == "en" else "en"
    with gr.Blocks(title=f"mmkit: {title}" if title else "mmkit", analytics_enabled=False) as page:
        _fill(models, title, shelf, tabs, first)
    page.pages[0] = ("", LANGUAGES[first]["language"], True)
    with page.route(LANGUAGES[other]["language"], f"/{other}"):
        _fill(models, title, shelf, tabs, other)
    return page


def _fill(
    models: Sequence[Predictor], title: str, shelf: Shelf | None, tabs: Sequence[Tab], language: Language
) -> None:
    words = LANGUAGES[language]
    gr.Markdown(f"## {words['title']}\n\n{title}")
    for tab in (*TABS, *tabs):
        model = next((model for model in models if tab.can(model)), None)
        if model is None:
            continue
        with gr.Tab(tab.title[language]):
            gr.Markdown(words.get(_help_of(tab), ""))
            tab.build(Given(predictor=model, words=words, shelf=shelf))


def _help_of(tab: Tab) -> str:
    return f"{getattr(tab.build, '__name__', '')}_help"


def launch(
    page: gr.Blocks, *, host: str = "127.0.0.1", port: int | None = None, share: bool = False, **more: Any
) -> Any:
    """Serve the page until it is stopped; more: of Gradio's ``launch``. What Gradio's gives."""
    return page.launch(
        server_name=host, server_port=port, share=share, quiet=True, max_file_size=LARGEST, css=CSS, theme=_theme(),
        footer_links=[], ssr_mode=False, enable_monitoring=False, mcp_server=False, **more,
    )  # fmt: skip


def _theme() -> gr.themes.Base:
    return gr.themes.Default(font=FONTS, font_mono=CODE)
