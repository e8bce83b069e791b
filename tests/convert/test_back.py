"""``mmkit convert --reverse`` of every kind of model in every layout: a file, or a message that names what lacks."""

from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmkit.cli.main import main
from mmkit.config import dump
from mmkit.convert.layouts.known import LAYOUTS
from mmkit.data.images.transforms import EvalTransform
from mmkit.heads.answers.classifier import AnswerClassifier
from mmkit.heads.answers.decoder import AnswerDecoder
from mmkit.heads.classify import Classify
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.heads.sigmoid import Sigmoid
from mmkit.hub import folder as hub
from mmkit.inference.predictor import Predictor
from tests.evals.parts import tokenizer
from tests.sizes import albef_tiny, dual_tiny, lit_tiny, siglip_tiny, vilt_tiny

ITM_MLM = {"itm": partial(ITM), "mlm": partial(MLM)}
POOLED = {"itm": partial(ITM, negatives="random", pooler=True)}
DECODER = partial(AnswerDecoder, depth=1, heads=2, mlp_width=64, max_tokens=8)
# A kind of model: its size, its heads, and the layouts that it can be written in.
KINDS = {
    "albef": (albef_tiny, {"itc": partial(ITC, queue_size=8), **ITM_MLM}, {"albef", "albef-retrieval", "bert", "vit"}),
    "albef, retrieval": (albef_tiny, {"itm": partial(ITM)}, {"albef-retrieval", "bert", "vit"}),
    "albef, its own words": (
        albef_tiny, {"itm": partial(ITM), "mlm": partial(MLM, tied=False)}, {"albef-retrieval", "vit"}
    ),
    "albef, decoder": (albef_tiny, {"answer": DECODER}, {"albef-vqa", "bert", "vit"}),
    "albef, classifier": (
        albef_tiny, {"answer": partial(AnswerClassifier, answers=("yes", "no"))}, {"bert", "vit"}
    ),
    "albef, labels": (albef_tiny, {"label": partial(Classify, classes=3)}, {"albef-ve", "bert", "vit"}),
    "albef, bare": (albef_tiny, {}, {"bert", "vit"}),
    "vilt": (
        vilt_tiny, {**POOLED, "mlm": partial(MLM, tied=False)}, {"vilt", "vilt-transformers", "vit"}
    ),
    "vilt, tied": (vilt_tiny, {**POOLED, "mlm": partial(MLM)}, {"vilt", "vilt-transformers", "vit"}),
    "vilt, no pooler": (
        vilt_tiny, {"itm": partial(ITM, negatives="random"), "mlm": partial(MLM)}, {"vilt", "vilt-transformers", "vit"}
    ),
    "vilt, answers": (
        vilt_tiny, {"answer": partial(AnswerClassifier, answers=("yes", "no"), pooler=True)},
        {"vilt", "vilt-transformers", "vit"},
    ),
    "vilt, answers, no pooler": (vilt_tiny, {"answer": partial(AnswerClassifier, answers=("yes", "no"))}, {"vit"}),
    "clip": (dual_tiny, {"itc": partial(ITC, queue_size=0)}, {"clip", "clip-transformers"}),
    "siglip": (siglip_tiny, {"sigmoid": partial(Sigmoid)}, {"siglip", "siglip-transformers"}),
    "siglip, no bias": (siglip_tiny, {"itc": partial(ITC, queue_size=0)}, set()),
    "lit": (lit_tiny, {"itc": partial(ITC, queue_size=0)}, {"bert", "vit"}),
}  # fmt: skip
WRITTEN = [layout for layout in LAYOUTS if layout.back]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root, words = tmp_path_factory.mktemp("kinds"), tokenizer()
    for name, (size, heads, _) in KINDS.items():
        make = partial(size, max_tokens=16)
        model = make(vocab_size=words.vocab_size)
        predictor = Predictor(
            model, {head: part(model.spec) for head, part in heads.items()}, words, EvalTransform(size=32), 9
        )
        parts = {"model": dump(make), "heads": {head: dump(part) for head, part in heads.items()}}
        hub.save(root / name, predictor, {"name": name, "args": parts})
    return root


