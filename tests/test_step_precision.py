"""Under bf16 no product of the student's or the teacher's towers runs in float32, whichever head comes first."""

from contextlib import contextmanager
from functools import partial
from itertools import permutations

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mmkit.features import Features
from mmkit.heads.answers.classifier import AnswerClassifier
from mmkit.heads.answers.decoder import AnswerDecoder
from mmkit.heads.classify import Classify
from mmkit.heads.pairs import mixed
from mmkit.nn import attention
from mmkit.task import Task
from projects.nlvr2.head import PairClassify, TextAssignment
from projects.nlvr2.model import pair_albef
from tests.examples import HEADS, VOCAB, batch, task
from tests.sizes import albef_tiny, dual_tiny, siglip_tiny, vilt_tiny
from tests.test_accumulation import answers

PRODUCTS = {
    torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm, torch.Tensor.bmm, torch.mm, torch.Tensor.mm,
    torch.einsum, torch.addmm, torch.baddbmm, nn.functional.scaled_dot_product_attention, nn.functional.linear,
}  # fmt: skip
LAYERS = {nn.functional.linear, nn.functional.scaled_dot_product_attention}


class Watch(TorchFunctionMode):
    """Notes the products that run in float32: any outside a float32 island, and a layer's or attention's anywhere."""

    def __init__(self, device):
        super().__init__()
        self.device = device.type
        self.seen, self.wrong, self.inside = 0, [], 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function in PRODUCTS:
            self.seen += 1
            island = not torch.is_autocast_enabled(self.device) and not self.inside and function not in LAYERS
            if out.dtype != torch.bfloat16 and not island:
                self.wrong.append((function.__name__, tuple(out.shape)))
        return out


@contextmanager
def watched(t, device):
    """Every linear layer, the attention, and every product besides."""
    watch, handles, seen = Watch(device), [], set()

    def note(module, _, out, name):
        seen.add(name)
        if out.dtype != torch.bfloat16:
            watch.wrong.append(name)

    for name, module in t.named_modules():
        if isinstance(module, nn.Linear):
            handles.append(module.register_forward_hook(partial(note, name=name)))

    def attend(q, k, v, mask, own=attention.attend, **options):
        watch.inside += 1
        out = own(q, k, v, mask, **options)
        watch.inside -= 1
        if {q.dtype, k.dtype, v.dtype, out.dtype} != {torch.bfloat16}:
            watch.wrong.append("attention")
        return out

    with pytest.MonkeyPatch.context() as patch, watch:
        patch.setattr(attention, "attend", attend)
        yield watch, seen
    for handle in handles:
        handle.remove()


def step(t: Task, b, device) -> tuple[Watch, set[str]]:
    t.to(device)
    with watched(t, device) as (watch, seen), torch.autocast(device.type, torch.bfloat16):
        t(b.to(device), 0).loss.backward()
    assert watch.seen > 10
    return watch, seen


@pytest.mark.parametrize("teacher", [0.9, None])
@pytest.mark.parametrize("name", HEADS)
def test_each_head_alone(name, teacher, device):
    watch, seen = step(task([name], momentum=teacher), batch(4), device)
    assert not watch.wrong
    reads = {"image"} if name in ("image", "caption", "caption_prefix") else {"image", "text"}
    assert {part.split(".")[1] for part in seen if part.startswith("model.")} >= reads
    if teacher and name in ("itc", "mlm", "itm"):
        assert any(part.startswith("ema.") for part in seen)


@pytest.mark.parametrize("names", list(permutations(["itc", "itm", "mlm", "sigmoid"])), ids="-".join)
def test_all_orders_of_heads(names, device):
    watch, seen = step(task(names), batch(4), device)
    assert not watch.wrong
    assert {"model.text.blocks.0.mlp.fc1", "ema.copies.model.text.blocks.0.mlp.fc1"} <= seen


@pytest.mark.parametrize(("model", "heads"), [
    (vilt_tiny, ["itm_mixed", "mlm_untied", "wpa"]), (vilt_tiny, ["wpa", "itm_mixed"]), (dual_tiny, ["itc"]),
    (siglip_tiny, ["sigmoid"]),
])  # fmt: skip
def test_other_models(model, heads, device):
    assert not step(task(heads, model=model, momentum=None), batch(4), device)[0].wrong


@pytest.mark.parametrize("kind", ["classes", "scores", "decoder"])
def test_heads_that_answer(kind, device):
    make = {
        "classes": lambda spec: Classify(spec, 3), "scores": lambda spec: AnswerClassifier(spec, ["a dog", "b", "c"]),
        "decoder": lambda spec: AnswerDecoder(spec, depth=2, heads=2),
    }[kind]  # fmt: skip
    torch.manual_seed(0)
    model = albef_tiny(VOCAB)
    b = batch(6)
    b = type(b)(**{**vars(b), "targets": answers(kind == "scores") | {"label": torch.tensor([0, 1, 2, 0, 1, 2])}})
    assert not step(Task(model, {"answer": make(model.spec)}, momentum=0.9), b, device)[0].wrong


@pytest.mark.parametrize("head", [PairClassify, TextAssignment])
def test_heads_of_the_pairs_of_pictures(head, device):
    torch.manual_seed(0)
    model = pair_albef(
        VOCAB, image_size=32, max_tokens=16, patch=8, image_depth=2, image_width=32, image_heads=4, text_depth=1,
        fusion_pairs=1, text_width=32, text_heads=4, embed_dim=8,
    )  # fmt: skip
    b = batch(4)
    b = type(b)(**{**vars(b), "targets": {"label": torch.tensor([0, 1, 1, 0]), "second": b.pixels.flip(0)}})
    assert not step(Task(model, {"pairs": head(model.spec)}, momentum=0.9), b, device)[0].wrong


@pytest.mark.parametrize("view", [
    "image", "text", "image_embed", "text_embed", "context", "fused", "fused_first", "masked",
    "mixed",
])  # fmt: skip
def test_a_view_first_asked_for_in_a_float32_island_is_made_as_anywhere(view, device):
    t, four = task(["itm"]).eval().to(device), batch(4).to(device)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        outside, inside = (Features(t.model, four) for _ in range(2))
        expected = view_of(outside, view)
        with torch.autocast(device.type, enabled=False):
            got = view_of(inside, view)
            rows = torch.tensor([1, 0, 3, 2], device=device)
            fused = inside.fuse([(rows, None), (None, rows)]).text.x
        torch.testing.assert_close(fused, outside.fuse([(rows, None), (None, rows)]).text.x, rtol=0, atol=0)
    for a, b in zip(tensors(expected), tensors(got), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    with torch.no_grad():
        exact = Features(t.model, four)
        assert not all(torch.equal(a, b) for a, b in zip(tensors(expected), tensors(view_of(exact, view)), strict=True))


def view_of(f: Features, view: str):
    return mixed(f) if view == "mixed" else getattr(f, view)


def tensors(value) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, tuple):
        return [x for part in value for x in tensors(part)]
    return tensors(tuple(vars(value).values())) if hasattr(value, "__dict__") else []
