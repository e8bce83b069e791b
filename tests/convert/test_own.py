"""Layouts that a project brings, and runs of our own written as official files, with teacher and queues."""

import pytest
import torch

import mmkit
from mmkit.cli.main import main
from mmkit.config import load_experiment, override
from mmkit.convert.layouts.layout import from_file
from mmkit.errors import UserError
from mmkit.hub import folder as hub
from mmkit.train.checkpoint import load_state, read_state
from mmkit.train.loop import train
from mmkit.train.resuming import latest
from tests.convert.test_albef import PRETRAIN
from tests.parity.measure import assert_same_state as assert_same
from tests.parity.oracle import load, under
from tests.test_configs import ROOT, SMALL

LAYOUT = """
from dataclasses import replace
from mmkit.convert.layouts.known import Layout, named
from mmkit.convert.tables.table import Entry

official = named("albef")

def strip(state):
    return {name.removeprefix("mine."): value for name, value in state.items()}

def renamed(rows):
    for row in rows:
        if isinstance(row, Entry):
            names = tuple(f"mine.{name}" for name in row.theirs)
            yield replace(row, theirs=names, also=tuple(f"mine.{name}" for name in row.also))
        else:
            yield replace(row, theirs=f"mine.{row.theirs}") if hasattr(row, "theirs") else row

def recipe(state, choices):
    found = official.recipe(strip(state), choices)
    return replace(found, rows=list(renamed(found.rows)))

MINE = Layout(
    name="mine", what="mine", fits=lambda state: all(name.startswith("mine.") for name in state), use="",
    recipe=recipe, back=lambda ours: list(renamed(official.back(ours))),
)
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own_layout.py"
    path.write_text(LAYOUT)
    return f"{path}:MINE"


def test_a_layout_of_ones_own(own, tokenizer, tmp_path):
    meta, x = load(PRETRAIN[0])
    state = {f"mine.{name}": value for name, value in under(x, "sd.").items()}
    torch.save(state, tmp_path / "mine.pth")
    heads = ["--image-heads", str(meta["vit"]["heads"]), "--text-heads", str(meta["bert"]["num_attention_heads"])]
    words = tokenizer(meta["bert"]["vocab_size"])
    out = tmp_path / "ours"
    assert main(["convert", own, str(tmp_path / "mine.pth"), str(out), "--tokenizer", words, *heads]) == 0
    tokens = mmkit.load(out).model.encode_image(x["in.image"])
    assert (tokens.x - x["out.image_embeds"]).abs().max() <= 5e-6 * x["out.image_embeds"].abs().max()
    assert main(["convert", own, str(out), str(tmp_path / "back.pth"), "--reverse"]) == 0
    assert_same(torch.load(tmp_path / "back.pth", weights_only=True), state)


def test_what_is_no_layout_is_said(own, tmp_path, capsys):
    with pytest.raises(UserError, match="has no Layout 'YOURS'; it has official, MINE"):
        from_file(own.replace("MINE", "YOURS"))
    with pytest.raises(UserError, match="there is no file"):
        from_file("nowhere.py:MINE")
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    (tmp_path / "in.pt").write_bytes(b"PK")
    assert main(["convert", f"{tmp_path}/broken.py:X", f"{tmp_path}/in.pt", f"{tmp_path}/out"]) == 2
    assert "cannot be imported" in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    few = ["data.train.n=40", "evals.retrieval.source.n=4", "heads.itc.queue_size=8"]
    experiment = override(load_experiment(f"{ROOT}/pretrain/albef.py:mini(size=36, kinds=8)"), [*SMALL, *few])
    train(override(experiment, ["evals.zeroshot.source.kinds=4"]), folder, save_model=hub.save)
    return folder


def test_a_run_becomes_an_official_file_with_teacher_and_queues(run, tmp_path):
    assert main(["convert", "albef", str(run), str(tmp_path / "official.pth"), "--reverse"]) == 0
    official = torch.load(tmp_path / "official.pth", weights_only=True)["model"]
    step = latest(run / "checkpoints")
    ours = read_state(step, load_state(step)["rest"])
    assert official["image_queue"].shape == (128, 8)
    assert torch.equal(official["image_queue"], ours["heads.itc.queue.image"].T)
    assert int(official["queue_ptr"]) == int(ours["heads.itc.queue._extra_state"]) % 8
    student, teacher = official["visual_encoder.norm.weight"], official["visual_encoder_m.norm.weight"]
    assert not torch.equal(student, teacher)
    assert torch.equal(teacher, ours["ema.copies.model.image.norm.weight"])
    again = tmp_path / "again"
    words = str(run / "tokenizer")
    heads = ["--image-heads", "4", "--text-heads", "4"]
    assert main(["convert", "auto", str(tmp_path / "official.pth"), str(again), "--tokenizer", words, *heads]) == 0
    texts = ["a red apple", "two cats"]
    assert torch.equal(mmkit.load(again).encode_text(texts), mmkit.load(run).encode_text(texts))
    assert main(["convert", "albef", str(again), str(tmp_path / "back.pth"), "--reverse"]) == 0
    assert_same(torch.load(tmp_path / "back.pth", weights_only=True)["model"], official)
