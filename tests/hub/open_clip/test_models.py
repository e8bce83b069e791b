"""open_clip models through ``mmkit.load``: as open_clip's own classifier has it; what is missing is named."""

import json
import logging
import re
import shutil

import open_clip
import pytest
import torch
from PIL import Image

import mmkit
from mmkit.data.records import Record
from mmkit.errors import UserError
from mmkit.evals.retrieval import Retrieval
from mmkit.evals.text_bank import class_bank
from mmkit.evals.zeroshot import ZeroShot
from mmkit.explanation.maps import seen_box
from tests.evals.parts import COLOURS, Pictures

TEXT = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
TIMM = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "map", "timm_proj": "none", "image_size": 224}
CONFIGS = {
    "tiny-clip": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT},
    "tiny-quick": {"embed_dim": 16, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT},
    "tiny-resnet": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        "text_cfg": TEXT,
    },
    "tiny-sigmoid": {
        "embed_dim": 192,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": TIMM,
        "text_cfg": {**TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True},
    },
    "tiny-coca": {
        "embed_dim": 16,
        "custom_text": True,
        "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**TEXT, "context_length": 19, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**TEXT, "attn_pooler_heads": 2},
    },
}
TEMPLATES = ("a photo of a {}.", "{}", "the {} thing, drawn by hand")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Each architecture known to open_clip by name, with a file of random weights and a folder as it saves them."""
    root = tmp_path_factory.mktemp("open_clip")
    torch.manual_seed(0)
    for name, config in CONFIGS.items():
        (root / name).mkdir()
        (root / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(root / f"{name}.json")
        state = open_clip.create_model(name).state_dict()
        grown = {k: 3 * v if v.ndim > 1 and v.is_floating_point() else v for k, v in state.items()}
        state = grown if name != "tiny-sigmoid" else state  # larger, so that embeddings differ between inputs
        torch.save(
            {"epoch": 3, "name": "x", "state_dict": {f"module.{k}": v for k, v in state.items()}}, root / f"{name}.pt"
        )
        torch.save(state, root / name / "open_clip_pytorch_model.bin")
        look = {"mean": [0.5] * 3, "std": [0.25] * 3, "resize_mode": "squash"}
        (root / name / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": look}))
    return root


class Wide(Pictures):
    """Pictures with a pattern, so that the crop matters."""

    def __getitem__(self, i):
        record = super().__getitem__(i)
        g = torch.Generator().manual_seed(i)
        blocks = torch.randint(0, 256, (5, 6, 3), generator=g, dtype=torch.uint8)
        picture = Image.fromarray(blocks.numpy()).resize((48 + i % 5, 40), Image.Resampling.NEAREST)
        return Record(**{**vars(record), "image": picture})


def own_classifier(name, form, source):
    """What open_clip itself makes of it: bank (E, C), class numbers, best first."""
    clip, _, preprocess = open_clip.create_model_and_transforms(*form)
    clip.eval()
    bank = open_clip.build_zero_shot_classifier(clip, open_clip.get_tokenizer(form[0]), list(COLOURS), list(TEMPLATES))
    with torch.no_grad():
        pixels = torch.stack([preprocess(source[i].image) for i in range(len(source))])
        logits = 100 * clip.encode_image(pixels, normalize=True) @ bank
    return bank, logits.argsort(dim=1, descending=True, stable=True)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_predictions_equal_those_of_open_clip(folder, name, kind):
    source = Wide(14)
    spec = f"{name}@{folder}/{name}.pt" if kind == "file" else f"{folder}/{name}"
    form = (name, f"{folder}/{name}.pt") if kind == "file" else (f"local-dir:{folder}/{name}",)
    state = torch.random.get_rng_state()
    model = mmkit.load(f"open_clip:{spec}")
    assert torch.equal(state, torch.random.get_rng_state())
    result = ZeroShot(source=source, templates=TEMPLATES, batch_size=5).evaluate(model)
    bank, order = own_classifier(name, form, source)
    assert torch.equal(result.top, order[:, :5])
    assert len(result.top[:, 0].unique()) > 1  # not one class for all
    torch.testing.assert_close(class_bank(model, COLOURS, TEMPLATES), bank.T, atol=1e-5, rtol=0)
    assert 0 < model.model.temperature().item() < 1


def test_a_text_tower_of_transformers(tmp_path, monkeypatch):
    """XLM-R and BERT towers bring a tokenizer of their own, which lies in the folder; the config is in the cache."""
    from transformers import BertConfig, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "the", "thing", *COLOURS]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    ).save_pretrained(tmp_path / "bert")  # fmt: skip
    monkeypatch.setattr("mmkit.hub.open_clip.config.cached", lambda name, files: tmp_path / "bert/config.json")
    text = {"hf_model_name": str(tmp_path / "bert"), "hf_tokenizer_name": "bert", "context_length": 12}
    config = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": {**text, "hf_proj_type": "mlp"}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    custom = open_clip.model.CustomTextCLIP(
        **{**config, "text_cfg": {**config["text_cfg"], "hf_model_pretrained": False}}
    )
    torch.save(custom.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(UserError, match=r"hf_model_name .* is no name of the hub, which are OWNER/NAME"):
        mmkit.load(f"open_clip:{tmp_path}")
    file = tmp_path / "open_clip_config.json"
    theirs = file.read_text()
    file.write_text(theirs.replace(str(tmp_path / "bert"), "lab/bert"))
    model, source = mmkit.load(f"open_clip:{tmp_path}"), Wide(8)
    file.write_text(theirs)
    result = ZeroShot(source=source, templates=TEMPLATES, batch_size=3).evaluate(model)
    bank, order = own_classifier("", (f"local-dir:{tmp_path}",), source)
    torch.testing.assert_close(class_bank(model, COLOURS, TEMPLATES), bank.T, atol=1e-5, rtol=0)
    assert torch.equal(result.top, order[:, :5])
    assert model.model.spec.vocab_size == len(words)
    file.write_text(theirs.replace(str(tmp_path / "bert"), "lab/bert"))
    config = json.loads((tmp_path / "bert/config.json").read_text())
    (tmp_path / "bert/config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Evil"}}))
    with pytest.raises(UserError, match="lab/bert needs code from the hub, which mmkit does not run"):
        mmkit.load(f"open_clip:{tmp_path}")
    monkeypatch.setattr("mmkit.hub.open_clip.config.cached", lambda name, files: None)
    with pytest.raises(UserError, match=r"fetch it once by `hf download lab/bert config\.json`"):
        mmkit.load(f"open_clip:{tmp_path}")


def test_it_serves_retrieval_and_says_that_it_cannot_re_rank(folder):
    model = mmkit.load(f"open_clip:{folder}/tiny-clip")
    assert Retrieval(source=Pictures(9))(model)["images"] == 9
    for evaluator in (Retrieval(source=Pictures(9), rerank_top=2), ZeroShot(source=Pictures(9), rerank_top=2)):
        with pytest.raises(UserError, match=r"cannot match or re-rank.*never read each other"):
            evaluator(model)
    with pytest.raises(UserError, match="does not fuse"):
        model.model.fuse(None, [])
    assert model.tokenizer.decode(model.tokenizer.encode("a red box", 20)) == "a red box"


@pytest.mark.parametrize("look", [
    {}, {"resize_mode": "squash", "interpolation": "bilinear"}, {"resize_mode": "longest", "fill_color": 99},
    {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.4, 0.3]},
])  # fmt: skip
def test_pictures_are_read_with_the_pixels_of_open_clip_and_what_was_cut_is_known(look, folder, tmp_path):
    shutil.copytree(folder / "tiny-clip", tmp_path / "model")
    config = json.loads((tmp_path / "model/open_clip_config.json").read_text())
    (tmp_path / "model/open_clip_config.json").write_text(json.dumps(config | {"preprocess_cfg": look}))
    transform = mmkit.load(f"open_clip:{tmp_path / 'model'}").transform
    theirs = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'model'}")[1]
    for i in range(5):
        picture = Wide(5)[i].image
        torch.testing.assert_close(transform(picture), theirs(picture), atol=1e-4, rtol=0)
    seen = {"shortest": (25, 0, 75, 50), "squash": None, "longest": (0, -25, 100, 75)}
    assert seen_box(transform, Image.new("RGB", (100, 50))) == seen[look.get("resize_mode", "shortest")]
    assert transform(Image.new("RGB", (30_000, 1))).shape == (3, 32, 32)  # whole, its longer side would be 960,000


def test_another_image_size(folder):
    model = mmkit.load(f"open_clip:{folder}/tiny-clip", image_size=64)
    assert model.transform(Image.new("RGB", (90, 70))).shape == (3, 64, 64)
    assert model.encode_image([Image.new("RGB", (90, 70))]).shape == (1, 16)


@pytest.fixture
def tags(monkeypatch):
    """Tags of tiny-clip, as open_clip lists them."""
    known = {
        "plain": {"url": "", "hf_hub": "lab/tiny/", "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)},
        "quick": {"url": "https://example.org/tiny.pt", "hf_hub": "", "quick_gelu": True, "mean": None},
    }
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-clip", known)
    return known


def test_a_tag_says_how_the_weights_were_trained(folder, tags, caplog):
    plain = mmkit.load(f"open_clip:tiny-clip/plain@{folder}/tiny-clip.pt")
    quick = mmkit.load(f"open_clip:tiny-clip/quick@{folder}/tiny-clip.pt")
    assert plain.transform.mean == (0.1, 0.2, 0.3)
    assert quick.transform.mean == open_clip.OPENAI_DATASET_MEAN
    assert not torch.allclose(plain.encode_text(["a dog"]), quick.encode_text(["a dog"]))
    with caplog.at_level(logging.WARNING, "mmkit.hub.open_clip.name"):
        logging.getLogger("mmkit").propagate = True
        mmkit.load(f"open_clip:tiny-clip@{folder}/tiny-clip.pt")
    assert "If it is one of plain, quick, write open_clip:tiny-clip/TAG@" in caplog.text


def test_without_a_network_it_says_what_to_fetch(folder, tags, monkeypatch):
    def offline(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    message = (
        "fetch https://huggingface.co/lab/tiny/resolve/main/open_clip_model.safetensors, put it where you like, and "
        "write open_clip:tiny-clip/plain@PATH/open_clip_model.safetensors"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        mmkit.load("open_clip:tiny-clip/plain")
    with pytest.raises(UserError, match=r"fetch https://example.org/tiny.pt.*open_clip:tiny-clip/quick@PATH/tiny.pt"):
        mmkit.load("open_clip:tiny-clip/quick")
    monkeypatch.setattr(open_clip, "create_model", offline)
    with pytest.raises(UserError, match=r"hf download OWNER/NAME --local-dir FOLDER.*open_clip:FOLDER"):
        mmkit.load("open_clip:hf-hub:lab/tiny")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("open_clip:tiny-clipp/plain", "no architecture 'tiny-clipp'; nearest: tiny-clip"),
        ("open_clip:tiny-clip/nope", "no weights 'nope' for tiny-clip in open_clip; it has plain, quick"),
        ("open_clip:ViT-B/32", "which weights.*open_clip:ViT-B-32/TAG with one of: .*laion2b_s34b_b79k"),
        ("open_clip:tiny-clip@none.pt", "none.pt: no such file"),
        ("open_clip:./none", "none: no such folder"),
        ("open_clip:tiny-clip.pt", "tiny-clip.pt: is a file. An open_clip model is one of"),
        ("open_clip:empty", "empty: holds no open_clip_config.json"),
        ("open_clip:tiny-quick@tiny-sigmoid.pt", "cannot be loaded .*Are these weights of that architecture"),
        ("open_clip:tiny-clip/plain@code.pt", "code.pt: refused, this pickle holds more than tensors"),
        ("open_clip:noweights", r"open_clip:noweights: the folder holds no weights \(\*\.safetensors"),
        ("tiny-clip", "tiny-clip: a model of open_clip; write open_clip:tiny-clip"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_is_named(folder, tags, monkeypatch, spec, message):
    monkeypatch.chdir(folder)
    for name in ("empty", "noweights"):
        (folder / name).mkdir(exist_ok=True)
    config = (folder / "tiny-clip" / "open_clip_config.json").read_text()
    (folder / "noweights" / "open_clip_config.json").write_text(config)
    torch.save({"state_dict": Wide(1)}, folder / "code.pt")
    with pytest.raises(UserError, match=message):
        mmkit.load(spec)
