"""save_pretrained, from_pretrained and push_to_hub, and what the card says."""

import huggingface_hub
import pytest
import torch

import mmkit
from mmkit import hub
from mmkit.errors import UserError
from mmkit.hub_pretrained import Pretrained
from tests.evals.parts import COLOURS
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
