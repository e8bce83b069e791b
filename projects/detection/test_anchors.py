"""Faster R-CNN and SSD against torchvision's whole detectors with the same weights; the pyramid against ViTDet's."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN as TorchFasterRCNN
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD as TorchSSD
from torchvision.models.detection.ssd import SSDHead
from torchvision.ops import MultiScaleRoIAlign

from mmkit.errors import UserError
from mmkit.features import Features
from mmkit.heads.boxes.pyramid import ChannelNorm, Pyramid, level
from mmkit.models.sizes.vision import vision
from mmkit.task import Task
from projects.detection.examples import CLASSES, SCENES, scene, together
from projects.detection.head import DETR
from projects.detection.ssd import SSD
from projects.detection.two_stage import FasterRCNN, Sampler

WIDTH, SIZE = 16, (32, 48)


def model():
    torch.manual_seed(0)
    return vision(image_size=SIZE, patch=8, depth=2, width=24, heads=2)


def two_stage(**more):
    m = model()
    return m, FasterRCNN(
        m.spec, CLASSES, width=WIDTH, hidden=32, anchor=4.0, sampled=(32, 16), proposed=(60, 40), **more
    )


def one_stage(**more):
    m = model()
    return m, SSD(m.spec, CLASSES, width=WIDTH, scales=(1.0, 0.5), **more)


class Same(nn.Module):
    """In the place of torchvision's own transform: pictures stay as they are."""

    def forward(self, images, targets=None):
        from torchvision.models.detection.image_list import ImageList

        return ImageList(torch.stack(images), [tuple(images[0].shape[1:])] * len(images)), targets

    def postprocess(self, found, *sizes):
        return found


class Maps(nn.Module):
    """In the place of a backbone: the maps that our head makes of the batch."""

    out_channels = WIDTH

    def __init__(self, m, head):
        super().__init__()
        self.m, self.head = [m], [head]

    def forward(self, pixels):
        batch = together(*SCENES)
        return OrderedDict(self.head[0].pyramid(Features(self.m[0], batch)))


def torchvision_two_stage(m, head):
    strides = [2, 4, 8, 16]
    made = TorchFasterRCNN(
        Maps(m, head),
        rpn_anchor_generator=AnchorGenerator(tuple((4.0 * s,) for s in strides), ((0.5, 1.0, 2.0),) * 4),
        rpn_batch_size_per_image=32, box_batch_size_per_image=16, rpn_pre_nms_top_n_train=60, rpn_pre_nms_top_n_test=40,
        rpn_post_nms_top_n_train=60, rpn_post_nms_top_n_test=40, box_detections_per_img=100,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2, canonical_scale=8, canonical_level=1),
        box_head=head.roi.box_head, box_predictor=head.roi.box_predictor,
        rpn_head=head.rpn.head,
    )  # fmt: skip
    made.transform = Same()
    return made


def lists(batch, first=1):
    targets = batch.targets
    own = [targets["box_of"] == i for i in range(len(batch))]
    return [{"boxes": targets["boxes"][rows], "labels": targets["labels"][rows] + first} for rows in own]


def test_faster_rcnn_is_torchvisions_losses_and_detections(monkeypatch):
    m, head = two_stage()
    theirs, batch = torchvision_two_stage(m, head), together(*SCENES)
    torch.manual_seed(5)
    expected = theirs.train()(list(batch.pixels), lists(batch))
    monkeypatch.setattr(Sampler, "__call__", lambda self, labels: as_torchvision(self, labels))
    torch.manual_seed(5)
    parts = head(Features(m, batch)).parts
    names = {
        "objectness": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "label": "loss_classifier",
        "box": "loss_box_reg",
    }
    for ours, name in names.items():
        torch.testing.assert_close(parts[ours][0], expected[name], msg=ours)
    assert parts["objectness"][1] == 4 * 32
    head.eval()
    found = head.predict(Features(m, batch))
    said = theirs.eval()(list(batch.pixels))
    for i, one in enumerate(said):
        mine = found.of == i
        torch.testing.assert_close(found.boxes[mine], one["boxes"])
        torch.testing.assert_close(found.scores[mine], one["scores"])
        assert (found.labels[mine] + 1).tolist() == one["labels"].tolist()
    assert len(found.boxes)


def as_torchvision(sampler, labels):
    positive, negative = BalancedPositiveNegativeSampler(sampler.most, sampler.share)(labels)
    sampler.count = int(torch.cat(positive).sum() + torch.cat(negative).sum())
    return positive, negative


