"""Reading the recorded tensors of the official ALBEF, and building our task from them.

The files lie in tests/oracles; the folder named by MMKIT_ORACLES is read too, so that more cases of the same form are
checked without a change here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from mmkit.convert import albef as official
from mmkit.convert.table import Entry, Row, read, write
from mmkit.features import Features
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.models.albef import ALBEF
from mmkit.models.sizes import albef
from mmkit.task import Task
from mmkit.types import Batch, MaskedText
from tests.parity.measure import assert_near

FOLDERS = [Path(__file__).parent.parent / "oracles", *(Path(p) for p in [os.environ.get("MMKIT_ORACLES")] if p)]
OUTPUT, GRADIENT = 5e-6, 5e-5


def files(name: str) -> list[Path]:
    """The files of every folder that match a pattern."""
    return [path for folder in FOLDERS for path in sorted(folder.glob(name))]


def cases(wanted) -> list[Path]:
    """The recorded files whose tensors' names satisfy ``wanted``."""
    found = []
    for path in files("*.safetensors"):
        with safe_open(path, "pt") as file:
            if wanted(set(file.keys())):
                found.append(path)
    return found


def load(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """The metadata and the tensors of a recorded file."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["meta"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix, without it."""
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def assert_close(
    ours: Tensor, theirs: Tensor, bound: float, name: str, what: str | None = None, largest: float = 0.0
) -> None:
    """The largest difference, relative to the largest value. what: its kind, for the table; largest: see there."""
    kind = "gradients" if bound >= GRADIENT else "loss" if name.startswith("loss") else "outputs"
    assert_near(ours, theirs, bound, name, what or kind, largest)


def state_of(tensors: dict[str, Tensor], prefix: str = "sd.") -> dict[str, Tensor]:
    """An official state without the buffers that hold no learned values."""
    return {key: value for key, value in under(tensors, prefix).items() if not key.endswith("position_ids")}


def model_of(meta: dict) -> ALBEF:
    """Our model of the recorded sizes."""
    vit, bert = meta["vit"], meta["bert"]
    return albef(
        bert["vocab_size"], image_size=vit["image"], max_tokens=bert["max_position_embeddings"], patch=vit["patch"],
        image_depth=vit["depth"], image_width=vit["width"], image_heads=vit["heads"],
        text_depth=bert["fusion_layer"], fusion_depth=bert["num_hidden_layers"] - bert["fusion_layer"],
        text_width=bert["hidden_size"], text_heads=bert["num_attention_heads"],
        text_mlp_width=bert["intermediate_size"], embed_dim=meta["cfg"]["embed_dim"], dropout=0.0,
    )  # fmt: skip


def build(meta: dict, alpha: float, draw) -> Task:
    """Our task of the recorded sizes, with the official choices where mmkit's default is another."""
    model = model_of(meta)
    heads = {
        "itc": ITC(model.spec, meta["cfg"]["queue_size"], positives="pair"),
        "itm": ITM(model.spec, avoid="pair", draw=draw),
        "mlm": MLM(model.spec),
    }
    return Task(model, heads, momentum=meta["cfg"]["momentum"], alpha=alpha)


def load_pretrain(task: Task, state: dict[str, Tensor]) -> None:
    """An official pre-training state into our task, every tensor of it."""
    ours = read(official.pretrain(state), state)
    task.load_state_dict(ours)
    task.constrain()
    task.train()


def batch_of(tensors: dict[str, Tensor], prefix: str = "in.") -> Batch:
    """The recorded inputs as a batch; positions are padded to the most that any row has."""
    x = under(tensors, prefix)
    size = len(x["image"])
    hidden = x["mlm_labels"] != -100
    most = int(hidden.sum(1).max())
    positions = hidden.int().sort(dim=1, descending=True, stable=True).indices[:, :most]
    real = torch.arange(most) < hidden.sum(1, keepdim=True)
    return Batch(
        pixels=x["image"], ids=x["input_ids"], mask=x["attention_mask"].bool(),
        image_id=torch.arange(size), caption_id=torch.arange(size),
        masked=MaskedText(
            ids=x["mlm_input_ids"], positions=positions.where(real, 0),
            index=real.flatten().nonzero().flatten(), labels=x["mlm_labels"].gather(1, positions)[real],
        ),
    )  # fmt: skip


def drawn(tensors: dict[str, Tensor], prefix: str = "in."):
    """The recorded negatives in place of a random draw; remembers the weights that it was given."""

    def draw(log_weights: Tensor, noise: Tensor) -> Tensor:
        draw.weights = log_weights
        x = under(tensors, draw.prefix)
        return torch.stack([x["neg_image_idx"], x["neg_text_idx"]])

    draw.prefix = prefix
    return draw


def without_shift(name: str, tensor: Tensor) -> Tensor | None:
    """Softmax ignores what a key's bias adds: such a gradient is rounding noise around 0, so it is left out."""
    if name.endswith(".self.key.bias"):
        return None
    if name.endswith("attn.qkv.bias"):
        q, _, v = tensor.chunk(3)
        return torch.cat([q, v])
    return tensor


def compare_gradients(x: dict[str, Tensor], task: Task, rows: Sequence[Row]) -> None:
    """The task's gradients against those below "grad.". rows: the official file's table.

    Those of queries and keys of the last layers can cancel to a millionth of the others, and the recorded ones then
    differ from float64's by as much as ours do: by the rounding of the others, which such are held against.
    """
    grads = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    ours = write([row for row in rows if isinstance(row, Entry) and row.ours in grads], grads)
    recorded = under(x, "grad.")
    tied = {name for name in ours if ".cls.predictions.decoder." in name}  # recorded once, with what they are tied to
    assert set(recorded) == set(ours) - tied
    largest = max(gradient.abs().max().item() for gradient in recorded.values())
    for name, theirs in recorded.items():
        if (wanted := without_shift(name, theirs)) is not None:
            assert_close(without_shift(name, ours[name]), wanted, GRADIENT, name, "gradients", largest)


def compare_after_step(x: dict[str, Tensor], task: Task, rows: Sequence[Row]) -> None:
    """The teacher and the queues against those below "post."."""
    after = write(rows, task.state_dict())
    for name, theirs in under(x, "post.").items():
        assert_close(after[name], theirs, OUTPUT, name, "teacher and queues")


def compare_distilled(x: dict[str, Tensor], task: Task, batch: Batch) -> None:
    """A distilled label head: the predictions of student and teacher, the loss, and the prediction in evaluation."""
    head, f = task.heads["label"], task.features(batch, 0)
    assert_close(head.predict(f), x["out.prediction"], OUTPUT, "prediction")
    assert_close(f.twin(head).predict(f.teacher), x["out.prediction_m"], OUTPUT, "prediction_m")
    assert_close(task(batch, 0).loss, x["out.loss"], OUTPUT, "loss")
    with torch.no_grad():
        task.eval()
        assert_close(head.predict(task.features(batch, 0)), x["eval.prediction"], OUTPUT, "eval.prediction")


def compare_embeddings(x: dict[str, Tensor], f: Features) -> None:
    """Both towers' states and embeddings, of student and teacher."""
    views = {
        "image_embeds": f.image.x, "image_embeds_m": f.teacher.image.x, "text_embeds": f.text.x,
        "image_feat": f.image_embed, "text_feat": f.text_embed,
        "image_feat_m": f.teacher.image_embed, "text_feat_m": f.teacher.text_embed,
    }  # fmt: skip
    for name, view in views.items():
        assert_close(view, x[f"out.{name}"], OUTPUT, name)
