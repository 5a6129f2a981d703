"""Does `cams.heatmaps` find a sensible layer in every architecture, with nothing configured?

    python tests/benchmarks/zoo.py [--only "swin*"] [--limit 10]      # `pip install timm` adds its rows

Torchvision's and timm's classifiers with random weights, the smallest of each family, on two noise images, not square
where the net allows. Each row: the layer that "auto" takes, its maps, and whether the signed Grad-CAM of a class
through it is finite, not flat and of the images' size, the layer is one that an expert would take, and the model is
bit for bit as before. The whole table goes to results/zoo.md. The exit status is 1 where a row fails without a reason
in `EXPLAINED`.
"""

import argparse
import fnmatch
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from lightning_convviz import cams, layers
from lightning_convviz.isolation import isolated

try:
    import timm
except ImportError:
    timm = None

# Name, or name:size for nets that take one size only; the others get 64 x 96 pixels.
TORCHVISION = """
    alexnet vgg11 vgg11_bn vgg13 vgg16_bn resnet18 resnet34 resnet50 resnet101 wide_resnet50_2 resnext50_32x4d
    densenet121 densenet169 squeezenet1_0 squeezenet1_1 googlenet inception_v3:128 mobilenet_v2 mobilenet_v3_small
    mobilenet_v3_large mnasnet0_5 mnasnet0_75 mnasnet1_0 shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5
    efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_v2_s regnet_x_400mf regnet_x_800mf regnet_y_400mf
    regnet_y_800mf convnext_tiny convnext_small vit_b_16:224 vit_b_32:224 swin_t swin_s swin_v2_t swin_v2_s
    maxvit_t:224
"""
TIMM = """
    vit_tiny_patch16_224:224 vit_base_patch32_224:224 vit_little_patch16_reg4_gap_256:256 deit_tiny_patch16_224:224
    vit_relpos_small_patch16_224:224 vit_small_patch14_reg4_dinov2:518 vit_base_patch16_siglip_224:224
    vit_tiny_r_s16_p8_224:224 deit_tiny_distilled_patch16_224:224 deit3_small_patch16_224:224
    beit_base_patch16_224:224 eva02_tiny_patch14_224:224 naflexvit_base_patch16_gap:64 samvit_base_patch16_224:224
    vitamin_small_224:224 convit_tiny:224 crossvit_9_240:240 swin_tiny_patch4_window7_224:224
    swinv2_tiny_window8_256:256 swinv2_cr_tiny_224:224 mvitv2_tiny:224 gcvit_xxtiny:224 twins_pcpvt_small
    twins_svt_small pit_ti_224:224 pit_ti_distilled_224:224 cait_xxs24_224:224 xcit_nano_12_p16_224 coat_lite_tiny:224
    coat_tiny:224 mixer_s32_224:224 resmlp_12_224:224 gmlp_ti16_224:224 poolformer_s12 poolformerv2_s12 caformer_s18
    mobilevit_xxs mobilevitv2_050 efficientformer_l1:224 efficientformerv2_s0:224 levit_128s:224 levit_conv_128s:224
    tnt_s_patch16_224:224 nest_tiny:224 hiera_tiny_224:224 davit_tiny edgenext_xx_small focalnet_tiny_srf
    volo_d1_224:224 visformer_tiny:224 sequencer2d_s:224 pvt_v2_b0 nextvit_small tiny_vit_5m_224:224
    maxvit_pico_rw_256:256 coatnet_nano_rw_224:224 swiftformer_xs:224 efficientvit_b0 efficientvit_m0:224
    efficientvim_m1:224 convnext_atto convnextv2_atto inception_next_atto mambaout_femto fastvit_t8 convmixer_768_32
    ghostnet_050 ghostnetv2_100 repghostnet_050 hrnet_w18_small dla46_c res2net50_26w_4s resnest14d skresnet18
    nf_resnet26 nfnet_f0 repvgg_a0 mobileone_s0 repvit_m0_9 ese_vovnet19b_slim_dw xception41 selecsls42 rexnet_100
    regnetx_002 resnet10t resnetv2_18 legacy_seresnet18 tresnet_m cspdarknet53 dpn48b hgnetv2_b0 hardcorenas_a
    lcnet_035 tf_efficientnetv2_b0 efficientnet_lite0 mobilenetv4_conv_small fasternet_t0 starnet_s050
    botnet26t_256:256 halonet26t:256 lambda_resnet26t:256 densenet121 inception_v4:128 rdnet_tiny iformer_t:224
    shvit_s1:224 lowformer_b0 csatv2:512
"""
SIZE, CLASS = "64x96", 3

