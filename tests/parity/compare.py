"""Our task from the recorded tensors of the official ALBEF, and what of it is compared with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmkit.convert.tables import albef as official
from mmkit.convert.tables.table import Entry, Row, read, write
from mmkit.features import Features
from mmkit.heads.itc import ITC
from mmkit.heads.itm import ITM
from mmkit.heads.mlm import MLM
from mmkit.losses import soft_cross_entropy
from mmkit.models.albef import ALBEF
from mmkit.models.sizes.albef import albef
from mmkit.task import Task
from mmkit.types import Batch, MaskedText
from tests.parity.measure import assert_most_near, assert_near
from tests.parity.oracle import under

OUTPUT, GRADIENT = 5e-6, 5e-5
NOISE = 1e-4  # absolute, of gradients that are 0 but for rounding
AFTER = "teacher and queues"


def assert_close(
    ours: Tensor, theirs: Tensor, bound: float, name: str, what: str | None = None, largest: float = 0.0
) -> None:
    """The largest difference, relative to the largest value. what: its kind, for the table; largest: see there."""
    kind = "gradients" if bound >= GRADIENT else "loss" if name.startswith("loss") else "outputs"
    assert_near(ours, theirs, bound, name, what or kind, largest)


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


def load_pretrain(task: Task, state: Mapping[str, Tensor]) -> None:
    """An official pre-training state into our task, every tensor of it."""
    ours = read(official.table_of(state, "pretrain"), state)
    task.load_state_dict(ours)
    task.constrain()
    task.train()


def batch_of(tensors: Mapping[str, Tensor], prefix: str = "in.") -> Batch:
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


def drawn(tensors: Mapping[str, Tensor], prefix: str = "in."):
    """The recorded negatives in place of a random draw; remembers the weights that it was given."""

    def draw(log_weights: Tensor, noise: Tensor) -> Tensor:
        draw.weights = log_weights
        x = under(tensors, draw.prefix)
        return torch.stack([x["neg_image_idx"], x["neg_text_idx"]])

    draw.prefix = prefix
    return draw


def without_shift(name: str, tensor: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The part of a gradient that means something, and what is rounding noise around 0, or None where there is none.

    Softmax ignores what a key's bias adds. AdamW makes whole steps of this noise, so that what it did to such a bias
    is noise as well, which changes no output.
    """
    if name.endswith(".self.key.bias"):
        return None, tensor
    if name.endswith("attn.qkv.bias"):
        q, k, v = tensor.chunk(3)
        return torch.cat([q, v]), k
    return tensor, None


def gradients_of(task: Task, rows: Sequence[Row]) -> dict[str, Tensor]:
    """The task's gradients under the official names."""
    grads = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    return write([row for row in rows if isinstance(row, Entry) and row.ours in grads], grads)


def compare_gradients(x: Mapping[str, Tensor], task: Task, rows: Sequence[Row]) -> None:
    """The task's gradients against those below "grad.". rows: the official file's table.

    Those of queries and keys of the last layers can cancel to a millionth of the others, and the recorded ones then
    differ from float64's by as much as ours do: by the rounding of the others, which such are held against.
    """
    ours, recorded = gradients_of(task, rows), under(x, "grad.")
    tied = {name for name in ours if ".cls.predictions.decoder." in name}  # recorded once, with what they are tied to
    assert set(recorded) == set(ours) - tied
    largest = max(gradient.abs().max().item() for name, gradient in recorded.items() if name != "temp")
    for name in recorded:
        (found, noise), (wanted, their_noise) = (without_shift(name, grads[name]) for grads in (ours, recorded))
        if wanted is not None:
            may_cancel = ".self.query." in name or ".self.key." in name
            assert_close(found, wanted, GRADIENT, name, "gradients", largest if may_cancel else 0.0)
        if their_noise is not None:
            assert torch.stack([noise, their_noise]).abs().max() < NOISE, name


def compare_after_step(x: Mapping[str, Tensor], task: Task, rows: Sequence[Row]) -> None:
    """The teacher and the queues against those below "post."."""
    after = write(rows, task.state_dict())
    for name, theirs in under(x, "post.").items():
        assert_close(after[name], theirs, OUTPUT, name, AFTER)


def compare_distilled(x: Mapping[str, Tensor], task: Task, batch: Batch) -> None:
    """A distilled label head: the predictions of student and teacher, the loss, and the prediction in evaluation."""
    head, f = task.heads["label"], task.features(batch, 0)
    assert_close(head.predict(f), x["out.prediction"], OUTPUT, "prediction")
    assert_close(f.twin(head).predict(f.teacher), x["out.prediction_m"], OUTPUT, "prediction_m")
    assert_close(task(batch, 0).loss, x["out.loss"], OUTPUT, "loss")
    with torch.no_grad():
        task.eval()
        assert_close(head.predict(task.features(batch, 0)), x["eval.prediction"], OUTPUT, "eval.prediction")


