"""``mmkit convert`` of the relatives, from picture and words to numbers, against what they were published with."""

import json
import re
from functools import partial

import numpy as np
import open_clip
import pytest
import torch
import transformers
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import mmkit
from mmkit.cli.main import main
from mmkit.convert.read_file import read_checkpoint
from mmkit.convert.tables import vilt as vilt_table
from mmkit.convert.tables.table import read, write
from tests.models import family
from tests.parity.measure import assert_near
from tests.parity.measure import assert_same_state as assert_same

OUTPUT = 1e-5
TEXTS = ["A photo of a dog, isn't it?", "two_cats", "x", "a very long caption about many things and more of them still"]
CLIP_WORDS = 49_408


close = partial(assert_near, bound=OUTPUT)


def pictures():
    rng = np.random.default_rng(0)
    shapes = [(40, 60), (64, 33), (32, 32), (100, 35)]
    return [Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).resize(shape) for shape in shapes]


def random_weights(model, std=0.15):
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "logit" not in name:
            torch.nn.init.normal_(parameter, std=std)
    return model.eval()


def convert(*arguments):
    assert main(["convert", *map(str, arguments)]) == 0


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A tokenizer of SigLIP's kind, and one of BERT's, each in a folder of its own."""
    root = tmp_path_factory.mktemp("words")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{a}", -2.0) for a in "abcdefghijklmnopqrstuvwxyz")]
    pieces += [(a, -3.0) for a in "▁abcdefghijklmnopqrstuvwxyz'.,?"] + [("▁dog", -1.0), ("an", -1.0), ("▁photo", -1.0)]
    unigram = Tokenizer(models.Unigram(pieces, unk_id=2))
    unigram.normalizer = normalizers.NFKC()
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=unigram, eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    )
    wrapped.save_pretrained(root / "siglip")
    bert = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz.,?'_", "photo", "dog"]
    bert += [f"##{a}" for a in "abcdefghijklmnopqrstuvwxyz"]
    (root / "bert").mkdir()
    (root / "bert/vocab.txt").write_text("\n".join(bert))
    (root / "bert/tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    return {"siglip": (root / "siglip", len(pieces)), "bert": (root / "bert", len(bert))}


@pytest.mark.parity("CLIP, pictures and texts", "open_clip")
@pytest.mark.parametrize("quick", [False, True])
@torch.no_grad()
def test_clip_of_open_clip(quick, tmp_path):
    config = json.loads(json.dumps(family.CONFIGS["clip"] | {"quick_gelu": quick}))
    config["text_cfg"]["vocab_size"] = CLIP_WORDS
    model = random_weights(open_clip.model.CLIP(**config))
    preprocess = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "size": 32, "resize_mode": "shortest"}
    source = tmp_path / "theirs"
    source.mkdir()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(state, source / "open_clip_model.safetensors")
    (source / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    assert main(["info", str(source), "--json", str(tmp_path / "info.json")]) == 0
    info = json.loads((tmp_path / "info.json").read_text())
    assert info["layout"] == "clip"
    assert info["use"] == f"mmkit convert clip {source} OUT"
    convert("auto", source, tmp_path / "ours")
    assert main(["info", str(tmp_path / "ours"), "--json", str(tmp_path / "info.json")]) == 0
    assert json.loads((tmp_path / "info.json").read_text())["model"] == "mmkit.models.sizes.dual:clip"
    predictor = mmkit.load(tmp_path / "ours")
    ids = open_clip.SimpleTokenizer()(TEXTS, context_length=family.LENGTH)
    close(predictor.encode_text(TEXTS), model.encode_text(ids, normalize=True))
    transform = image_transform_v2(PreprocessCfg(**preprocess), is_train=False)
    pixels = torch.stack([transform(picture) for picture in pictures()])
    close(predictor.encode_image(pictures()), model.encode_image(pixels, normalize=True))
    convert("clip", tmp_path / "ours", tmp_path / "back.safetensors", "--reverse")
    assert_same(load_file(tmp_path / "back.safetensors"), state)


@pytest.mark.parity("CLIP, float16 as OpenAI's", "the file")
def test_openai_files_come_back_with_their_own_numbers_and_precision(tmp_path, capsys):
    config = json.loads(json.dumps(family.CONFIGS["clip"]))
    config["text_cfg"]["vocab_size"] = CLIP_WORDS
    state = {name: value.half() for name, value in random_weights(open_clip.model.CLIP(**config)).state_dict().items()}
    state["logit_scale"] = state["logit_scale"].float()
    sizes = {"input_resolution": 32, "context_length": family.LENGTH, "vocab_size": CLIP_WORDS}
    state |= {name: torch.tensor(value) for name, value in sizes.items()}
    torch.save(state, tmp_path / "clip.pt")
    assert main(["convert", "clip", str(tmp_path / "clip.pt"), str(tmp_path / "ours")]) == 2
    assert "--activation" in capsys.readouterr().err
    heads = ["--activation", "quick_gelu", "--image-heads", 4, "--text-heads", 2]
    convert("clip", tmp_path / "clip.pt", tmp_path / "ours", *heads)
    assert mmkit.load(tmp_path / "ours").model.image.blocks[0].mlp.act.__class__.__name__ == "QuickGELU"
    convert("clip", tmp_path / "ours", tmp_path / "back.pt", "--reverse")
    assert_same(torch.load(tmp_path / "back.pt", weights_only=True), state)
    convert("clip-transformers", tmp_path / "ours", tmp_path / "other.safetensors", "--reverse")
    assert {"text_model.encoder.layers.0.mlp.fc1.weight"} <= load_file(tmp_path / "other.safetensors").keys()
    assert main(["convert", "siglip", str(tmp_path / "ours"), str(tmp_path / "no.safetensors"), "--reverse"]) == 2


def tower(**more):
    return {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 72, **more}


@pytest.mark.parity("CLIP, pictures and texts", "transformers")
@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@torch.no_grad()
def test_clip_of_transformers(act, tmp_path):
    text = tower(vocab_size=CLIP_WORDS, max_position_embeddings=12, eos_token_id=CLIP_WORDS - 1, hidden_act=act)
    vision = tower(image_size=32, patch_size=8, hidden_act=act)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    model = random_weights(transformers.CLIPModel(config))
    model.save_pretrained(tmp_path / "theirs")
    convert("auto", tmp_path / "theirs", tmp_path / "ours")
    predictor = mmkit.load(tmp_path / "ours")
    images = [picture.resize((64, 2 * (picture.height // 2))) for picture in pictures()]  # else it rounds otherwise
    process = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    ids = open_clip.SimpleTokenizer()(TEXTS, context_length=12)
    out = model(input_ids=ids, pixel_values=process(images, return_tensors="pt").pixel_values)
    close(predictor.encode_text(TEXTS), out.text_embeds)
    close(predictor.encode_image(images), out.image_embeds)
    convert("clip-transformers", tmp_path / "ours", tmp_path / "back.safetensors", "--reverse")
    assert_same(load_file(tmp_path / "back.safetensors"), load_file(tmp_path / "theirs/model.safetensors"))


def siglip_text(folder, texts, length):
    tokenizer = open_clip.tokenizer.HFTokenizer(str(folder), context_length=length, clean="canonicalize")
    return tokenizer(texts)


@pytest.mark.parity("SigLIP, pictures and texts", "open_clip")
@torch.no_grad()
def test_siglip_of_open_clip(words, tmp_path):
    folder, count = words["siglip"]
    model = family.theirs("siglip", count)
    source = tmp_path / "theirs"
    source.mkdir()
    save_file(
        {name: value.clone() for name, value in model.state_dict().items()}, source / "open_clip_model.safetensors"
    )
    (source / "open_clip_config.json").write_text(json.dumps({"model_cfg": family.CONFIGS["siglip"]}))
    convert("auto", source, tmp_path / "ours", "--tokenizer", folder, "--image-heads", 4)
    predictor = mmkit.load(tmp_path / "ours")
    close(predictor.encode_text(TEXTS), model.encode_text(siglip_text(folder, TEXTS, family.LENGTH), normalize=True))
    half = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "size": 32, "resize_mode": "squash"}
    transform = image_transform_v2(PreprocessCfg(**half), is_train=False)
    pixels = torch.stack([transform(picture) for picture in pictures()])
    close(predictor.encode_image(pictures()), model.encode_image(pixels, normalize=True))
    convert("siglip", tmp_path / "ours", tmp_path / "back.safetensors", "--reverse")
    assert_same(load_file(tmp_path / "back.safetensors"), model.state_dict())


@pytest.mark.parity("SigLIP, pictures and texts", "transformers")
@torch.no_grad()
def test_siglip_of_transformers(words, tmp_path):
    folder, count = words["siglip"]
    text, vision = tower(vocab_size=count, max_position_embeddings=12), tower(image_size=32, patch_size=8)
    model = random_weights(transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)))
    model.save_pretrained(tmp_path / "theirs")
    for file in folder.iterdir():  # the tokenizer lies beside the weights, as it is published
        (tmp_path / "theirs" / file.name).write_bytes(file.read_bytes())
    convert("auto", tmp_path / "theirs", tmp_path / "ours")
    predictor = mmkit.load(tmp_path / "ours")
    process = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32}, resample=3)
    pixels = process(pictures(), return_tensors="pt").pixel_values
    out = model(input_ids=siglip_text(folder, TEXTS, 12), pixel_values=pixels)
    close(predictor.encode_text(TEXTS), out.text_embeds)
    close(predictor.encode_image(pictures()), out.image_embeds)
    convert("siglip-transformers", tmp_path / "ours", tmp_path / "back.safetensors", "--reverse")
    assert_same(load_file(tmp_path / "back.safetensors"), load_file(tmp_path / "theirs/model.safetensors"))


@pytest.mark.parity("ViLT, pictures of any shape and texts", "transformers")
@pytest.mark.parametrize("layout", ["vilt", "vilt-transformers"])
@torch.no_grad()
def test_vilt_at_the_shapes_of_the_pictures(layout, words, tmp_path):
    folder, count = words["bert"]
    config = transformers.ViltConfig(
        vocab_size=count, image_size=32, patch_size=8, max_position_embeddings=12, max_image_length=-1,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, layer_norm_eps=1e-6, **tower(),
    )  # fmt: skip
    model = random_weights(transformers.ViltForImageAndTextRetrieval(config), std=0.4)
    model.save_pretrained(tmp_path / "theirs")
    source = tmp_path / "theirs"
    if layout == "vilt":
        ours = read(vilt_table.table(model.state_dict()), model.state_dict())
        source = tmp_path / "official.ckpt"
        rows = vilt_table.table_of_ours(ours, (8, 8), "official")
        torch.save({"state_dict": write(rows, ours), "epoch": 3}, source)
    convert("auto", source, tmp_path / "ours", "--tokenizer", folder, "--image-heads", 4)
    predictor = mmkit.load(tmp_path / "ours")
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(
        TEXTS, padding=True, truncation=True, max_length=12, return_tensors="pt"
    )
    process = transformers.ViltImageProcessorPil(size={"shortest_edge": 32}, size_divisor=8)
    batch = process(pictures(), return_tensors="pt")
    expected = model(**tokens, pixel_values=batch.pixel_values, pixel_mask=batch.pixel_mask).logits[:, 0]
    assert len({picture.size for picture in pictures()}) == 4
    assert expected.sigmoid().std() > 0.1
    close(predictor.match(pictures(), TEXTS), expected.sigmoid())
    convert(layout, tmp_path / "ours", tmp_path / "back.ckpt", "--reverse")
    back = torch.load(tmp_path / "back.ckpt", weights_only=True)
    if layout == "vilt":
        assert_same(back["state_dict"], torch.load(source, weights_only=True)["state_dict"])
    else:
        assert_same(back, load_file(source / "model.safetensors"))


def test_a_config_that_mmkit_does_not_know_is_an_error(tmp_path, capsys):
    config = json.loads(json.dumps(family.CONFIGS["clip"]))
    source = tmp_path / "theirs"
    source.mkdir()
    state = open_clip.model.CLIP(**config).state_dict()
    save_file({name: value.clone() for name, value in state.items()}, source / "open_clip_model.safetensors")
    config["text_cfg"]["pool_type"] = "last"
    (source / "open_clip_config.json").write_text(json.dumps(config))
    assert main(["convert", "clip", str(source), str(tmp_path / "ours")]) == 2
    assert "pool_type = 'last' is not known to mmkit, only argmax" in " ".join(capsys.readouterr().err.split())


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory):
    """The state and the config of a CLIP of transformers."""
    text = tower(vocab_size=CLIP_WORDS, max_position_embeddings=12, eos_token_id=CLIP_WORDS - 1)
    config = transformers.CLIPConfig(
        text_config=text, vision_config=tower(image_size=32, patch_size=8), projection_dim=24
    )
    folder = tmp_path_factory.mktemp("clip")
    random_weights(transformers.CLIPModel(config)).save_pretrained(folder)
    return load_file(folder / "model.safetensors"), (folder / "config.json").read_text()


PROJ, FIRST = "visual_projection.weight", "vision_model.encoder.layers.0.mlp.fc1.weight"
UNSOUND = {
    "a cut file": (lambda s: {k: v for k, v in s.items() if ".layers.1." not in k}, r"config says 2 layers .*have 1"),
    "no first layer": (lambda s: {k: v for k, v in s.items() if k != FIRST}, f"incomplete .KeyError: '{FIRST}'"),
    "no projection": (lambda s: {k: v for k, v in s.items() if k != PROJ}, f"incomplete .KeyError: '{PROJ}'"),
    "int8": (lambda s: s | {FIRST: s[FIRST].to(torch.int8)}, rf"{FIRST} holds torch\.int8, no plain weights"),
    "int32": (lambda s: s | {PROJ: s[PROJ].to(torch.int32)}, rf"{PROJ} holds torch\.int32, no plain weights"),
    "complex": (lambda s: s | {PROJ: s[PROJ].to(torch.complex64)}, rf"{PROJ} holds torch\.complex64, no plain"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSOUND)
def test_weights_that_are_not_whole_or_not_plain_are_refused(name, small_clip, tmp_path, capsys):
    state, config = small_clip
    (tmp_path / "in").mkdir()
    change, says = UNSOUND[name]
    (tmp_path / "in" / "config.json").write_text(config)
    torch.save(change(state), tmp_path / "in" / "pytorch_model.bin")
    assert main(["convert", "auto", str(tmp_path / "in"), str(tmp_path / "out")]) == 2
    assert re.search(says, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_safetensors_are_read_whatever_they_are_called(small_clip, tmp_path, capsys):
    state, config = small_clip
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "config.json").write_text(config)
    save_file(state, tmp_path / "in" / "pytorch_model.bin")
    convert("auto", tmp_path / "in", tmp_path / "out")
    assert_same(read_checkpoint(tmp_path / "in" / "pytorch_model.bin").state, state)
    (tmp_path / "in" / "pytorch_model.bin").write_bytes((tmp_path / "in" / "pytorch_model.bin").read_bytes()[:40])
    assert main(["convert", "auto", str(tmp_path / "in"), str(tmp_path / "other")]) == 2
    assert "damaged" in capsys.readouterr().err