# What an expert would name: the first glob that fits the net. In a ViT that classifies by its class token that is the
# norm before the last attention; where patch tokens are pooled, the last block or the norm after it; else the last
# stage, or what still follows it before the pooling.
EXPERT = {
    "squeezenet*": "classifier.*",
    "alexnet|vgg*": "avgpool",
    "vit_b_*": "encoder.layers.encoder_layer_11.ln_1",
    "naflex*|vit_relpos*|vit_little*|beit*|eva02*": "blocks*",
    "vit_base_patch16_siglip*": "norm",
    "vit_*|deit*|convit*": "blocks.11.norm1",
    "crossvit*": "blocks.2.*norm1",
    "pit_*": "transformers.2.blocks.3.norm1",
    "cait*": "blocks_token_only.1.norm1",
    "xcit*": "cls_attn_blocks.1.norm1",
    "coat_*": "*blocks*.norm1*",
    "tnt*": "blocks.11.norm_out",
    "swin_?|swin_v2_?|swin_tiny*|swinv2_tiny*": "norm",
}
# Failures that are right to fail: architecture -> why.
EXPLAINED: dict[str, str] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="GLOB", help="architectures to try")
    parser.add_argument("--limit", type=int, default=None, metavar="N", help="try the first N")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if timm is None:
        print("timm is not installed: its rows are skipped.", file=sys.stderr)
    rows = [row for row in architectures() if fnmatch.fnmatch(row[1], args.only)][: args.limit]
    start, lines, failures = time.time(), [], []
    for index, (library, name, size) in enumerate(rows):
        print(f"\r{index + 1} of {len(rows)}, {time.time() - start:.0f} s: {name:40s}", end="", file=sys.stderr)
        found, result = attempt(library, name, size)
        lines.append(f"| {library} | {name} | {size} | {found} | {result} |")
        if result != "ok":
            failures.append((name, result))
    table = report(lines, failures, time.time() - start)
    print(f"\r{' ' * 70}\r", end="", file=sys.stderr)
    print(table)
    if (args.only, args.limit) == ("*", None):
        (Path(__file__).parent / "results" / "zoo.md").write_text(table)
    sys.exit(any(name not in EXPLAINED for name, _ in failures))


def architectures() -> Iterator[tuple[str, str, str]]:
    """Library, name and input size."""
    for library, names in [("torchvision", TORCHVISION), ("timm", TIMM if timm is not None else "")]:
        for each in names.split():
            name, _, size = each.partition(":")
            yield library, name, f"{size}x{size}" if size else SIZE


