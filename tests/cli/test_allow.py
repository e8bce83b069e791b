"""Own code in a model: refused, with the flag to give, and let in by it, in every command that loads a model."""

import argparse
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

import mmkit
from mmkit.cli.evaluate import add_zeroshot_arguments
from mmkit.cli.main import main, make_parser
from mmkit.config import dump
from mmkit.errors import UserError
from mmkit.hub import folder as hub
from tests.evals.parts import Pictures, predictor
from tests.train.fakes import tiny

ROOT = Path(__file__).parents[2]
CODE = """
from pathlib import Path
from mmkit.heads.itm import ITM
from tests.sizes import albef_tiny

Path({mark!r}).touch()

class Match(ITM):
    pass

def model(vocab_size, *, image_size=32):
    return albef_tiny(vocab_size, image_size=image_size)
"""


def leaves(parser, path=()):
    """Each command with its words."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in inner:
        for name, command in action.choices.items():
            yield from leaves(command, (*path, name))
    if not inner:
        yield path, parser


COMMANDS = dict(leaves(make_parser()))
LOADING = {words: parser for words, parser in COMMANDS.items() if "--model" in parser._option_string_actions}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A model whose factory and head are of the module ``mine_NAME`` in the current folder; pictures; records."""
    name = "mine_" + "".join(char if char.isalnum() else "_" for char in tmp_path.name)
    mark = str(tmp_path / "ran")
    (tmp_path / f"{name}.py").write_text(CODE.format(mark=mark))
    hub.save(tmp_path / "run", predictor(), dump(tiny()))
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["model"] = {"target": f"{name}:model", "args": {"image_size": 32}}
    config["heads"]["itm"]["target"] = f"{name}:Match"
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    (tmp_path / "pictures").mkdir()
    lines = []
    for i in range(3):
        picture = Pictures(4)[i].image
        assert isinstance(picture, Image.Image)
        picture.save(tmp_path / f"pictures/{i}.png")
        (tmp_path / f"pictures/c{i}").mkdir()
        picture.save(tmp_path / f"pictures/c{i}/{i}.png")
        boxes = [{"name": "square", "box": [1, 1, 9, 9]}]
        lines.append({"image": f"pictures/{i}.png", "caption": f"a red square {i}", "boxes": boxes})
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.chdir(tmp_path)
    yield name, tmp_path
    for module in [module for module in sys.modules if module.startswith((name, f"mmkit_config_file_{name}"))]:
        del sys.modules[module]


ARGUMENTS = {
    ("retrieval",): ["--data", "r.jsonl", "--rerank", "2"],
    ("zeroshot",): ["--data", "pictures", "--no-text-bank"],
    ("classify",): ["--data", "pictures"],
    ("probe",): ["--data", "pictures"],
    ("vqa",): ["--image", "pictures/0.png", "--question", "what?", "--answers", "answers.txt"],
    ("caption",): ["--image", "pictures/0.png"],
    ("detect",): ["--image", "pictures/0.png"],
    ("demo",): [],
    ("explain",): ["--image", "pictures/0.png", "--text", "a red square", "--out", "x.png"],
    ("grounding",): ["--data", "r.jsonl"],
    ("features",): ["--data", "r.jsonl", "--out", "f.safetensors"],
    ("export",): ["--out", "graphs"],
}  # fmt: skip


def test_every_command_with_a_model_takes_allow():
    assert {words for words, parser in LOADING.items() if "--allow" not in parser._option_string_actions} == set()
    for words in (("train",), ("convert",), ("report",)):  # they build models of folders too
        assert "--allow" in COMMANDS[words]._option_string_actions
    assert set(LOADING) == set(ARGUMENTS), "a new command: give it --allow, and its arguments here"


def refused(*_, **__):
    """In place of a page, which would be served until Ctrl-C."""
    raise UserError("no page here")


@pytest.mark.parametrize("words", ARGUMENTS, ids=" ".join)
def test_a_command_refuses_own_code_and_names_the_flag(words, own, capsys, monkeypatch):
    name, folder = own
    (folder / "answers.txt").write_text("yes\nno\n")
    if words in {("zeroshot",), ("classify",), ("probe",)}:
        for picture in folder.glob("pictures/*.png"):
            picture.unlink()
    monkeypatch.setattr("mmkit.inference.export.export", lambda predictor, out: {})
    monkeypatch.setattr("mmkit.page.app.make_page", refused)
    command = [*words, *ARGUMENTS[words], "--model", "run"]
    assert main(command) == 2
    assert f"'{name}:model' may not be rebuilt as a model" in (told := capsys.readouterr().err)
    assert f"--allow {name}, or allow=('{name}',) in Python" in told
    assert not (folder / "ran").exists()
    main([*command, "--allow", name])
    assert (folder / "ran").exists()
    assert "may not be rebuilt" not in capsys.readouterr().err
    assert main(command) == 2  # it is not remembered


def test_the_commands_go_on_to_their_end_with_it(own):
    name, _ = own
    for words in (("retrieval",), ("features",), ("explain",)):
        assert main([*words, *ARGUMENTS[words], "--model", "run", "--allow", f"no.{name}", "--allow", name]) == 0
    assert mmkit.explain("run", "pictures/0.png", "a red square", allow=name).target == "match"
    with pytest.raises(UserError, match="may not be rebuilt"):
        mmkit.explain("run", "pictures/0.png", "a red square")


def test_scripts_take_it_too():
    parser = argparse.ArgumentParser()
    add_zeroshot_arguments(parser)
    assert parser.parse_args(["--data", "x", "--model", "m", "--allow", "a", "--allow", "b"]).allow == ["a", "b"]
    assert "add_zeroshot_arguments(parser)" in (ROOT / "scripts/zero_shot_classification.py").read_text()
