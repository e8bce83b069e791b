import json

import pytest
from PIL import Image

from mmkit.cli.main import add_command, execute, main
from mmkit.errors import UserError
from tests.several import as_launched
from tests.train.fakes import COLOURS

CONFIG = """
from mmkit.config import Experiment
from tests.train.fakes import tiny

def small(steps: int = 4) -> Experiment:
    return tiny(run=dict(steps=steps))
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(CONFIG)
    return path


def command(run, *arguments):
    import argparse

    commands = argparse.ArgumentParser().add_subparsers()
    return execute(add_command(commands, "x", "x", run).parse_args(arguments))


def test_bad_input_is_a_message_and_exit_code_two(config, capsys):
    assert main(["train", f"{config}:small(step=3)"]) == 2
    error = capsys.readouterr().err
    assert "did you mean 'steps'" in error
    assert "Traceback" not in error
    assert main(["train", str(config), "--set", "run.step=3"]) == 2
    assert "'run.steps'" in capsys.readouterr().err


def test_numbers_go_to_the_table_and_to_json(tmp_path, capsys):
    file = tmp_path / "deep" / "n.json"
    assert command(lambda args: {"t2i_r1": 0.25, "by_type": {"a": 1}}, "--json", str(file)) == 0
    assert json.loads(file.read_text()) == {"t2i_r1": 0.25, "by_type": {"a": 1}}
    assert "t2i_r1" in capsys.readouterr().out


def test_other_errors_are_not_hidden():
    def bad(args):
        raise KeyError("x")

    with pytest.raises(KeyError):
        command(bad)

    def user(args):
        raise UserError("no such thing")

    assert command(user) == 2


BEST = """
from functools import partial
from mmkit.config import Experiment
from mmkit.data.records import JsonLines
from mmkit.evals.retrieval import Retrieval
from tests.train.fakes import tiny

def best(file: str) -> Experiment:
    evals = {"dev": partial(Retrieval, source=partial(JsonLines, file))}
    return tiny(run=dict(steps=6, eval_every_steps=2, best="dev.i2t_r1"), evals=evals)
"""


def test_the_best_on_dev_is_tested_by_the_folder_best(tmp_path):
    rows = []
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (24, 24), colour).save(tmp_path / f"{number}.png")
        rows.append(json.dumps({"image": f"{number}.png", "caption": f"a {colour} square", "image_id": str(number)}))
    (tmp_path / "dev.jsonl").write_text("\n".join(rows))
    (tmp_path / "best.py").write_text(BEST)
    out, file, records = tmp_path / "run", tmp_path / "n.json", tmp_path / "dev.jsonl"
    assert main(["train", f"{tmp_path / 'best.py'}:best(file={str(records)!r})", "--out", str(out)]) == 0
    kept = json.loads((out / "best.json").read_text())
    assert main(["retrieval", "--model", str(out / "best"), "--data", str(records), "--json", str(file)]) == 0
    assert json.loads(file.read_text())["i2t_r1"] == pytest.approx(kept["value"])
    assert main(["info", str(out / "best"), "--json", str(file)]) == 0
    assert json.loads(file.read_text())["training.steps"] == kept["step"]


def test_the_script_goes_on_with_two_processes_where_the_command_stopped(config, tmp_path):
    out, file = tmp_path / "run", tmp_path / "n.json"
    spec = f"{config}:small(steps=6)"
    assert main(["train", spec, "--out", str(out), "--json", str(file), "--set", "run.stop_after_steps=3"]) == 0
    assert json.loads(file.read_text())["step"] == 3
    _, said = as_launched(2, ["scripts/pretrain.py", spec, "--out", out, "--json", file, "--resume"], tmp_path)
    assert json.loads(file.read_text())["step"] == 6
    assert (out / "model.safetensors").is_file()
    assert "resumes on 2 processes what 1 began" in said
