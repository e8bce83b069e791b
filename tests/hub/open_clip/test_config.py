"""An open_clip folder of a stranger: what its config may not say; nothing is run, fetched, or read elsewhere."""

import json
import shutil

import open_clip
import pytest
import torch
import transformers
from transformers import dynamic_module_utils

import mmkit
from mmkit.errors import UserError
from mmkit.hub.info import describe
from mmkit.hub.open_clip.config import CONFIG, checked, never_asked
from tests.data.texts.huggingface.test_folder import EVIL, WORDS, bert
from tests.hub.open_clip.test_models import CONFIGS, TEXT, TIMM, VISION
from tests.watch import watched

MODEL = CONFIGS["tiny-clip"]


@pytest.fixture
def folder(tmp_path):
    """A folder as open_clip saves it, with a tokenizer of transformers; beside it what it may not touch."""
    place = tmp_path / "model"
    place.mkdir()
    bert(place)
    transformers.AutoTokenizer.from_pretrained(str(place)).save_pretrained(str(place))
    text = {**TEXT, "vocab_size": len(WORDS), "hf_tokenizer_name": "lab/words"}
    write(place, {**MODEL, "text_cfg": text})
    with torch.random.fork_rng(devices=[]):
        torch.save(open_clip.model.CLIP(**{**MODEL, "text_cfg": text}).state_dict(), place / "open_clip_model.bin")
    (place / "evil.py").write_text(EVIL.format(mark=str(tmp_path / "ran")))
    (tmp_path / "elsewhere").mkdir()
    return place


def write(place, model, picture=None):
    (place / CONFIG).write_text(json.dumps({"model_cfg": model, "preprocess_cfg": picture or {}}))


def test_its_own_tokenizer_gives_the_ids_of_open_clip(folder):
    ours, theirs = mmkit.load(f"open_clip:{folder}").tokenizer, open_clip.get_tokenizer(f"local-dir:{folder}")
    for text in ("a red box", "two  dogs", "one cat , a " * 20):
        assert ours.encode(text, 99) == theirs([text])[0].tolist()


def text_cfg(folder, **changes):
    return {**MODEL, "text_cfg": {**TEXT, "vocab_size": len(WORDS), "hf_tokenizer_name": "lab/words", **changes}}