def compare_embeddings(x: Mapping[str, Tensor], f: Features) -> None:
    """Both towers' states and embeddings, of student and teacher; of texts what is no padding, which nothing reads."""
    assert_close(f.text.x[f.mask], x["out.text_embeds"][f.mask], OUTPUT, "text_embeds")
    views = {
        "image_embeds": f.image.x, "image_embeds_m": f.teacher.image.x,
        "image_feat": f.image_embed, "text_feat": f.text_embed,
        "image_feat_m": f.teacher.image_embed, "text_feat_m": f.teacher.text_embed,
    }  # fmt: skip
    for name, view in views.items():
        assert_close(view, x[f"out.{name}"], OUTPUT, name)


def compare_after_run(x: Mapping[str, Tensor], task: Task, rows: Sequence[Row], lr: float) -> None:
    """Student, teacher and queues after several steps against those below "final.". lr: of the optimizer.

    AdamW divides a gradient by its own size. Where one is next to 0 by chance, it enlarges the rounding of it: of 1,000
    values of the parameters one may be farther off, by one step at most.
    """
    after = write(rows, task.state_dict())
    recorded = under(x, "final.")
    assert recorded.keys() == after.keys()
    # officially it is brought within its bounds when the next step begins
    recorded["temp"] = recorded["temp"].clamp(0.001, 0.5)
    pairs = []
    for name, theirs in recorded.items():
        if "queue" in name or not theirs.is_floating_point():
            assert_close(after[name], theirs, OUTPUT, name, AFTER)
        elif (wanted := without_shift(name, theirs)[0]) is not None:
            pairs.append((without_shift(name, after[name])[0], wanted))
    assert_most_near(pairs, OUTPUT, outliers=1e-3, farthest=lr, what="after several steps")


@dataclass
class Seen:
    """What the heads of a task computed on the way.

    contrasts: logits and targets, image to text and text to image. judged: the fused [CLS] states of the pairs and
    their logits, in the official order: true pairs, those with another image, those with another text.
    """

    contrasts: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    judged: list[Tensor] = field(default_factory=list)


def watch(task: Task, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What the heads itc and itm of the task will compute in its next forward pass."""
    seen = Seen()

    def contrast(logits: Tensor, targets: Tensor) -> Tensor:
        seen.contrasts.append((logits, targets))
        return soft_cross_entropy(logits, targets)

    def judge(module: torch.nn.Module, args: tuple[Tensor], logits: Tensor) -> None:
        for part in (args[0], logits):
            own, other_text, other_image = part.chunk(3)
            seen.judged.append(torch.cat([own, other_image, other_text]))

    monkeypatch.setattr("mmkit.heads.itc.soft_cross_entropy", contrast)
    task.heads["itm"].classify.register_forward_hook(judge)
    return seen


def compare_contrast(x: Mapping[str, Tensor], seen: Seen, f: Features, itc: ITC) -> None:
    """The similarities of student and teacher over the batch and the queue, their targets, the loss of each way."""
    for way, (logits, targets) in zip(("i2t", "t2i"), seen.contrasts, strict=True):
        assert_close(logits, x[f"out.sim_{way}"], OUTPUT, f"sim_{way}")
        assert_close(targets, x[f"out.sim_{way}_targets"], OUTPUT, f"sim_{way}_targets")
        assert_close(soft_cross_entropy(logits, targets).mean(), x[f"out.loss_{way}"], OUTPUT, f"loss_{way}")
    teacher = f.teacher
    image = torch.cat([teacher.all_image_embed, itc.queue["image"]])
    text = torch.cat([teacher.all_text_embed, itc.queue["text"]])
    assert_close(teacher.image_embed @ text.T / f.temperature, x["out.sim_i2t_m"], OUTPUT, "sim_i2t_m")
    assert_close(teacher.text_embed @ image.T / f.temperature, x["out.sim_t2i_m"], OUTPUT, "sim_t2i_m")
    if "out.image_feat_all" in x:
        assert_close(image.T, x["out.image_feat_all"], OUTPUT, "image_feat_all")
        assert_close(text.T, x["out.text_feat_all"], OUTPUT, "text_feat_all")


def compare_matching(x: Mapping[str, Tensor], seen: Seen, loss: Tensor) -> None:
    """The fused states of the true and the wrong pairs, their logits, and the loss that their labels give."""
    states, logits = seen.judged
    if "out.vl_embeddings" in x:
        assert_close(states, x["out.vl_embeddings"], OUTPUT, "vl_embeddings")
    assert_close(logits, x["out.vl_output"], OUTPUT, "vl_output")
    assert_close(loss, x["out.loss_itm"], OUTPUT, "loss_itm")
    assert_close(loss, F.cross_entropy(logits, x["out.itm_labels"]), OUTPUT, "loss_itm from the labels")


def compare_draws(x: Mapping[str, Tensor], ours: Tensor, positive: Tensor) -> None:
    """The log-weights that negatives are drawn by: of images for each text, of texts for each image.

    positive: (B, B) bool, the pairs that are never drawn.
    """
    for log_weights, name in zip(ours, ("weights_t2i", "weights_i2t"), strict=True):
        recorded = x[f"out.{name}"]
        assert torch.equal(log_weights == -torch.inf, positive), name
        assert (recorded[positive] == 0).all(), name
        assert_close(log_weights.softmax(-1), recorded / recorded.sum(1, keepdim=True), OUTPUT, name)
