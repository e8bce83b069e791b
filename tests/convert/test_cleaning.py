"""A converted official ALBEF cleans texts; one that 0.1.0 converted does not, and says how to convert it again."""

import json

import pytest
import torch

import mmkit
from mmkit.cli.main import main
from projects.nlvr2 import layout as nlvr2
from tests.parity.oracle import cases, load, under

LAYOUTS = {
    "albef": "sd.text_encoder.cls.predictions.bias", "albef-retrieval": "sd.idx_queue",
    "albef-vqa": "sd.text_decoder.cls.predictions.bias", "albef-ve": "sd.cls_head.0.weight",
    f"{nlvr2.__file__}:NLVR2": "sd.cls_head.0.weight",
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS, ids=lambda name: name.rpartition(":")[2])
def test_the_framing_is_saved_and_an_old_folder_says_so(name, tokenizer, tmp_path, capsys):
    pairs = name.endswith("NLVR2")
    for path in cases(lambda names: LAYOUTS[name] in names):
        meta, x = load(path)
        if ("shared" in meta) == pairs:
            break
    torch.save({"model": under(x, "sd.")}, tmp_path / "theirs.pth")
    words = tokenizer(meta["bert"]["vocab_size"])
    heads = ["--image-heads", str(meta["vit"]["heads"]), "--text-heads", str(meta["bert"]["num_attention_heads"])]
    if name == "albef-vqa":
        (tmp_path / "answers.json").write_text(json.dumps(["yes", "no"]))
        heads += ["--answers", str(tmp_path / "answers.json")]
    assert main(["convert", name, str(tmp_path / "theirs.pth"), str(tmp_path / "o"), "--tokenizer", words, *heads]) == 0
    framing = tmp_path / "o" / "tokenizer" / "framing.json"
    assert json.loads(framing.read_text())["clean"] == "albef"
    capsys.readouterr()
    mmkit.load(tmp_path / "o", allow=("projects",) if pairs else ())
    assert "0.1.0" not in capsys.readouterr().err
    saved = json.loads(framing.read_text())
    framing.write_text(json.dumps({key: value for key, value in saved.items() if key != "clean"}))  # as 0.1.0 wrote it
    old = mmkit.load(tmp_path / "o", allow=("projects",) if pairs else ())
    assert old.tokenizer.framing.clean == "none"
    said = capsys.readouterr().err
    assert said.count("converted by mmkit 0.1.0") == 1
    assert f"Convert again: mmkit convert {'projects/nlvr2/layout.py:NLVR2' if pairs else name} FILE OUT" in said