def test_what_is_sampled_is_a_samples_own_whatever_is_beside_it():
    m, head = two_stage()
    labels = [torch.tensor([1, 0, 0, -1, 1, 0, 0]), torch.tensor([0, 0, 1]), torch.tensor([1] * 40 + [0] * 40)]
    f = Features(m, together(*SCENES[:3]))
    whole = Sampler(head.rpn.fg_bg_sampler, f, "anchors")
    positive, negative = whole(labels)
    assert [int(one.sum()) for one in positive] == [2, 1, 16]
    assert [int(one.sum()) for one in negative] == [4, 2, 16]
    assert whole.count == 41
    for yes, no, own in zip(positive, negative, labels, strict=True):
        assert (own[yes > 0] == 1).all()
        assert (own[no > 0] == 0).all()
    first = Sampler(head.rpn.fg_bg_sampler, Features(m, together(*SCENES[:1])), "anchors")(labels[:1])
    assert first[0][0].equal(positive[0])
    assert first[1][0].equal(negative[0])
    other = Sampler(head.rpn.fg_bg_sampler, Features(m, together(*SCENES[:3]), 1), "anchors")(labels)
    assert not other[0][2].equal(positive[2])


def test_ssd_is_torchvisions_losses_and_detections():
    m, head = one_stage(least=0)
    theirs = TorchSSD(
        Maps(m, head), DefaultBoxGenerator([[2.0]] * 2, 0.15, 0.9), SIZE, len(CLASSES) + 1,
        head=SSDHead([WIDTH] * 2, [4, 4], len(CLASSES) + 1),
    )  # fmt: skip
    theirs.head.load_state_dict(head.heads.state_dict())
    theirs.transform = Same()
    batch = together(*SCENES)
    expected = theirs.train()(list(batch.pixels), lists(batch))
    parts = head(Features(m, batch)).parts
    torch.testing.assert_close(parts["label"][0], expected["classification"])
    torch.testing.assert_close(parts["box"][0], expected["bbox_regression"])
    found = head.eval().predict(Features(m, batch))
    for i, one in enumerate(theirs.eval()(list(batch.pixels))):
        mine = found.of == i
        torch.testing.assert_close(found.scores[mine], one["scores"])
        torch.testing.assert_close(found.boxes[mine], one["boxes"])
        assert (found.labels[mine] + 1).tolist() == one["labels"].tolist()


@pytest.mark.parametrize("make", [two_stage, one_stage])
def test_empty_pictures_degenerate_boxes_and_gradients(make):
    m, head = make()
    t = Task(m, {"detect": head}, momentum=None)
    empty = t(together(SCENES[1], SCENES[1]), 0)
    assert empty.loss.isfinite()
    assert empty.loss > 0
    flat = scene([[5, 5, 5, 9], [8, 3, 2, 9], [10, 10, 30, 28]], [0, 1, 2])
    same = scene([[10, 10, 30, 28]], [2])
    with_flat, without = (t(together((same[0], *one[1:])), 0) for one in (flat, same))
    torch.testing.assert_close(with_flat.loss, without.loss)
    out = t(together(*SCENES), 0)
    out.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_a_picture_without_objects_teaches_ssd_three_places_or_none():
    for least, expected in ((3, 1.0), (0, 0.0)):
        m, head = one_stage(least=least)
        parts = head(Features(m, together(SCENES[1]))).parts
        assert parts["label"][1] == expected
        assert bool(parts["label"][0] > 0) == bool(least)