HOSTILE = {
    "code by the tokenizer's arguments": (lambda f: text_cfg(f, tokenizer_kwargs={"trust_remote_code": True}), "trust"),
    "a file by the tokenizer's arguments": (
        lambda f: text_cfg(f, hf_tokenizer_name="", tokenizer_kwargs={"bpe_path": "/etc/passwd"}), "bpe_path"
    ),
    "arguments of another kind": (lambda f: text_cfg(f, tokenizer_kwargs={"clean": 3}), "clean = 3"),
    "arguments in a list": (lambda f: text_cfg(f, tokenizer_kwargs=["x"]), "is refused"),
    "a folder as the text tower": (lambda f: text_cfg(f, hf_model_name=f"{f.parent}/elsewhere"), "no name of the hub"),
    "a folder above": (lambda f: text_cfg(f, hf_model_name="../elsewhere"), "no name of the hub"),
    "a text tower of the hub": (lambda f: text_cfg(f, hf_model_name="lab/not-here"), "a folder makes no call"),
    "a tokenizer elsewhere": (lambda f: text_cfg(f, hf_tokenizer_name="../elsewhere"), "no name of the hub"),
    "a picture tower of the hub": (
        lambda f: {**MODEL, "vision_cfg": {**TIMM, "timm_model_name": "hf-hub:lab/evil"}}, "no model of timm"
    ),
    "a picture tower of a folder": (
        lambda f: {**MODEL, "vision_cfg": {**TIMM, "timm_model_name": f"local-dir:{f}"}}, "no model of timm"
    ),
    "a picture tower that is not": (
        lambda f: {**MODEL, "vision_cfg": {**TIMM, "timm_model_name": "evil"}}, "no model of timm"
    ),
    "a number as its name": (lambda f: {**MODEL, "vision_cfg": {**TIMM, "timm_model_name": 3}}, "no model of timm"),
    "far too wide": (lambda f: {**MODEL, "vision_cfg": {**VISION, "width": 10**12}}, "beyond what such a model"),
    "too wide": (lambda f: {**MODEL, "vision_cfg": {**VISION, "width": 160_000}}, "numbers, and its weights"),
    "too deep": (lambda f: {**MODEL, "vision_cfg": {**VISION, "layers": 900_000}}, "far too large a model"),
    "too deep beside a tower of timm": (
        lambda f: {**text_cfg(f, layers=900_000), "vision_cfg": TIMM}, "far too large a model"
    ),
    "no towers": (lambda f: {"embed_dim": 3}, "no model_cfg with a vision_cfg"),
    "a list": (lambda f: [], "no model_cfg with a vision_cfg"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_its_config_asks_for_is_refused_before_it_is_done(name, folder, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *said: pytest.fail("a prompt"))
    mmkit.load(f"open_clip:{folder}")  # what is imported at the first use
    model, message = HOSTILE[name]
    write(folder, model(folder))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with watched() as seen, pytest.raises(UserError, match=message):
        mmkit.load(f"open_clip:{folder}")
    assert not [what for what in seen if what[0].startswith(("socket", "subprocess"))]
    assert not [what for what in seen if what[0] == "open" and ("elsewhere" in what[1] or "passwd" in what[1])]
    assert not (folder.parent / "ran").exists()
    if name != "too wide":
        with pytest.raises(UserError):
            describe(f"open_clip:{folder}")


@pytest.mark.parametrize("form", ["load", "describe"])
def test_code_beside_its_tokenizer_is_not_run_and_nobody_is_called(form, folder, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *said: pytest.fail("a prompt"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    use = {"load": mmkit.load, "describe": describe}[form]
    use(f"open_clip:{folder}")
    with watched() as seen:
        use(f"open_clip:{folder}")
    assert not [what for what in seen if what[0].startswith(("socket", "subprocess"))]
    assert not (folder.parent / "ran").exists()


@pytest.mark.parametrize("file", [CONFIG, "open_clip_model.bin", "tokenizer.json", "other.txt"])
def test_a_link_out_of_it_is_refused(file, folder):
    if (folder / file).exists():
        shutil.move(folder / file, folder.parent / "elsewhere" / file)
    (folder / file).symlink_to(folder.parent / "elsewhere" / file)
    with pytest.raises(UserError, match=rf"{file}: leads out of its folder"):
        mmkit.load(f"open_clip:{folder}")


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 9999, '{"model_cfg": NaN}', '{"model_cfg": 3}'])
def test_a_damaged_config_is_named(text, folder):
    (folder / CONFIG).write_text(text)
    with pytest.raises(UserError, match=r"open_clip_config\.json: "):
        mmkit.load(f"open_clip:{folder}")


@pytest.mark.parametrize("std", [[0.1, 0, 0.1], [1, -1, 1], ["x"], "x", 0])
def test_pictures_are_not_divided_by_nothing(std, folder):
    write(folder, text_cfg(folder), {"mean": [0.5] * 3, "std": std})
    with pytest.raises(UserError, match="divides pictures by std"):
        mmkit.load(f"open_clip:{folder}")


@pytest.mark.parametrize("key", ["hf_model_name", "hf_tokenizer_name"])
def test_a_repository_of_the_hub_runs_no_code_either(key, monkeypatch, tmp_path):
    """The user asked for the network; what comes from there may still not read here, nor run."""
    with pytest.raises(UserError, match="trust_remote_code = True is refused"):
        checked(text_cfg(None, tokenizer_kwargs={"trust_remote_code": True}), "x")
    model = text_cfg(None, **{key: "lab/here"})
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: model)
    monkeypatch.setattr("mmkit.network.hub_answers", lambda: True)
    asked = []
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name, **given: asked.append(given) or 1 / 0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError):
        mmkit.load("open_clip:hf-hub:lab/x")
    assert asked == [{"trust_remote_code": False}]
    (tmp_path / "lab/here").mkdir(parents=True)
    with pytest.raises(UserError, match="a folder of that name is here"):
        mmkit.load("open_clip:hf-hub:lab/x")


def test_nobody_is_asked_whether_code_may_run(monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *said: pytest.fail("a prompt"))
    before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    with never_asked(), pytest.raises(ValueError, match="trust_remote_code"):
        dynamic_module_utils.resolve_trust_remote_code(None, "lab/x", False, True)
    assert before == dynamic_module_utils.TIME_OUT_REMOTE_CODE
