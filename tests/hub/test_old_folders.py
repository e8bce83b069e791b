"""Folders that mmkit 0.1.0 saved load, and give the numbers that 0.1.0 gave.

``oracles/folders_0_1_0.json`` holds what 0.1.0 wrote of each: config, preprocessing, tokenizer, shapes of the weights,
and what it made of three pictures and texts with weights that are drawn here again.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import mmkit
from tests.evals.parts import Pictures, caption, tokenizer

FOLDERS = json.loads((Path(__file__).parents[1] / "oracles/folders_0_1_0.json").read_text(encoding="utf-8"))
IMAGES, TEXTS = [Pictures(4)[i].image for i in range(3)], [caption(i) for i in range(3)]


def written(name: str, folder: Path) -> Path:
    """One of the folders, as 0.1.0 left it."""
    saved = FOLDERS[name]
    folder.mkdir()
    for file in ("config", "preprocessing"):
        (folder / f"{file}.json").write_text(json.dumps(saved[file]))
    if saved["tokenizer"]:
        (folder / "tokenizer").mkdir()
        for file, text in saved["tokenizer"].items():
            (folder / "tokenizer" / file).write_text(text)
    else:
        tokenizer().save(folder / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        weights = {key: torch.randn(saved["shapes"][key]) * 0.2 for key in sorted(saved["shapes"])}
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_0_1_0_gives_its_numbers(name, tmp_path):
    predictor, wanted = mmkit.load(written(name, tmp_path / name)), FOLDERS[name]["outputs"]
    found = {}
    if predictor.model.spec.embed_dim:
        found |= {"images": predictor.encode_image(IMAGES), "texts": predictor.encode_text(TEXTS)}
    if predictor.can_match():
        found["match"] = predictor.match(IMAGES, TEXTS)[:, None]
    assert found.keys() | {"answers"} == wanted.keys() | {"answers"}
    for key, value in found.items():
        torch.testing.assert_close(value, torch.tensor(wanted[key]), atol=2e-4, rtol=0)
    if "answers" in wanted:
        for row, old in zip(predictor.answer(IMAGES, ["what?"] * 3), wanted["answers"], strict=True):
            assert [answer for answer, _ in row] == [answer for answer, _ in old]
            assert [score for _, score in row] == pytest.approx([score for _, score in old], abs=2e-4)


def test_every_kind_is_there():
    assert set(FOLDERS) >= {"albef", "vilt", "dual", "siglip", "decoder", "classifier", "nlvr2", "wordpiece"}