def attempt(library: str, name: str, size: str) -> tuple[str, str]:
    """Layer and maps for the table, and "ok" or what is wrong."""
    torch.manual_seed(0)
    found = "| "
    try:
        net = build(library, name)
        images = torch.randn(2, 3, *map(int, size.split("x")))
        before = state(net)
        layer, maps, note = choice(net, images)
        found = f"`{layer}` | {maps}{f' ({note})' if note else ''}"
        drawn = cams.heatmaps(net, images, target=CLASS, signed=True)
        wrong = [*faults(drawn, images), *taken(name, layer)]
        wrong += [] if same(before, state(net)) else ["the model was changed"]
    except Exception as error:  # every architecture gets its row
        wrong = [f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"]
    return found, "; ".join(wrong) or "ok"


def build(library: str, name: str) -> nn.Module:
    """The net with random weights, its head in evaluation mode, the rest in training mode.

    Heads that start at zero get random weights, and norms that close a branch at zero do so no longer. A LeViT's many
    BatchNorms need statistics: without, the signal dies on its way, and the maps are flat in truth.
    """
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") and library == "torchvision" else {}
    make: Any = torchvision.models.get_model if library == "torchvision" else timm.create_model
    net: nn.Module = make(name, **options)
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.modules.batchnorm._NormBase) and module.affine and not module.weight.any():
            nn.init.ones_(module.weight)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and "levit" in name:
            module.momentum = 1.0
    if "levit" in name:
        net.train()(torch.randn(16, 3, 224, 224))
    list(net.children())[-1].eval()
    return net


def choice(net: nn.Module, images: Tensor) -> tuple[str, str, str]:
    """The layer that "auto" takes, its maps in words, and why later ones were passed over."""
    with isolated(net):
        with torch.no_grad():
            runs = layers.trace(net, lambda: net(images[:1].clone()))
        chosen = cams.choose(net, images[:1], runs=runs)
    run = runs[chosen.layer]
    maps = layers.layout(run.shape, (1, *images.shape[1:]), module=run.module)
    return chosen.layer, str(maps), chosen.note


def faults(drawn: Tensor, images: Tensor) -> list[str]:
    if drawn.shape != (len(images), *images.shape[2:]):
        return [f"heatmaps of shape {tuple(drawn.shape)}"]
    if not drawn.isfinite().all():
        return ["not finite"]
    flat = drawn.flatten(1)
    spread = flat.amax(1) - flat.amin(1)
    return [] if bool((spread > 1e-6 * flat.abs().amax(1)).all()) else ["flat"]


def taken(name: str, layer: str) -> list[str]:
    for nets, expected in EXPERT.items():
        if any(fnmatch.fnmatch(name, net) for net in nets.split("|")):
            return [] if fnmatch.fnmatch(layer, expected) else [f"an expert would take {expected}"]
    deep = layer.count(".") > 2 or "attn" in layer or "downsample" in layer
    return ["this is inside of a block"] if deep else []


def state(net: nn.Module) -> dict[str, Any]:
    """What may not change."""
    facts: dict[str, Any] = {f"value {name}": value.clone() for name, value in net.state_dict().items()}
    facts |= {f"gradient {name}": parameter.grad is None for name, parameter in net.named_parameters()}
    for name, module in net.named_modules():
        hooks = [len(table) for key, table in vars(module).items() if "hooks" in key]
        facts[f"module {name}"] = (module.training, hooks)
    return facts


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) if isinstance(value, Tensor) else value == other[key]
        for key, value in one.items()
    )


def report(lines: list[str], failures: list[tuple[str, str]], seconds: float) -> str:
    versions = [f"torch {torch.__version__}", f"torchvision {torchvision.__version__}"]
    versions += [] if timm is None else [f"timm {timm.__version__}"]
    head = [
        "# Heatmaps with nothing configured",
        "",
        f"`python tests/benchmarks/zoo.py`, {', '.join(versions)}: {len(lines)} architectures, {len(failures)} "
        f"failures, {seconds:.0f} s on one thread. Random weights; the signed Grad-CAM of class {CLASS} is finite, not "
        "flat and of the images' size, the layer is what an expert would take, the model is bit for bit as before.",
        "",
        "| library | architecture | input | layer | maps | result |",
        "|---|---|---|---|---|---|",
    ]
    told = [f"- {name}: {what}. {EXPLAINED.get(name, 'Not explained.')}" for name, what in failures]
    return "\n".join([*head, *lines, "", *told]).rstrip() + "\n"


if __name__ == "__main__":
    main()
