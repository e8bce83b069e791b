"""The page without a browser: its tabs in both languages, what visitors are told, and whom it is shown to."""

import os
import sys
import types

import gradio as gr
import pytest
from PIL import Image

from mmkit.cli import demo as command
from mmkit.cli import main
from mmkit.errors import UserError
from mmkit.page import app, projects
from mmkit.page.parts import Given, Tab, upload
from mmkit.page.tasks import heat_maps
from mmkit.page.words import LANGUAGES
from tests.evals.parts import predictor
from tests.explanation.test_clips import over_clips, reads
from tests.page.parts import answering


@pytest.fixture(scope="module")
def models():
    return [predictor(), answering()]


def tabs_of(page):
    """The titles of the tabs, by page."""
    found = {}
    for part in page.config["components"]:
        if part["type"] == "tabitem":
            where = next(path for path, of in page.config["page"].items() if part["id"] in of["components"])
            found.setdefault(where, []).append(part["props"]["label"])
    return found


def test_each_language_has_a_page_with_the_tasks_of_the_models(models):
    page = app.make_page(models, title="mine")
    assert tabs_of(page) == {"": ["Find", "Name", "Ask", "Explain"], "zh": ["搜图", "命名", "提问", "解释"]}
    assert [name for _, name, _ in page.pages] == ["English", "中文"]
    chinese = app.make_page(models[1:], first="zh")
    assert tabs_of(chinese) == {"": ["提问"], "en": ["Ask"]}


def test_both_languages_say_the_same_things():
    english, chinese = LANGUAGES["en"], LANGUAGES["zh"]
    assert english.keys() == chinese.keys()
    for key, text in english.items():
        named = lambda words: {part.partition("}")[0] for part in words.split("{")[1:]}  # noqa: E731
        assert named(text) == named(chinese[key]), key


def test_visitors_are_told_in_their_language_what_is_wrong(models, tmp_path, monkeypatch):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    Image.new("RGB", (40, 30)).save(tmp_path / "large.png")
    for words in LANGUAGES.values():
        given = Given(predictor=models[0], words=words)
        for path, said in ((None, "no_picture"), (str(tmp_path / "broken.png"), "broken")):
            with pytest.raises(gr.Error) as told:
                given.picture(path)
            assert told.value.message == words[said]
        for text in (None, "", "  "):
            with pytest.raises(gr.Error) as told:
                given.needed(text)
            assert told.value.message == words["no_words"]
        with monkeypatch.context() as patch:
            patch.setenv("MMKIT_MAX_MEGAPIXELS", "0.001")
            with pytest.raises(gr.Error) as told:
                given.picture(str(tmp_path / "large.png"))
        assert told.value.message == words["huge"].format(most=0)

        def fails():
            raise UserError("no such word")

        with pytest.raises(gr.Error) as told:
            given.told(fails)()
        assert told.value.message == words["failed"].format(why="no such word")
    assert given.needed(" a cat ") == "a cat"


def test_an_upload_is_not_opened_by_the_field():
    with gr.Blocks():
        field = upload("Picture")
    assert field.get_block_name() == "image"
    assert field.preprocess(types.SimpleNamespace(path="anything")) == "anything"
    assert field.preprocess(None) is None


def test_it_is_shown_to_this_machine_alone_unless_asked(models, monkeypatch):
    seen = []
    monkeypatch.setattr(gr.Blocks, "launch", lambda self, **given: seen.append(given))
    page = app.make_page(models)
    app.launch(page)
    assert (seen[0]["server_name"], seen[0]["share"], seen[0]["max_file_size"]) == ("127.0.0.1", False, "30mb")
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert not seen[0]["theme"]._stylesheets  # no fonts of the web
    assert page.analytics_enabled is False
    app.launch(page, host="0.0.0.0", port=80, share=True)
    assert (seen[1]["server_name"], seen[1]["server_port"], seen[1]["share"]) == ("0.0.0.0", 80, True)


def test_a_project_adds_a_tab_with_one_function(models, tmp_path, monkeypatch):
    def boxes(given):
        gr.Markdown(given.words["picture"])

    own = Tab(title={"en": "Boxes", "zh": "框"}, can=lambda model: model is models[1], build=boxes)
    page = app.make_page(models, tabs=[own])
    assert tabs_of(page)[""][-1] == "Boxes"
    assert "Boxes" not in tabs_of(app.make_page(models[:1], tabs=[own]))[""]

    (tmp_path / "projects/seeing").mkdir(parents=True)
    (tmp_path / "projects/seeing/page.py").touch()
    head = type("Head", (type(models[1].heads["answer"]),), {"__module__": "projects.seeing.head"})
    model = answering()
    model.heads["answer"].__class__ = head
    monkeypatch.setattr(projects, "clone", lambda: tmp_path)
    monkeypatch.setattr(projects, "project_module", lambda name: types.SimpleNamespace(tab=lambda: own))
    assert projects.tabs_of([models[0], model, model]) == [own]
    monkeypatch.setattr(projects, "project_module", lambda name: types.SimpleNamespace(tab=1))
    with pytest.raises(UserError, match=r"projects/seeing/page\.py: has no function tab"):
        projects.tabs_of([model])
    (tmp_path / "projects/seeing/page.py").unlink()
    assert projects.tabs_of([model]) == []


def test_the_command_serves_the_model_and_what_was_trained_from_it(models, monkeypatch, capsys, tmp_path):
    from mmkit.hub import folder as hub
    from tests.hub.test_folder import make

    saved, exp = make()
    for place in ("run", "run/vqa", "run/best"):
        hub.save(tmp_path / place, saved, exp)
    assert len(command.load_models(str(tmp_path / "run"), "cpu", None, [])) == 2
    served = []
    monkeypatch.setattr(app, "launch", lambda page, **given: served.append(given) or (None, "http://here", None))
    monkeypatch.setattr(gr.Blocks, "block_thread", lambda self: None)
    assert main(["demo", "--model", str(tmp_path / "run"), "--port", "7999"]) == 0
    assert served == [{"host": "127.0.0.1", "port": 7999, "share": False, "prevent_thread_lock": True}]
    assert "the page is at http://here" in capsys.readouterr().err
    assert main(["demo", "--model", str(tmp_path / "run"), "--port", "99999"]) == 2
    assert "--port 99999: 1 to 65535" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    assert main(["demo", "--model", str(tmp_path / "run")]) == 2
    assert 'pip install "mmkit[page]"' in capsys.readouterr().err


def test_a_model_of_clips_takes_videos_and_animated_pictures(tmp_path):
    model = reads(over_clips(), 4)
    frames = [Image.new("RGB", (32, 32), (40 * i, 0, 0)) for i in range(5)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "broken.gif").write_bytes(b"nothing")
    given = Given(predictor=model, words=LANGUAGES["en"])
    assert isinstance(given.upload(), gr.File)
    assert isinstance(Given(predictor=predictor(), words=LANGUAGES["en"]).upload(), gr.Image)
    clip = given.picture(str(tmp_path / "a.gif"))
    assert clip.path == tmp_path / "a.gif"
    assert given.shown(str(tmp_path / "a.gif")).size == (4 * 32 + 3 * 2, 32)
    with pytest.raises(gr.Error) as told:
        given.picture(str(tmp_path / "broken.gif"))
    assert told.value.message == LANGUAGES["en"]["broken_clip"]
    whole, *words = heat_maps(model, clip, "a red square")
    assert whole[0].size == (4 * 480 + 3 * 2, 480)
    assert [word for _, word in words] == ["a", "red", "square"]
    assert tabs_of(app.make_page([model]))[""] == ["Find", "Name", "Explain"]
