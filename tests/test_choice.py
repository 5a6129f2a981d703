import re

import pytest
import torch
from torch import nn

from lightning_convviz import layers
from lightning_convviz.cams.choice import Choice, choose
from lightning_convviz.isolation import isolated


class Attention(nn.Module):
    """Written out, with the weights of attention as an output of a module, (n, heads, t, t): no map."""

    def __init__(self, width):
        super().__init__()
        self.qkv, self.weights, self.out = nn.Linear(width, 3 * width), nn.Softmax(-1), nn.Linear(width, width)

    def forward(self, tokens):
        q, k, v = (each.unflatten(-1, (2, -1)).transpose(1, 2) for each in self.qkv(tokens).chunk(3, dim=-1))
        return self.out((self.weights(q @ k.mT) @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width)
        self.norm2, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, width), nn.GELU())

    def forward(self, tokens):
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class ViT(nn.Module):
    """A class token and four registers before the patches; classifies by the class token, or by the patches' mean."""

    def __init__(self, *, pool):
        super().__init__()
        self.pool, self.patches = pool, nn.Conv2d(3, 8, 4, 4)
        self.extra_inputs = nn.Parameter(torch.randn(1, 5, 8))
        self.blocks = nn.ModuleList([Block(8), Block(8)])
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.extra_inputs.expand(len(images), -1, -1), tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return self.head(tokens[:, 0] if self.pool == "class" else tokens[:, 5:].mean(1))


class ChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU())
        self.head = nn.Linear(8, 5)

    def forward(self, images):
        return self.head(self.blocks(self.stem(images).permute(0, 2, 3, 1)).mean((1, 2)))


class Aux(nn.Module):
    """A second head that counts nothing here, and a module that runs last and leads nowhere."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.aside = nn.Conv2d(3, 4, 3, 2), nn.Linear(4, 5), nn.Conv2d(4, 4, 3)

    def forward(self, images):
        maps = self.body(images)
        logits = self.head(maps.mean((2, 3)))
        return logits, self.aside(maps).mean((1, 2, 3))


class Segmenter(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 5, 1)

    def forward(self, images):
        return {"out": nn.functional.interpolate(self.up(self.down(images).relu()), images.shape[2:])}


class Half(nn.Module):
    """Only the second image's maps lead to the score."""

    def __init__(self):
        super().__init__()
        self.body, self.relu, self.head = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Linear(4, 5)

    def forward(self, images):
        alive = torch.tensor([0.0, 1.0])[: len(images), None, None, None]
        return self.head((self.relu(self.body(images)) * alive).mean((2, 3)))


def pooled(*parts, width=4, axes=2):
    pool = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[axes]
    return nn.Sequential(*parts, pool(1), nn.Flatten(), nn.Linear(width, 5))


def nested():
    return pooled(nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Sequential(nn.ReLU(), nn.Identity())))


def narrowing():
    return pooled(
        nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 4), nn.ReLU()
    )


def trace(net, images):
    with torch.no_grad():
        return layers.trace(net, lambda: net(images[:1].clone()))


def chosen(net, images, **options):
    with isolated(net):
        return choose(net, images, runs=trace(net, images), **options)


def stages():
    """The second begins at the first one's resolution: finer than its end is the first as a whole."""
    second = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2))
    return pooled(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), second)