@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_fits_or_says_what_lacks(kind, folders, tmp_path, capsys):
    fits = KINDS[kind][2]
    assert len(WRITTEN) == 12
    for layout in WRITTEN:
        out = tmp_path / f"{layout.name}.safetensors"
        code = main(["convert", layout.name, str(folders / kind), str(out), "--reverse"])
        said = " ".join(capsys.readouterr().err.split())
        assert (code, layout.name) == (0 if layout.name in fits else 2, layout.name), said
        assert out.exists() == (code == 0)
        if code:
            assert f"error: {folders / kind}: cannot be written as {layout.name} ({layout.what}): " in said
            listed = ", ".join(other.name for other in WRITTEN if other.name in fits)
            would = f"it can be written as {listed}" if listed else "no layout that mmkit writes fits it"
            assert said.endswith(would)


def says(capsys, *arguments):
    assert main(["convert", *map(str, arguments), "--reverse"]) == 2
    return " ".join(capsys.readouterr().err.split())


def test_the_head_that_lacks_is_named(folders, tmp_path, capsys):
    out = tmp_path / "x.pth"
    assert "it has not the head answer (missing heads.answer.decoder." in says(
        capsys, "albef-vqa", folders / "albef", out
    )
    assert "it has not the head label (missing" in says(capsys, "albef-ve", folders / "albef", out)
    assert "the head itm, the head mlm (missing" in says(capsys, "albef", folders / "albef, labels", out)
    assert "the head answer as it is there" in says(capsys, "albef-vqa", folders / "albef, classifier", out)
    assert "heads.mlm.words has no place there" in says(capsys, "albef", folders / "albef, its own words", out)
    assert "the head sigmoid" in says(capsys, "siglip", folders / "siglip, no bias", out)


def test_what_is_left_out_is_said(folders, tmp_path, capsys):
    for kind, layout, left in (
        ("albef", "albef-retrieval", "no such parts: heads.mlm (5 tensors)"),
        ("albef", "bert", "left out: the cross-attention, which a BERT has not (8 tensors)"),
        ("vilt, no pooler", "vilt", "no such parts: heads.itm (2 tensors)"),
    ):
        assert main(["convert", layout, str(folders / kind), str(tmp_path / f"{layout}.pth"), "--reverse"]) == 0
        assert left in " ".join(capsys.readouterr().err.split())


def test_a_layout_of_ones_own_that_asks_for_what_lacks(folders, tmp_path, capsys):
    (tmp_path / "own.py").write_text(
        "from mmkit.convert.layouts.known import Layout\n"
        "MINE = Layout(name='mine', what='mine', fits=lambda s: True, use='', back=lambda ours: [ours['heads.x.y']])\n"
    )
    said = says(capsys, f"{tmp_path}/own.py:MINE", folders / "albef", tmp_path / "x.pth")
    assert "cannot be written as mine (mine): it has no 'heads.x.y'; it can be written as albef," in said


def test_places_and_options_are_checked_first(folders, tmp_path, capsys):
    model, out = folders / "albef", tmp_path / "x.pth"
    (tmp_path / "file").write_text("")
    (tmp_path / "bare").mkdir()
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert "no such folder; with --reverse IN is" in says(capsys, "albef", tmp_path / "nowhere", out)
    assert "file: is a file; with --reverse IN is" in says(capsys, "albef", tmp_path / "file", out)
    assert "bare: holds no model.safetensors" in says(capsys, "albef", tmp_path / "bare", out)
    assert "not of a model of mmkit" in says(capsys, "albef", tmp_path, folders / "x.pth")
    assert "exists already" in says(capsys, "albef", model, tmp_path / "file")
    assert "is a folder" in says(capsys, "albef", model, tmp_path / "bare")
    assert "file is a file" in says(capsys, "albef", model, tmp_path / "file/x.pth")
    assert "lies inside" in says(capsys, "albef", model, model / "x.pth")
    said = says(capsys, "albef", model, out, "--image-heads", 2, "--activation", "gelu", "--answers", tmp_path / "file")
    assert "--image-heads, --activation, --answers: of no use with --reverse" in said
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    (tmp_path / "copy/conversion.json").write_text("{")
    assert "conversion.json: damaged" in says(capsys, "albef", tmp_path / "copy", out)
    assert not out.exists()


def test_what_is_written_holds_the_numbers(folders, tmp_path):
    assert main(["convert", "vit", str(folders / "albef"), str(tmp_path / "x.safetensors"), "--reverse"]) == 0
    ours, theirs = load_file(folders / "albef/model.safetensors"), load_file(tmp_path / "x.safetensors")
    assert torch.equal(theirs["norm.weight"], ours["model.image.norm.weight"])
