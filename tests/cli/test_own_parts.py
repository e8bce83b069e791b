"""A new user's own head, model and source, in a file beside the config and in the config itself: trained and used.

Everything goes through the command, as from an empty folder; between the commands Python forgets what it imported.
"""

import json
import sys
from pathlib import Path

import pytest

import mmkit
from mmkit.cli.main import main
from mmkit.errors import UserError
from tests.train.fakes import tiny

PARTS = """
from pathlib import Path

from torch import nn

from {name}_scale import SCALE
from mmkit.heads.base import Head
from mmkit.types import HeadOutput
from tests.sizes import albef_tiny

Path({mark!r}).touch()


class CountWords(Head):
    def __init__(self, spec, scale: float = 0.1):
        super().__init__()
        self.scale = scale * SCALE
        self.out = nn.Linear(spec.image_width, 1)

    def forward(self, f):
        wanted = f.batch.mask.sum(1).float() * self.scale
        found = self.out(f.image.x.mean(1)).float()[:, 0]
        return HeadOutput(loss=nn.functional.mse_loss(found, wanted), count=len(wanted), logs={{}}, carry=None)


def small(vocab_size, *, image_size=32):
    return albef_tiny(vocab_size, image_size=image_size, max_tokens=16)
"""
CONFIG = """
from functools import partial

from {name} import CountWords, small
from mmkit.config import Experiment
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from tests.train.fakes import Squares, change, tiny


class Reds(Squares):
    pass


class Louder(CountWords):
    pass


def run(start: str = "") -> Experiment:
    heads = {{"count": partial(CountWords), "louder": partial(Louder, scale=0.2)}}
    heads |= {{"itm": partial(ITM), "itc": partial(ITC)}}
    exp = change(tiny(run={{"steps": 3}}, data={{"train": partial(Reds, 40), "masking": None}}), heads=heads)
    exp = change(exp, model=partial(small, image_size=32), teacher=None)
    return change(exp, model=None, tokenizer=None, init={{"model": start}}) if start else exp
"""


@pytest.fixture
def user(tmp_path, monkeypatch):
    """(name of the module, the folder with config and module, another folder); Python forgets at each ``go``."""
    name = f"user_{abs(hash(str(tmp_path)))}"
    exp, other = tmp_path / "exp", tmp_path / "else"
    exp.mkdir()
    other.mkdir()
    (exp / f"{name}.py").write_text(PARTS.format(name=name, mark=str(tmp_path / "ran")))
    (exp / f"{name}_scale.py").write_text("SCALE = 1.0\n")
    (exp / f"{name}_config.py").write_text(CONFIG.format(name=name))
    path = list(sys.path)

    def go(folder, *words):
        monkeypatch.chdir(folder)
        sys.path[:] = path
        for module in [module for module in sys.modules if name in module]:
            del sys.modules[module]
        (tmp_path / "ran").unlink(missing_ok=True)
        return main([*map(str, words)]), (tmp_path / "ran").exists()

    yield name, exp, other, go
    go(exp, "info", "nowhere")
    sys.path[:] = path


def said(capsys):
    return " ".join(capsys.readouterr().err.split())


def test_own_parts_train_and_load_again_from_the_path_of_the_run(user, capsys, tmp_path):
    name, exp, other, go = user
    assert go(exp, "train", f"{name}_config.py:run", "--out", "../run") == (0, True)
    told = said(capsys)
    config, allow = exp / f"{name}_config.py", ["--allow", name, "--allow", exp / f"{name}_config.py"]
    assert f"heads.count = {name}:CountWords, heads.louder = mmkit_config_file_{name}_config:Louder" in told
    assert f"will need --allow {name} --allow {config}" in told
    assert told.index("will need") < told.index("initialised: every part")

    picture, records = tmp_path / "a.png", tmp_path / "r.jsonl"
    tiny().data.train()[0].image.save(picture)
    records.write_text("\n".join(json.dumps({"image": "a.png", "caption": f"a red square {i}"}) for i in range(3)))
    explain = ["explain", "--model", "../run", "--image", picture, "--text", "a red square", "--out", "x.png"]
    assert go(other, *explain) == (2, False)  # nothing runs unasked
    assert f"in all --allow {name} --allow {config}" in said(capsys)
    assert go(other, *explain, "--allow", name) == (2, True)
    told = said(capsys)
    assert f"{name}: taken from {exp / f'{name}.py'}, as ../run says" in told
    assert f"in all --allow {config}" in told
    assert go(other, *explain, *allow) == (0, True)
    assert go(other, *explain, "--allow", f"../exp/{name}.py", "--allow", f"../exp/{name}_config.py") == (0, True)
    assert go(other, "retrieval", "--model", "../run", "--data", records, *allow) == (0, True)
    assert go(other, "features", "--model", "../run", "--data", records, "--out", "f.safetensors", *allow) == (0, True)

    capsys.readouterr()
    assert go(other, "info", "../run") == (0, False)  # it imports nothing
    shown = capsys.readouterr().out
    assert f"--model ../run --allow {name} --allow {config} in every command" in shown
    assert str(exp / f"{name}.py") in shown


def test_a_run_goes_on_and_another_starts_from_it(user, capsys):
    name, exp, other, go = user
    config = f"{name}_config.py"
    first = [f"{config}:run", "--set", "run.stop_after_steps=1", "--out", "../run"]
    assert go(exp, "train", *first)[0] == 0
    assert go(other, "train", f"../exp/{config}:run", "--out", "../run", "--resume") == (0, True)
    capsys.readouterr()
    second = ["train", f"{exp / config}:run(start='../run')", "--out", "../second"]
    assert go(other, *second)[0] == 2  # the model is named by the folder, and not by the config
    assert f"'{name}:small' may not be rebuilt as a model" in said(capsys)
    assert go(other, *second, "--allow", name)[0] == 0
    allow = [name, str(exp / config)]
    assert set(mmkit.load("../second", allow=allow).heads) == {"count", "louder", "itm"}
    with pytest.raises(UserError, match="may not be rebuilt"):
        mmkit.load("../second")


def test_a_copy_of_the_run_says_what_it_lacks(user, capsys):
    """On another machine the file is not where it was: the message says where it was looked for."""
    name, exp, other, go = user
    assert go(exp, "train", f"{name}_config.py:run", "--out", "../run")[0] == 0
    (exp / f"{name}.py").rename(exp / "moved.py")
    capsys.readouterr()
    words = ["explain", "--model", "../run", "--image", exp / "a.png", "--text", "a", "--out", "x.png"]
    tiny().data.train()[0].image.save(exp / "a.png")
    assert go(other, *words, "--allow", name) == (2, False)
    told = said(capsys)
    assert f"when ../run was saved, it lay in {exp / f'{name}.py'}, and is not there" in told
    assert f"cannot import '{name}'" in told
    config = json.loads((Path("../run") / "config.json").read_text())
    assert config["own"][name] == str(exp / f"{name}.py")


@pytest.mark.parametrize(("code", "gives"), [("0", 2), ("", 2), ("3", 3)])
def test_code_of_ones_own_that_ends_python_is_no_success(code, gives, tmp_path, capsys):
    (tmp_path / "ends.py").write_text(f"import sys\nsys.exit({code})\n")
    command = ["train", str(tmp_path / "ends.py"), "--out", str(tmp_path / "out")]
    try:
        found = main(command)
    except SystemExit as error:
        found = error.code
    assert found == gives
    assert gives != 2 or "ended Python" in capsys.readouterr().err