@pytest.mark.parametrize("size", [(24, 24), (48, 24), (96, 96)])
def test_anchors_and_scales_follow_the_grid_also_of_patches_that_are_no_power_of_two(size):
    torch.manual_seed(0)
    m = vision(image_size=(24, 24), patch=12, depth=1, width=24, heads=2)
    head = FasterRCNN(m.spec, CLASSES, width=WIDTH, hidden=32, anchor=4.0).eval()
    f = Features(m, together((torch.zeros(3, *size), [], [])))
    maps, images = head._seen(f)
    assert [tuple(one.shape[2:]) for one in maps.values()] == [(size[0] // s, size[1] // s) for s in (3, 6, 12, 24)]
    assert head.roi.box_roi_pool.scales == [1 / 3, 1 / 6, 1 / 12, 1 / 24]
    assert head.pyramid.strides == [(3, 3), (6, 6), (12, 12), (24, 24)]
    anchors = head.rpn.anchor_generator(images, list(maps.values()))[0]
    squares = (anchors[:, 2:] - anchors[:, :2])[1::3]  # of height : width 1
    assert sorted({float(side) for side in squares.flatten()}) == [12, 24, 48, 96]
    assert head.roi.box_roi_pool.map_levels(
        [torch.tensor([[0.0, 0, 12, 12], [0, 0, 25, 25], [0, 0, 96, 96]])]
    ).tolist() == [0, 1, 3]
    coarse = FasterRCNN(m.spec, CLASSES, width=WIDTH, hidden=32, scales=(2.0, 1.0), anchor=7.0)
    assert [tuple(one.shape[2:]) for one in coarse._seen(f)[0].values()] == [
        (size[0] // s, size[1] // s) for s in (6, 12)
    ]
    assert coarse.rpn.anchor_generator.sizes == ((42.0,), (84.0,))


def test_levels_are_the_layers_of_vitdet():
    """As detectron2's SimpleFeaturePyramid lists them; its norm is over channels, as this one of torch."""
    torch.manual_seed(0)

    class Norm(nn.LayerNorm):
        def forward(self, x):
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    x = torch.randn(2, 8, 4, 6)
    for scale, first, channels in (
        (4.0, [nn.ConvTranspose2d(8, 4, 2, 2), Norm(4, 1e-6), nn.GELU(), nn.ConvTranspose2d(4, 2, 2, 2)], 2),
        (2.0, [nn.ConvTranspose2d(8, 4, 2, 2)], 4), (1.0, [], 8), (0.5, [nn.MaxPool2d(2, 2)], 8),
    ):  # fmt: skip
        theirs = nn.Sequential(
            *first,
            nn.Conv2d(channels, 6, 1, bias=False),
            Norm(6, 1e-6),
            nn.Conv2d(6, 6, 3, padding=1, bias=False),
            Norm(6, 1e-6),
        )
        ours = level(8, 6, scale)
        for parameter in theirs.parameters():
            nn.init.normal_(parameter)
        ours.load_state_dict(theirs.state_dict())
        assert ours(x).shape == (2, 6, int(4 * scale), int(6 * scale))
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-4)
    assert isinstance(level(8, 6, 1.0)[1], ChannelNorm)
    x = torch.randn(1, 8, 16, 24)
    for scale, side in ((0.5, 2), (0.25, 4), (0.125, 8)):
        assert torch.equal(level(8, 6, scale)[0](x), nn.functional.max_pool2d(x, side))


def test_a_picture_too_small_for_a_level_is_refused():
    m = vision(image_size=(24, 24), patch=12, depth=1, width=24, heads=2)
    head = SSD(m.spec, CLASSES, width=WIDTH)
    with pytest.raises(UserError, match="24x24 pixels have a map of 2x2 tokens, too small for a level of 0"):
        head.predict(Features(m, together((torch.zeros(3, 24, 24), [], []))))
    m = vision(image_size=(48, 96), patch=12, depth=1, width=24, heads=2)
    whole = Pyramid(m.spec, WIDTH, None)
    assert whole.strides == [(3, 3), (6, 6), (12, 12), (24, 24)]
    coarse = Pyramid(m.spec, WIDTH, None, scales=(0.25, 0.125))
    f = Features(m, together((torch.zeros(3, 48, 96), [], [])))
    assert [one.shape[2:] for one in whole(f).values()] == [(16, 32), (8, 16), (4, 8), (2, 4)]
    with pytest.raises(UserError, match=r"a map of 4x8 tokens, too small for a level of 0\.125"):
        coarse(f)
    assert list(Pyramid(m.spec, WIDTH, None, scales=(0.25,))(f)["0"].shape[2:]) == [1, 2]


def test_anchors_of_a_patch_of_fourteen_pixels_stand_where_the_cells_are():
    torch.manual_seed(0)
    m = vision(image_size=(28, 28), patch=14, depth=1, width=24, heads=2)
    head = FasterRCNN(m.spec, CLASSES, width=WIDTH, hidden=32, anchor=4.0).eval()
    maps, images = head._seen(Features(m, together((torch.zeros(3, 28, 28), [], []))))
    anchors = head.rpn.anchor_generator(images, list(maps.values()))[0][: 8 * 8 * 3]
    centres = ((anchors[:, :2] + anchors[:, 2:]) / 2).view(8, 8, 3, 2)
    assert centres[0, 3, 1].tolist() == [10.5, 0]  # 3.5 from cell to cell; torchvision's own would say 9
    boxes = SSD(m.spec, CLASSES, width=WIDTH, scales=(2.0, 1.0)).judged(
        Features(m, together((torch.zeros(3, 28, 28), [], [])))
    )[2]
    assert ((boxes[0, :2] + boxes[0, 2:]) / 2).tolist() == [3.5, 3.5]


@pytest.mark.parametrize("make", ["faster_rcnn", "ssd", "detr"])
def test_a_network_whose_maps_shrink(make):
    """Its own layers, one of each resolution, at sizes that the coarsest does not divide."""
    torch.manual_seed(0)
    m = vision(image_size=(80, 64), backbone="torchvision:mobilenet_v3_small")
    batch = together(scene([[4, 6, 40, 50]], [1], (80, 64)), scene([], [], (80, 64)))
    if make == "detr":
        head = DETR(m.spec, CLASSES, width=32, heads=2, queries=4, layer=m.spec.layers[-1])
    else:
        head = (
            FasterRCNN(m.spec, CLASSES, width=WIDTH, hidden=32, anchor=4.0, sampled=(32, 16)) if make == "faster_rcnn"
            else SSD(m.spec, CLASSES, width=WIDTH)
        )  # fmt: skip
        assert head.pyramid.strides[-1] == (32, 32)
        assert [high for high, _ in head.pyramid.strides] == sorted({high for high, _ in head.pyramid.strides})
    out = Task(m, {"detect": head}, momentum=None)(batch, 0)
    out.loss.backward()
    assert out.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in head.parameters() if p.grad is not None)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in m.parameters())
    found = head.eval().predict(Features(m.eval(), batch))
    assert found.boxes.isfinite().all()
