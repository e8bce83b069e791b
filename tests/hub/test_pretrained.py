"""save_pretrained, from_pretrained and push_to_hub, by the public methods of the class."""

import json
import shutil
from functools import partial
from pathlib import Path

import huggingface_hub
import pytest
import torch

import mmkit
from mmkit.config.as_json import dump
from mmkit.data.images.variable_size import KeepShape
from mmkit.errors import UserError
from mmkit.heads.itm import ITM
from mmkit.hub import folder as hub
from mmkit.hub.pretrained import Pretrained
from mmkit.inference.predictor import Predictor
from tests.evals.parts import COLOURS, tokenizer
from tests.hub.test_folder import DAMAGES, IMAGES, make
from tests.sizes import vilt_tiny


@pytest.fixture
def run(tmp_path):
    predictor, experiment = make()
    hub.save(tmp_path / "run", predictor, experiment)
    return tmp_path / "run", predictor


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


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
    assert f"from_pretrained({str(tmp_path / 'copy')!r})" in card


def test_it_can_be_saved_where_it_came_from(run):
    folder, predictor = run
    Pretrained.from_pretrained(folder).save_pretrained(folder)
    assert_same(mmkit.load(folder), predictor)


@pytest.fixture
def uploads(monkeypatch):
    """What would be sent to the hub, by path within the repository."""
    sent: dict[str, str] = {}

    def create(self, repo_id, **options):
        return type("Repository", (), {"repo_id": repo_id if "/" in repo_id else f"me/{repo_id}"})

    def upload(self, *, repo_id, folder_path, **options):
        for path in Path(folder_path).rglob("*"):
            if path.is_file():
                sent[path.relative_to(folder_path).as_posix()] = path.read_text(errors="replace")
        return repo_id

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    return sent


@pytest.mark.parametrize("name", ["me/mine", "mine"])
@pytest.mark.parametrize("way", ["push", "save"])
def test_the_card_on_the_hub_names_the_repository(run, uploads, name, way, tmp_path):
    model = Pretrained.from_pretrained(run[0])
    if way == "push":
        found = model.push_to_hub(name)
    else:
        found = model.save_pretrained(tmp_path / "mine", push_to_hub=True, repo_id=name)
    assert found == "me/mine"
    assert {"config.json", "model.safetensors", "preprocessing.json", "README.md"} <= uploads.keys()
    assert "Pretrained.from_pretrained('me/mine')" in uploads["README.md"]
    assert "OWNER" not in uploads["README.md"]
    assert "# mine" in uploads["README.md"]
    assert str(run[0].parent) not in uploads["README.md"]


def test_load_by_name(run, monkeypatch):
    folder, predictor = run
    monkeypatch.setattr("mmkit.hub.pretrained.snapshot_download", lambda *names, **options: str(folder))
    assert_same(Pretrained.from_pretrained("me/mine").predictor, predictor)
    larger = Pretrained.from_pretrained("me/mine", image_size=48).predictor
    assert larger.transform.size == (48, 48)
    with pytest.raises(TypeError, match="imagesize"):
        Pretrained.from_pretrained("me/mine", imagesize=48)


def test_without_a_network_it_says_what_to_fetch_and_where_to_put_it(offline):
    with pytest.raises(UserError, match=r"huggingface\.co/me/mine") as caught:
        Pretrained.from_pretrained("me/mine", cache_dir=offline)
    said = str(caught.value)
    for part in (
        "config.json",
        "model.safetensors",
        "preprocessing.json",
        "tokenizer/",
        "FOLDER in place of 'me/mine'",
    ):
        assert part in said
    with pytest.raises(UserError, match="FOLDER"):
        Pretrained.from_pretrained("me/mine", cache_dir=offline, local_files_only=True, revision="v2")


@pytest.mark.parametrize("path", ["./nowhere", "a/b/c"])
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(path, offline):
    with pytest.raises(UserError, match="no such folder"):
        Pretrained.from_pretrained(path, cache_dir=offline)


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("named", [False, True])
def test_what_is_missing_or_wrong_is_named(run, kind, named, monkeypatch):
    folder, _ = run
    damage, message = DAMAGES[kind]
    damage(folder)
    monkeypatch.setattr("mmkit.hub.pretrained.snapshot_download", lambda *names, **options: str(folder))
    with pytest.raises(UserError, match=message) as caught:
        Pretrained.from_pretrained("me/mine" if named else folder)
    assert ("me/mine" in str(caught.value)) == named


def test_a_copy_says_the_same_of_its_training(run, tmp_path):
    folder, _ = run
    (folder / "metrics.jsonl").write_text('{"event": "train", "step": 300}\n{"event": "eval", "step": 700}\n')
    (folder / "data.json").write_text('{"records": 40}')
    config = json.loads((folder / "config.json").read_text())
    del config["training"]  # as an earlier version saved it
    (folder / "config.json").write_text(json.dumps(config))
    model = Pretrained.from_pretrained(folder)
    assert model.facts["training.steps"] == 700
    for name in ("copy", "copy of the copy"):
        model.save_pretrained(tmp_path / name)
        shutil.rmtree(folder)  # nothing is read there any more
        folder = tmp_path / name
        again = Pretrained.from_pretrained(folder)
        kept = {key: value for key, value in model.facts.items() if key.startswith(("training.", "licence"))}
        assert kept.items() <= again.facts.items()
        assert kept["training.records"] == 40
        model = again


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
    shown = ", ".join(map(str, larger.transform.size))
    assert f"| image_size | {shown} |" in (tmp_path / "larger/README.md").read_text()
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
