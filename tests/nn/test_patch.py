"""Patches and positions: images, videos, and grids that were not learned."""

import pytest
import torch

from mmkit.encoders.vit import ViT
from mmkit.errors import UserError
from mmkit.nn.patch import PatchEmbed, patchify, unpatchify
from mmkit.nn.positions import GridPositions, resize_positions


@pytest.mark.parametrize(
    ("size", "patch", "conv"), [((12, 8), (4, 4), torch.nn.Conv2d), ((4, 12, 8), (2, 4, 4), torch.nn.Conv3d)]
)
def test_a_patch_layer_is_a_strided_convolution(size, patch, conv):
    ours, theirs = PatchEmbed(patch, 6), conv(3, 6, patch, patch)
    theirs.weight.data, theirs.bias.data = ours.proj.weight.data.reshape(6, 3, *patch), ours.proj.bias.data
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(ours(x), theirs(x).flatten(2).mT, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("grid", "patch"), [((2, 5), (4, 3)), ((5, 1), (2, 8)), ((1, 1), (3, 2)), ((3, 2, 4), (2, 4, 3)), ((7,), (5,))]
)
def test_patches_become_the_picture_again(grid, patch):
    x = torch.randn(2, 3, *(cells * side for cells, side in zip(grid, patch, strict=True)))
    patches = patchify(x, patch)
    assert torch.equal(unpatchify(patches, grid, patch), x)
    assert torch.equal(patchify(unpatchify(patches, grid, patch), patch), patches)


def test_a_size_that_the_patch_does_not_divide_is_named():
    with pytest.raises(UserError, match="100x96 is not a multiple of the patch 16x16"):
        ViT((100, 96), (16, 16), depth=1, width=8, heads=2)


def test_positions_resize_to_other_grids_and_keep_the_class_row():
    positions = GridPositions((4, 4), 8)
    assert positions((4, 4)) is positions.table
    for grid in ((6, 6), (2, 5), (3, 3)):
        table = positions(grid)
        assert table.shape == (1 + grid[0] * grid[1], 8)
        assert torch.equal(table[0], positions.table[0])


def test_resizing_a_gradient_along_one_axis_keeps_it_along_that_axis():
    rows = torch.arange(4.0).repeat_interleave(4)[:, None]
    table = torch.cat([torch.zeros(1, 1), rows])
    resized = resize_positions(table, (4, 4), (8, 2))[1:, 0].view(8, 2)
    torch.testing.assert_close(resized[:, 0], resized[:, 1])
    assert (resized[:, 0].diff() > 0).all()


def test_a_video_is_an_image_with_one_more_axis():
    vit = ViT((4, 16, 16), (2, 8, 8), depth=1, width=8, heads=2)
    assert vit(torch.randn(2, 3, 4, 16, 16)).x.shape == (2, 1 + 2 * 2 * 2, 8)
    assert vit(torch.randn(2, 3, 8, 16, 24)).x.shape == (2, 1 + 4 * 2 * 3, 8)
