import pytest
import torch
from torch import nn

from lightning_convviz.layers import Layout, layout

SQUARE, WIDE = (2, 3, 224, 224), (2, 3, 192, 256)


def convolutions():
    return nn.Sequential(nn.Conv2d(3, 7, 1), nn.ReLU())


def linears():
    return nn.Sequential(nn.Linear(7, 7), nn.GELU())


# What comes, of what images, by what module, and how it is to be read.
TABLE = {
    "a map": ((2, 512, 7, 7), SQUARE, None, Layout((7, 7), "channels first")),
    "a wide map": ((2, 96, 6, 8), WIDE, None, Layout((6, 8), "channels first")),
    "channels last": ((2, 7, 7, 768), SQUARE, None, Layout((7, 7), "channels last")),
    "the way of one integer stride": ((2, 3, 5, 8), (2, 3, 12, 20), nn.GELU(), Layout((3, 5), "channels last")),
    "channels last, wide": ((2, 6, 8, 96), WIDE, None, Layout((6, 8), "channels last")),
    "more positions than channels": ((2, 112, 112, 16), SQUARE, None, Layout((112, 112), "channels last")),
    "1 x 1, named by the user": ((2, 512, 1, 1), SQUARE, None, Layout((1, 1), "channels first")),
    "one position in channels-last maps": ((2, 1, 1, 512), SQUARE, None, Layout((1, 1), "channels last")),
    "one row": ((2, 32, 1, 50), (2, 1, 40, 400), None, Layout((1, 50), "channels first")),
    "a map of fewer images than asked about": ((1, 512, 7, 7), SQUARE, None, Layout((7, 7), "channels first")),
    "what no image explains": ((2, 40, 3, 50), (2, 3, 64, 64), None, Layout((3, 50), "channels first")),
    "a resized map of a wide image": ((2, 512, 7, 7), (2, 3, 64, 96), None, Layout((7, 7), "channels first")),
    # All axes the same: the module, then its parts, then the custom.
    "7 x 7 x 7, unknown": ((2, 7, 7, 7), SQUARE, None, Layout((7, 7), "channels first")),
    "7 x 7 x 7 of a convolution": ((2, 7, 7, 7), SQUARE, nn.Conv2d(3, 7, 1), Layout((7, 7), "channels first")),
    "7 x 7 x 7 of a LayerNorm": ((2, 7, 7, 7), SQUARE, nn.LayerNorm(7), Layout((7, 7), "channels last")),
    "7 x 7 x 7 of convolutions": ((2, 7, 7, 7), SQUARE, convolutions(), Layout((7, 7), "channels first")),
    "7 x 7 x 7 of linear layers": ((2, 7, 7, 7), SQUARE, linears(), Layout((7, 7), "channels last")),
    "64 channels, 64 x 64": ((2, 64, 64, 64), (2, 3, 64, 64), nn.ReLU(), Layout((64, 64), "channels first")),
    "wide, by a LayerNorm, though the other way fits": (
        (2, 8, 8, 6), (2, 3, 192, 192), nn.LayerNorm(6), Layout((8, 8), "channels last"),
    ),
    # Tokens.
    "no class token": ((2, 196, 192), SQUARE, None, Layout((14, 14), "tokens")),
    "a class token": ((2, 197, 192), SQUARE, None, Layout((14, 14), "tokens", 1)),
    "class and distillation token": ((2, 198, 192), SQUARE, None, Layout((14, 14), "tokens", 2)),
    "four registers": ((2, 260, 320), (2, 3, 256, 256), None, Layout((16, 16), "tokens", 4)),
    "class token and four registers": ((2, 1374, 384), (2, 3, 518, 518), None, Layout((37, 37), "tokens", 5)),
    "eight registers": ((2, 204, 192), SQUARE, None, Layout((14, 14), "tokens", 8)),
    "a wide image, 12 x 16": ((2, 193, 64), WIDE, None, Layout((12, 16), "tokens", 1)),
    "a tall image, 16 x 12": ((2, 193, 64), (2, 3, 256, 192), None, Layout((16, 12), "tokens", 1)),
    "a stride with a rest": ((2, 16, 64), (2, 3, 100, 100), None, Layout((4, 4), "tokens")),
    "20 of 64 pixels: 4 x 4 and registers": ((2, 20, 64), (2, 3, 64, 64), None, Layout((4, 4), "tokens", 4)),
    "17: not 3 x 3 and 8 others": ((2, 17, 64), (2, 3, 64, 64), None, Layout((4, 4), "tokens", 1)),
    "9: not 2 x 2 and 5 others": ((2, 9, 64), (2, 3, 64, 64), None, Layout((3, 3), "tokens")),
    "one token": ((2, 1, 64), (2, 3, 64, 64), None, Layout((1, 1), "tokens")),
    "positions first, as attention by torch has it": ((197, 2, 64), SQUARE, None, Layout((14, 14), "tokens first", 1)),
    "tokens of a linear layer": ((2, 197, 49), SQUARE, nn.Linear(9, 49), Layout((14, 14), "tokens", 1)),
    # Sequences and volumes.
    "a sequence": ((2, 16, 50), (2, 1, 100), None, Layout((50,), "channels first")),
    "a sequence of convolutions": (
        (2, 16, 50), (2, 1, 100), nn.Sequential(nn.Conv1d(1, 16, 1)), Layout((50,), "channels first"),
    ),
    "a sequence's tokens": ((2, 51, 16), (2, 1, 100), nn.LayerNorm(16), Layout((50,), "tokens", 1)),
    "a sequence's tokens out of a container": ((2, 51, 16), (2, 1, 100), linears(), Layout((50,), "tokens", 1)),
    "a volume": ((2, 16, 4, 8, 8), (2, 1, 16, 32, 32), None, Layout((4, 8, 8), "channels first")),
    "a volume, channels last": ((2, 4, 8, 6, 96), (2, 3, 8, 64, 48), None, Layout((4, 8, 6), "channels last")),
    "a volume's tokens: not 8 x 4 x 4": ((2, 129, 96), (2, 3, 16, 64, 64), None, Layout((2, 8, 8), "tokens", 1)),
    "a clip's tokens: two frames each": ((2, 392, 96), (2, 3, 4, 224, 224), None, Layout((2, 14, 14), "tokens")),
    # None of these is a map.
    "logits": ((2, 1000), SQUARE, None, None),
    "a loss for each image": ((2,), SQUARE, None, None),
    "a scalar": ((), SQUARE, None, None),
    "as many tokens as no grid has": ((2, 77, 512), SQUARE, None, None),
    "windows of a Swin": ((32, 49, 96), SQUARE, None, None),
    "maps of windows": ((32, 96, 7, 7), SQUARE, None, None),
    "vectors of heads": ((2, 6, 197, 64), SQUARE, nn.LayerNorm(64), None),
    "tokens, channels first": ((2, 64, 196), SQUARE, nn.Conv1d(3, 64, 1), None),
    "volumes of flat images": ((2, 8, 4, 7, 7), SQUARE, None, None),
    "flat maps of a sequence": ((2, 8, 4, 7), (2, 1, 100), None, None),
    "no positions": ((2, 8, 0, 7), SQUARE, None, None),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_outputs_are_read_as_they_are_laid_out(case):
    shape, image, module, expected = TABLE[case]
    assert layout(shape, image, module=module) == expected
    assert layout(torch.Size(shape), torch.Size(image), module=module) == expected, "shapes of tensors too"


def position(output, found, n, c, at):
    """The value of channel `c` of image `n` at the position `at`, from the outermost axis to the innermost."""
    if found.order == "channels first":
        return output[(n, c, *at)]
    if found.order == "channels last":
        return output[(n, *at, c)]
    token = 0
    for place, size in zip(at, found.size, strict=True):
        token = token * size + place
    token += found.prefix
    return output[n, token, c] if found.order == "tokens" else output[token, n, c]


@pytest.mark.parametrize("case", [case for case in TABLE if TABLE[case][3] is not None and len(TABLE[case][0]) > 2])
def test_each_position_comes_to_its_place_and_nothing_is_copied(case):
    shape, _, _, found = TABLE[case]
    output = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    maps = found(output)
    assert maps.shape[2:] == found.size
    assert maps.untyped_storage().data_ptr() == output.untyped_storage().data_ptr()
    stream = torch.Generator().manual_seed(0)
    for _ in range(40):
        n, c, *at = (int(torch.randint(size, (), generator=stream)) for size in maps.shape)
        assert maps[(n, c, *at)] == position(output, found, n, c, at)


@pytest.mark.parametrize(
    "case", ["a class token", "channels last, wide", "positions first, as attention by torch has it"]
)
def test_gradients_are_laid_out_like_activations(case):
    shape, _, _, found = TABLE[case]
    output = torch.zeros(shape, requires_grad=True)
    weights = torch.randn(found(output).shape)
    (gradient,) = torch.autograd.grad((found(output) * weights).sum(), output)
    assert torch.equal(found(gradient), weights)
    assert gradient.count_nonzero() == weights.count_nonzero(), "the tokens in front get none"


@pytest.mark.parametrize("prefix", [0, 1, 2, 4, 5, 8])
@pytest.mark.parametrize("side", [4, 7, 8, 14, 16, 24, 32])
@pytest.mark.parametrize("stride", [4, 8, 14, 16, 32])
def test_square_grids_are_found_again_with_any_usual_prefix(prefix, side, stride):
    image = (1, 3, side * stride, side * stride)
    assert layout((1, side * side + prefix, 64), image) == Layout((side, side), "tokens", prefix)


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize(("y", "x"), [(6, 8), (8, 6), (7, 14), (10, 3), (12, 16), (4, 20)])
def test_other_grids_are_found_again_by_the_images_aspect(prefix, y, x):
    assert layout((1, y * x + prefix, 64), (1, 3, 16 * y, 16 * x)) == Layout((y, x), "tokens", prefix)
    assert layout((1, y, x, 64), (1, 3, 16 * y, 16 * x)) == Layout((y, x), "channels last")
    assert layout((1, 64, y, x), (1, 3, 16 * y, 16 * x)) == Layout((y, x), "channels first")


def test_a_patch_embedding_and_its_layout_agree_about_where_a_patch_is():
    embed = nn.Conv2d(1, 1, 4, 4)
    nn.init.ones_(embed.weight), nn.init.zeros_(embed.bias)
    image = torch.zeros(1, 1, 16, 24)
    image[0, 0, 8:12, 20:24] = 1  # row 2, column 5
    tokens = torch.cat([torch.full((1, 1, 1), -1.0), embed(image).flatten(2).transpose(1, 2)], dim=1)
    maps = layout(tokens.expand(-1, -1, 2).shape, image.shape)(tokens)
    assert maps[0, 0].nonzero().tolist() == [[2, 5]]


def test_it_says_in_words_what_it_is():
    assert str(Layout((7, 7), "channels last")) == "7 x 7 maps, channels last"
    assert str(Layout((4, 8, 8), "channels first")) == "4 x 8 x 8 maps, channels first"
    assert str(Layout((3, 4), "tokens first", 1)) == "3 x 4 tokens after 1 others"
