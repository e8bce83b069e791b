"""Graphs that run without mmkit equal the model, for each family, at batches and lengths of their own."""

import json
from functools import partial

import numpy as np
import onnxruntime
import pytest
import torch

from mmkit.data.images.variable_size import KeepShape
from mmkit.encoders.open_clip import OpenClip
from mmkit.errors import UserError
from mmkit.inference.export import export
from tests.evals.parts import Pictures, predictor
from tests.sizes import dual_tiny, siglip_tiny, vilt_tiny


def run(folder, name, **inputs):
    session = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"))
    return torch.from_numpy(session.run(None, {key: np.asarray(value) for key, value in inputs.items()})[0])


@pytest.mark.slow
def test_an_albef_from_its_files_alone(tmp_path):
    """As somebody would use it: pictures and texts prepared as ``export.json`` tells."""
    model = predictor(3)
    graphs = export(model, tmp_path)
    facts = json.loads((tmp_path / "export.json").read_text())
    assert facts["graphs"].keys() == graphs.keys() == {"image", "text", "match"}
    assert all(graph.difference < 1e-5 for graph in graphs.values())
    assert facts["graphs"]["match"]["inputs"]["pixels"] == {"shape": ["batch", 3, 32, 32], "dtype": "float32"}
    assert facts["preprocessing"]["args"]["size"] == 32
    pictures = [Pictures(4)[i].image for i in range(4)]
    texts = ["a red square", "a blue box", "a green tile", "a pink square box tile"]
    pixels = torch.stack([model.transform(picture) for picture in pictures])
    rows = [model.tokenizer.encode(text, facts["max_tokens"]) for text in texts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [facts["pad_id"]] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], dtype=torch.bool)
    assert not mask.all()
    torch.testing.assert_close(run(tmp_path, "image", pixels=pixels), model.encode_image(pictures), atol=1e-5, rtol=0)
    torch.testing.assert_close(run(tmp_path, "text", ids=ids, mask=mask), model.encode_text(texts), atol=1e-5, rtol=0)
    found = run(tmp_path, "match", pixels=pixels, ids=ids, mask=mask)
    torch.testing.assert_close(found, model.match(pictures, texts), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("build", "heads", "parts"),
    [
        (partial(dual_tiny, image_depth=1, text_depth=1), ("itc",), {"image", "text"}),
        (partial(siglip_tiny, image_depth=1, text_depth=1), (), {"image", "text"}),
        (partial(vilt_tiny, depth=1), ("mixed",), {"match"}),
    ],
)
def test_the_family(build, heads, parts, tmp_path):
    model = predictor(1, heads=heads, model=build)
    if "match" in parts:
        model.transform = KeepShape(size=32, multiple=8)
    graphs = export(model, tmp_path)
    assert graphs.keys() == parts
    assert all(graph.difference < 1e-5 for graph in graphs.values())


def test_what_cannot_be_exported(tmp_path, monkeypatch):
    theirs = predictor()
    theirs.model = OpenClip(torch.nn.Linear(1, 1), 8, 60)
    with pytest.raises(UserError, match="mmkit convert"):
        export(theirs, tmp_path)
    with pytest.raises(UserError, match="nothing to export"):
        export(predictor(heads=(), model=vilt_tiny), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; name a new folder"):
        export(predictor(), tmp_path / "file")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"onnx is not installed.*mmkit\[export\]"):
        export(predictor(), tmp_path / "new")


def test_a_graph_that_differs_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mmkit.inference.export.TOLERANCE", 0.0)
    with pytest.raises(UserError, match=r"image\.onnx: the graph differs"):
        export(predictor(), tmp_path)
