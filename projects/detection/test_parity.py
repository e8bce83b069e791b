"""Our DETR and DAB-DETR against transformers': positions, every layer, boxes, losses, gradients."""

import pytest
import torch
from torchvision.ops import generalized_box_iou, sigmoid_focal_loss
from transformers import DabDetrConfig, DetrConfig
from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher, DeformableDetrImageLoss
from transformers.loss.loss_for_object_detection import HungarianMatcher, ImageLoss
from transformers.models.dab_detr.modeling_dab_detr import DabDetrDecoder, DabDetrMLP, inverse_sigmoid
from transformers.models.detr.modeling_detr import (
    DetrDecoder,
    DetrEncoder,
    DetrMLPPredictionHead,
    DetrSinePositionEmbedding,
)

from mmkit.convert.tables.table import read
from mmkit.heads.boxes.matching import Costs
from mmkit.heads.boxes.truth import Truth
from mmkit.nn.boxes import overlaps, to_corners
from mmkit.nn.sine import of_cells
from projects.detection import tables
from projects.detection.decoders import Anchors, Encoder, Found, Map, Queries
from projects.detection.losses import focal_sum, matched_sums
from projects.detection.matching import match
from tests.parity.measure import assert_near

WIDTH, HEADS, LAYERS, QUERIES, CLASSES = 32, 4, 2, 5, 6
OUTPUT = 5e-6
NEAR = {"atol": 1e-5, "rtol": 1e-5}
REAL = torch.ones(3, 3, 5, dtype=torch.bool)
REAL[1, 2:], REAL[2, :, 3:] = False, False


def config(kind, **more):
    return kind(
        d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=LAYERS, encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS, encoder_ffn_dim=48, decoder_ffn_dim=48, num_queries=QUERIES, dropout=0.0,
        num_labels=CLASSES, attn_implementation="eager", use_timm_backbone=False, use_pretrained_backbone=False,
        **more,
    )  # fmt: skip