# The net, its images' shape, the layer, the finer layer, and what the note says.
TABLE = {
    "class token": (lambda: ViT(pool="class"), (3, 8, 12), "blocks.1.norm1", None, "'norm' and .* more: only class"),
    "mean of patches": (lambda: ViT(pool="mean"), (3, 8, 12), "norm", None, "^$"),
    "channels last": (ChannelsLast, (3, 12, 20), "blocks", None, "^$"),
    "the last map is 1 x 1": (narrowing, (3, 32, 32), "3", "1", "passed over '4': its maps are 1 x 1"),
    "the outermost of those with the same output": (nested, (3, 9, 11), "0", None, "^$"),
    "finer than a stage is the one before": (stages, (3, 12, 12), "1", "0", "^$"),
    "sequences": (
        lambda: pooled(nn.Conv1d(2, 4, 3, 4), nn.ReLU(), nn.Conv1d(4, 4, 3, 4), nn.Tanh(), axes=1),
        (2, 90), "3", "1", "^$",
    ),
    "volumes": (
        lambda: pooled(nn.Conv3d(1, 4, 3, 2), nn.ReLU(), nn.Conv3d(4, 4, 3), nn.Tanh(), axes=3),
        (1, 9, 11, 13), "3", "1", "^$",
    ),
    "what runs last leads nowhere": (Aux, (3, 16, 16), "body", None, "passed over 'aside': their maps do not"),
    "segmentation": (Segmenter, (3, 16, 24), "up", None, "^$"),
    "one row of positions": (lambda: pooled(nn.Conv2d(3, 4, (8, 3)), nn.ReLU()), (3, 8, 90), "1", None, "^$"),
    "strides that differ": (lambda: pooled(nn.Conv2d(3, 4, 3, (1, 8)), nn.ReLU()), (3, 20, 80), "1", None, "^$"),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_auto_takes_the_last_maps_that_lead_to_the_score(case, leaves_no_trace):
    make, shape, layer, finer, note = TABLE[case]
    net, images = make(), torch.randn(2, *shape)
    with leaves_no_trace(net):
        found = chosen(net, images)
    assert (found.layer, found.high_res_layer, found.is_certain) == (layer, finer, True)
    assert re.search(note, found.note), found.note


def test_in_a_plain_convnet_it_is_the_last_map(net, images, leaves_no_trace):
    with leaves_no_trace(net.train()):
        assert chosen(net, images) == Choice("relu2", "relu1")


MAKES = {case: make for case, (make, *_) in TABLE.items() if case != "volumes"}


@pytest.mark.parametrize("case", MAKES)
def test_frozen_parameters_and_the_mode_around_change_nothing(case):
    make, shape, layer, finer, _ = TABLE[case]
    net, images = make(), torch.randn(2, *shape)
    with isolated(net), torch.no_grad():
        found = choose(net, images, runs=trace(net, images))
    assert (found.layer, found.high_res_layer) == (layer, finer)
    with torch.inference_mode():
        assert chosen(net, images.clone()) == found
    assert chosen(net.requires_grad_(False), images) == found


@pytest.mark.parametrize("case", ["class token", "mean of patches", "channels last", "the last map is 1 x 1"])
def test_bfloat16_changes_nothing(case):
    make, shape, layer, finer, _ = TABLE[case]
    found = chosen(make().bfloat16(), torch.randn(2, *shape).bfloat16())
    assert (found.layer, found.high_res_layer) == (layer, finer)


def test_a_backbone_under_no_grad_changes_nothing(tiny, images):
    class Transfer(tiny):
        def features(self, images):
            with torch.no_grad():
                return super().features(images)

    assert chosen(Transfer(), images) == chosen(tiny(), images)


def test_weights_of_attention_are_no_finer_maps():
    class Talking(ViT):
        """Weights of attention through a linear layer over heads, (n, t, t, heads), as talking heads have them."""

        def __init__(self):
            super().__init__(pool="mean")
            self.heads = nn.Linear(8, 2)

        def forward(self, images):
            tokens = self.patches(images).flatten(2).transpose(1, 2)
            weights = self.heads(tokens[:, :, None] * tokens[:, None]).mean(-1).softmax(-1)
            return self.head(self.norm(weights @ tokens).mean(1))

    images = torch.randn(2, 3, 8, 12)
    assert layers.layout((2, 6, 6, 2), images.shape, module=nn.Linear(8, 2)).size == (6, 6)
    assert chosen(Talking(), images) == Choice("norm")


def test_one_image_with_dead_maps_is_not_the_end():
    net, images = Half(), torch.rand(2, 3, 6, 6)
    nn.init.constant_(net.body.bias, 1.0)
    assert chosen(net, images) == Choice("relu")


@pytest.mark.parametrize("case", ["class token", "mean of patches", "channels last"])
def test_a_head_of_zeros_leaves_the_choice_open(case):
    make, shape, layer, _, _ = TABLE[case]
    net, images = make(), torch.randn(2, *shape)
    nn.init.zeros_(net.head.weight)
    first = chosen(net, images)
    assert not first.is_certain
    assert "no gradient" in first.note
    assert first.layer in layers.named_layers(net), "a guess is better than none"
    nn.init.normal_(net.head.weight)
    assert chosen(net, images).layer == layer
    assert chosen(net, images).is_certain


def test_a_score_far_behind_the_last_layers_is_found():
    """More layers that lead nowhere than are looked at first."""
    net = Aux()
    net.aside = nn.Sequential(*(nn.Conv2d(4, 4, 3, 1, 1) for _ in range(40)))
    assert chosen(net, torch.randn(2, 3, 16, 16)).layer == "body"


def test_other_inputs_ways_through_the_model_and_readers_are_followed(tiny, images):
    class Two(tiny):
        def forward(self, images, *, scale):
            return [{"scores": super().forward(images * scale)}]

    net, scale = Two(), torch.ones(4, 1, 1, 1)

    with isolated(net):
        runs = layers.trace(net, lambda: net(images, scale=scale))
        options = {"output": lambda returned: returned[0]["scores"], "extra_inputs": {"scale": scale}}
        found = choose(net, images, forward=net, runs=runs, **options)
    assert found == chosen(tiny(), images)


def test_a_trace_of_all_images_or_of_one_is_the_same():
    net, images = ViT(pool="class"), torch.randn(2, 3, 8, 12)
    with isolated(net):
        whole = layers.trace(net, lambda: net(images))
        assert choose(net, images, runs=whole) == choose(net, images, runs=trace(net, images))


def test_without_maps_it_says_so():
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    with pytest.raises(ValueError, match=r'`layer` is "auto", but no layer returned a map .*Name a layer, and give'):
        chosen(net, torch.randn(2, 3, 4, 4))


def test_without_logits_it_says_so(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    net.register_forward_hook(lambda module, args, output: {"maps": output})
    with pytest.raises(ValueError, match="where class logits of shape"):
        chosen(net, images)


# -- torchvision's architectures, small ------------------------------------------------------------------------------


def convnext(models):
    setting = models.convnext.CNBlockConfig
    return models.ConvNeXt([setting(8, 16, 1), setting(16, None, 1)], num_classes=5)


SMALL = {
    "vit": (
        lambda models: models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5),
        32, "encoder.layers.encoder_layer_1.ln_1", (4, 4),
    ),
    "swin": (
        lambda models: models.SwinTransformer([4, 4], 8, [1, 1], [1, 2], [2, 2], num_classes=5), 32, "norm", (4, 4),
    ),
    "convnext": (convnext, 32, "features", (4, 4)),
    "maxvit": (
        lambda models: models.MaxVit((32, 32), 8, 2, [8, 16], [1, 1], 8, 0.0, num_classes=5), 32, "blocks.1", (4, 4),
    ),
    "squeezenet": (lambda models: models.squeezenet1_1(num_classes=5), 64, "classifier.2", (3, 3)),
    "googlenet": (
        lambda models: models.googlenet(num_classes=5, aux_logits=True, init_weights=False), 96, "inception5b", (3, 3),
    ),
    "resnet": (lambda models: models.resnet18(num_classes=5), 64, "layer4", (2, 2)),
}  # fmt: skip


@pytest.mark.parametrize("case", SMALL)
def test_architectures_of_torchvision_need_no_configuration(case, leaves_no_trace):
    make, side, layer, size = SMALL[case]
    net, images = make(pytest.importorskip("torchvision").models), torch.randn(2, 3, side, side)
    nn.init.normal_([each for each in net.modules() if isinstance(each, nn.Linear | nn.Conv2d)][-1].weight)
    with leaves_no_trace(net):
        found = chosen(net, images)
    run = trace(net.eval(), images)[found.layer]
    assert (found.layer, found.is_certain) == (layer, True)
    assert layers.layout(run.shape, images.shape, module=run.module).size == size
