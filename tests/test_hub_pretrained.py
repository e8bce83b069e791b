"""save_pretrained, from_pretrained and push_to_hub, and what the card says."""

from functools import partial

import huggingface_hub
import pytest
import torch

import mmkit
from mmkit import hub
from mmkit.config_json import dump
from mmkit.data.variable_size import KeepShape
from mmkit.errors import UserError
from mmkit.heads.itm import ITM
from mmkit.hub_pretrained import Pretrained
from mmkit.models.sizes_vilt import vilt_tiny
from mmkit.predictor import Predictor
from tests.evals.parts import COLOURS, tokenizer
from tests.test_hub import IMAGES, make


@pytest.fixture
def run(tmp_path):
    predictor, experiment = make()
    hub.save(tmp_path / "run", predictor, experiment)
    return tmp_path / "run", predictor


def assert_same(one, other):
    torch.testing.assert_close(one.encode_text(COLOURS), other.encode_text(COLOURS), atol=0, rtol=0)
    assert one.transform == other.transform


def test_save_and_load(run, tmp_path):
    folder, predictor = run
    Pretrained.from_pretrained(folder).save_pretrained(tmp_path / "copy")
    assert_same(Pretrained.from_pretrained(tmp_path / "copy").predictor, predictor)
    assert_same(mmkit.load(tmp_path / "copy"), predictor)
    assert not [path for path in (tmp_path / "copy").rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    card = (tmp_path / "copy" / "README.md").read_text()
    count = sum(p.numel() for p in predictor.model.image.parameters())
    for text in ("library_name: mmkit", f"| parameters.model.image | {count:,} |", "| max_tokens | 9 |", "## Licence"):
        assert text in card
    assert "{" not in card


def test_push_and_load_by_name(run, monkeypatch, tmp_path):
    folder, predictor = run
    sent = {}

    class Repository:
        repo_id = "me/mine"

    def upload(self, *, repo_id, folder_path, **options):
        sent["files"] = {str(p.relative_to(folder_path)) for p in folder_path.rglob("*") if p.is_file()}
        return repo_id

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, repo_id, **options: Repository)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    assert (
        Pretrained.from_pretrained(folder).push_to_hub("me/mine", model_card_kwargs={"repository": "me/mine"})
        == "me/mine"
    )
    assert {"config.json", "model.safetensors", "preprocessing.json", "README.md"} <= sent["files"]

    monkeypatch.setattr("mmkit.hub_pretrained.snapshot_download", lambda *names, **options: str(folder))
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", lambda **options: str(folder / "config.json"))
    assert_same(Pretrained.from_pretrained("me/mine").predictor, predictor)


def test_without_a_network_it_says_what_to_fetch(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"huggingface\.co/me/mine"):
        Pretrained._from_pretrained(
            model_id="me/mine",
            revision=None,
            cache_dir=tmp_path,
            force_download=False,
            local_files_only=True,
            token=False,
        )


@pytest.mark.parametrize("size", [48, (24, 56)])
def test_another_image_size_when_loaded(run, size, caplog):
    folder, predictor = run
    caplog.set_level("INFO", "mmkit")
    larger = mmkit.load(folder, image_size=size)
    high, wide = (size, size) if isinstance(size, int) else size
    assert larger.transform.size == (high, wide)
    patch = predictor.model.image.patch.patch[0]
    assert f"4x4 grid resized to {high // patch}x{wide // patch}" in caplog.text
    pixels = torch.randn(2, 3, high, wide)
    with torch.no_grad():
        expected = predictor.model.encode_image(pixels).x  # resized at each pass
        assert torch.equal(larger.model.encode_image(pixels).x, expected)
    assert "at each pass" in caplog.text
    assert larger.encode_image(IMAGES).shape == predictor.encode_image(IMAGES).shape
    with pytest.raises(UserError, match="multiple of the patch"):
        mmkit.load(folder, image_size=50)


@pytest.mark.parametrize("size", [64, (64, 48), (32, 32)])
def test_another_image_size_stays_when_saved_again(run, size, tmp_path):
    larger = mmkit.load(run[0], image_size=size)
    Pretrained(larger, run[0]).save_pretrained(tmp_path / "larger")
    again = mmkit.load(tmp_path / "larger")
    assert again.model.image.positions.grid == larger.model.image.positions.grid
    assert again.transform == larger.transform
    torch.testing.assert_close(again.encode_image(IMAGES), larger.encode_image(IMAGES), atol=0, rtol=0)
    Pretrained.from_pretrained(tmp_path / "larger").save_pretrained(tmp_path / "copy")
    assert mmkit.load(tmp_path / "copy").transform == larger.transform


def test_a_model_for_pictures_of_any_shape_takes_another_size(tmp_path):
    words = tokenizer()
    make_model = partial(vilt_tiny, image_size=32, max_tokens=12)
    model = make_model(words.vocab_size)
    heads = {"itm": partial(ITM, negatives="mixed", pooler=True)}
    built = {name: head(model.spec) for name, head in heads.items()}
    predictor = Predictor(model, built, words, KeepShape(size=32, multiple=8), 12)
    parts = {"model": dump(make_model), "heads": {name: dump(head) for name, head in heads.items()}}
    hub.save(tmp_path / "run", predictor, {"name": "vilt", "args": parts})
    larger = mmkit.load(tmp_path / "run", image_size=48)
    assert larger.transform == KeepShape(size=48, multiple=8)
    assert next(larger.image_tokens([IMAGES[0].resize((60, 30))])).x.shape[1] == 1 + 5 * 9
    Pretrained(larger, tmp_path / "run").save_pretrained(tmp_path / "larger")
    assert mmkit.load(tmp_path / "larger").transform == larger.transform