def large(module):
    """Larger weights than at the start, so that errors show."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3) if parameter.ndim > 1 else torch.nn.init.normal_(parameter, 0.5, 0.2)
    return module.eval()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(3)


@pytest.mark.parametrize("real", [REAL[:1], REAL], ids=["whole", "padded"])
def test_sine_positions_of_cells(real):
    theirs = DetrSinePositionEmbedding(16, normalize=True)(
        torch.Size((len(real), 1, 3, 5)), "cpu", torch.float32, mask=None if real.all() else real
    )
    torch.testing.assert_close(of_cells(real, 32), theirs.flatten(2).mT, **NEAR)


def truth_of(counts):
    boxes = torch.rand(sum(counts), 4) * 0.4 + 0.1
    labels = torch.randint(CLASSES, (len(boxes),))
    per = [{"boxes": b, "class_labels": c} for b, c in zip(boxes.split(counts), labels.split(counts), strict=True)]
    most = max(counts)
    padded = torch.tensor([0.5, 0.5, 1.0, 1.0]).repeat(len(counts), most, 1)
    classes = torch.zeros(len(counts), most, dtype=torch.int64)
    for i, one in enumerate(per):
        padded[i, : counts[i]], classes[i, : counts[i]] = one["boxes"], one["class_labels"]
    flat = torch.tensor([i * most + j for i, n in enumerate(counts) for j in range(n)])
    return Truth(padded, classes, torch.tensor(counts), flat), per


class Theirs(torch.nn.Module):
    """DETR without its backbone; each layer's state through the last norm, as officially, is read by both heads.

    With ``auxiliary_loss`` transformers feeds the normed state to the next layer, which the official code does not.
    """

    def __init__(self):
        super().__init__()
        made = config(DetrConfig)
        self.model = torch.nn.Module()
        self.model.encoder, self.model.decoder = DetrEncoder(made), DetrDecoder(made)
        self.model.query_position_embeddings = torch.nn.Embedding(QUERIES, WIDTH)
        self.model.input_projection = torch.nn.Conv2d(7, WIDTH, 1)
        self.class_labels_classifier = torch.nn.Linear(WIDTH, CLASSES + 1)
        self.bbox_predictor = DetrMLPPredictionHead(WIDTH, WIDTH, 4, 3)

    def forward(self, cells, places, real):
        queries = self.model.query_position_embeddings.weight.expand(len(cells), -1, -1)
        mask = real.flatten(1)
        memory = self.model.encoder(cells, attention_mask=mask, spatial_position_embeddings=places).last_hidden_state
        states, x = [], torch.zeros_like(queries)
        decoder = self.model.decoder
        keep = torch.where(mask, 0.0, torch.finfo(torch.float32).min)[:, None, None].expand(-1, 1, QUERIES, -1)
        for layer in decoder.layers:
            x = layer(x, None, places, queries, memory, encoder_attention_mask=keep)
            states.append(decoder.layernorm(x))
        last = decoder(
            inputs_embeds=torch.zeros_like(queries), encoder_hidden_states=memory, encoder_attention_mask=mask,
            spatial_position_embeddings=places, object_queries_position_embeddings=queries,
        ).last_hidden_state  # fmt: skip
        torch.testing.assert_close(states[-1], last, **NEAR)  # the layers are put together here as there
        states = torch.stack(states)
        return memory, self.class_labels_classifier(states), self.bbox_predictor(states).sigmoid()


@pytest.mark.parity("DETR, from given tokens", "transformers")
def test_detr_layers_boxes_losses_and_gradients():
    theirs = large(Theirs())
    sides = {"width": WIDTH, "heads": HEADS, "hidden": 48, "dropout": 0.0}
    ours = torch.nn.ModuleDict(
        {
            "encoder": Encoder(LAYERS, **sides), "decoder": Queries(QUERIES, CLASSES + 1, depth=LAYERS, **sides),
            "project": torch.nn.Linear(7, WIDTH),
        }
    )  # fmt: skip
    rows = tables.rows("modules", LAYERS, LAYERS)
    state = read(rows, theirs.state_dict())
    ours.load_state_dict({name.removeprefix(tables.HEAD): value for name, value in state.items()})
    cells = torch.randn(3, 15, WIDTH)
    seen = Map(cells, of_cells(REAL, WIDTH), REAL.flatten(1))
    memory, logits, boxes = theirs(cells, seen.places, REAL)
    mapped = ours["encoder"](seen)
    torch.testing.assert_close(mapped.cells, memory, **NEAR)
    found = ours["decoder"](mapped)
    assert_near(found.logits, logits, OUTPUT, "logits of every layer")
    assert_near(found.boxes, boxes, OUTPUT, "boxes of every layer")

    truth, per = truth_of([3, 0, 2])
    criterion = ImageLoss(HungarianMatcher(1, 5, 2), CLASSES, 0.1, ["labels", "boxes"])
    auxiliary = [{"logits": a, "pred_boxes": b} for a, b in zip(logits[:-1], boxes[:-1], strict=True)]
    said = criterion({"logits": logits[-1], "pred_boxes": boxes[-1], "auxiliary_outputs": auxiliary}, per)
    weights = {"ce": 1.0, "bbox": 5.0, "giou": 2.0}
    expected = sum(weights[name.split("_")[1]] * value for name, value in said.items())
    sums, _ = matched_sums(found, truth, match(found, truth, Costs(label=1.0), "softmax"), 0.1, 1)
    loss = sums.label / (5 + 0.1 * 10) + 5 * sums.box / 5 + 2 * sums.giou / 5
    assert_near(loss, expected, OUTPUT, "loss", "loss")
    (loss * 3).backward()
    (expected * 3).backward()
    grads = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    grads |= {name: torch.zeros_like(p) for name, p in theirs.named_parameters() if p.grad is None}
    wanted = read(rows, grads)
    for name, parameter in ours.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, wanted[tables.HEAD + name], atol=1e-4, rtol=1e-4, msg=name)
    assert {name for name, p in ours.named_parameters() if p.grad is None} == {"project.weight", "project.bias"}


@pytest.mark.parity("DAB-DETR's decoder, from given tokens", "transformers")
def test_dab_references_and_boxes_of_every_layer_and_the_focal_loss():
    made = config(DabDetrConfig, hidden_size=WIDTH, auxiliary_loss=True, activation_function="relu")
    made.encoder_ffn_dim = made.decoder_ffn_dim = 48
    theirs = torch.nn.Module()
    theirs.decoder = DabDetrDecoder(made)
    theirs.class_embed, theirs.bbox_predictor = torch.nn.Linear(WIDTH, CLASSES), DabDetrMLP(WIDTH, WIDTH, 4, 3)
    large(theirs)
    theirs.decoder.bbox_embed = theirs.bbox_predictor
    anchors = torch.randn(QUERIES, 4)
    ours = Anchors(QUERIES, CLASSES, depth=LAYERS, width=WIDTH, heads=HEADS, hidden=48, dropout=0.0, zeros=True)
    given = {name: value for name, value in theirs.state_dict().items() if "decoder.bbox_embed" not in name}
    ours.load_state_dict({**read(tables.anchors(LAYERS), given), "anchors": anchors})
    ours.eval()
    cells, places = torch.randn(3, 15, WIDTH), of_cells(REAL, WIDTH)
    start = anchors.expand(3, -1, -1).clone().requires_grad_()
    out = theirs.decoder(torch.zeros(3, QUERIES, WIDTH), cells, REAL.flatten(1), places, start, return_dict=True)
    states = out.intermediate_hidden_states
    boxes = (theirs.bbox_predictor(states) + inverse_sigmoid(out.reference_points)).sigmoid()
    found = ours(Map(cells, places, REAL.flatten(1)))
    assert_near(found.boxes, boxes, OUTPUT, "boxes of every layer")
    assert_near(found.logits, theirs.class_embed(states), OUTPUT, "logits of every layer")

    truth, per = truth_of([3, 0, 4])
    criterion = DeformableDetrImageLoss(DeformableDetrHungarianMatcher(2, 5, 2), CLASSES, 0.25, ["labels", "boxes"])
    logits = theirs.class_embed(states)
    auxiliary = [{"logits": a, "pred_boxes": b} for a, b in zip(logits[:-1], boxes[:-1], strict=True)]
    said = criterion({"logits": logits[-1], "pred_boxes": boxes[-1], "auxiliary_outputs": auxiliary}, per)
    sums, _ = matched_sums(found, truth, match(found, truth, Costs(label=2.0), "focal"), None, 1)
    for name, value in zip(("ce", "bbox", "giou"), sums, strict=True):
        expected = sum(loss for key, loss in said.items() if key.split("_")[1] == name)
        torch.testing.assert_close(value / 7, expected, **NEAR)
    weighted = 2 * sums.label + 5 * sums.box + 2 * sums.giou
    weighted.backward()
    factors = {"ce": 2.0, "bbox": 5.0, "giou": 2.0}
    (7 * sum(factors[key.split("_")[1]] * loss for key, loss in said.items())).backward()
    torch.testing.assert_close(ours.anchors.grad, start.grad.sum(0), atol=1e-3, rtol=1e-4)
    grads = {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in theirs.named_parameters(remove_duplicate=False)
        if "decoder.bbox_embed" not in name
    }
    for name, value in read(tables.anchors(LAYERS), grads).items():
        torch.testing.assert_close(ours.get_parameter(name).grad, value, atol=1e-3, rtol=1e-3, msg=name)


def test_focal_loss_is_torchvisions():
    logits = torch.randn(2, 3, 4, CLASSES) * 3
    at = torch.tensor([0, 1, 1]), torch.tensor([2, 0, 2]), torch.tensor([3, 1, 0])
    labels = torch.tensor([5, 0, 2])
    targets = torch.zeros_like(logits)
    targets[(*at, labels)] = 1
    torch.testing.assert_close(focal_sum(logits, at, labels), sigmoid_focal_loss(logits, targets, reduction="sum"))


def test_overlaps_are_torchvisions_and_finite_where_boxes_touch_or_are_empty():
    a, b = (to_corners(torch.rand(n, 4)) for n in (6, 5))
    a[0], b[0] = torch.tensor([0.0, 0, 0.5, 0.5]), torch.tensor([0.5, 0.0, 1, 0.5])
    a[1] = torch.tensor([0.3, 0.3, 0.3, 0.3])
    iou, giou = overlaps(a[:, None], b)
    torch.testing.assert_close(giou, generalized_box_iou(a, b))
    assert iou[0, 0] == 0
    assert giou.isfinite().all()
    assert overlaps(a[:0, None], b)[0].shape == (0, 5)


def test_matching_equals_theirs_also_with_more_boxes_than_queries():
    truth, per = truth_of([8, 0, 3])
    found = Found(torch.randn(1, 3, QUERIES, CLASSES + 1), torch.rand(1, 3, QUERIES, 4))
    ours = match(found, truth, Costs(label=1.0), "softmax")
    theirs = HungarianMatcher(1, 5, 2)({"logits": found.logits[0], "pred_boxes": found.boxes[0]}, per)
    for i, (query, box) in enumerate(theirs):
        mine = ours.picture == i
        assert ours.query[mine].tolist() == query.tolist()
        assert ours.box[mine].tolist() == box.tolist()
    assert len(ours.query) == 5 + 3
