"""The trainings that the alarms are tried on: healthy ones, and what was done to sick ones."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from trainings import Module, Run, demo, plain, pretrained, resnet20

DEVELOPED = 45
"""Trainings on which the thresholds were corrected: others than these, with other seeds."""


# -- faults ----------------------------------------------------------------------------------------------------------


def dead_channels(share: float, module: Module) -> None:
    bias = module.net[4].bias
    with torch.no_grad():
        bias[: round(share * len(bias))] = -20.0


def left_out(parts: tuple[str, ...], module: Module) -> None:
    module.left_out = {name for name, _ in module.net.named_parameters() if name.startswith(parts)}


def stops(epoch: int, part: str, module: Module) -> None:
    def at_epoch(current: int) -> None:
        if current == epoch:
            for group in module.trainer.optimizers[0].param_groups:
                group["lr"] *= not group["name"].startswith(part)

    module.at_epoch = at_epoch


def wrong_sign(strength: float, module: Module) -> None:
    """A penalty for large features, with the wrong sign."""
    heard: list[Tensor] = []
    module.net[5].register_forward_hook(lambda part, args, output: heard.append(output))
    module.penalty = lambda logits: -strength * heard.pop().square().mean().log()


def alike(strength: float, module: Module) -> None:
    """Features are pulled together, and nothing holds them apart."""
    heard: list[Tensor] = []
    module.net[-4].register_forward_hook(lambda part, args, output: heard.append(output.mean((2, 3))))

    def penalty(logits: Tensor) -> Tensor:
        features = heard.pop()
        return strength * features.var(0).mean() / features.square().mean().clamp(min=1e-12)

    module.penalty = penalty


def wrong_labels(module: Module) -> None:
    module.noisy = 1.0


def nothing(module: Module) -> None:
    """What is wrong is in the settings."""


def root_of_zero(module: Module) -> None:
    def at_epoch(current: int) -> None:
        if current == 2:
            module.penalty = lambda logits: (0 * logits).square().sum().sqrt()

    module.at_epoch = at_epoch


# -- the runs --------------------------------------------------------------------------------------------------------

leaky = partial(plain, act=partial(nn.LeakyReLU, 0.1))
squeezenet = partial(pretrained, "squeezenet1_0_imagenet", ("features.0", "features.3", "features.4"))
tuned_resnet = partial(pretrained, "cifar10_resnet20", ("conv1", "bn1", "layer1"))
resnet = partial(Run, "ResNet-20", resnet20, count=2000)
shown = partial(Run, "demo", demo, data="shapes", count=1200)
simple = partial(Run, "plain", plain)
HEALTHY = [
    *(resnet(401 + place, lr) for place, lr in enumerate((0.02, 0.05, 0.1, 0.2))),
    *(resnet(405 + place, lr, cycle=True) for place, lr in enumerate((0.05, 0.1, 0.2))),
    resnet(408, 1e-3, "adam", decay=0.01),
    resnet(409, 1e-3, "adam", True, decay=0.01),
    resnet(410, 3e-3, "adam", True, decay=0.01),
    *(shown(421 + place, lr, "adam", True, decay=0.01) for place, lr in enumerate((0.005, 0.005, 0.002))),
    shown(425, 0.05),
    shown(426, 0.1, cycle=True),
    Run("demo, two classes", demo, 427, 0.005, "adam", True, data="two shapes", count=4000),
    *(simple(431 + place, lr, "adam") for place, lr in enumerate((1e-3, 5e-4))),
    *(simple(433 + place, lr, epochs=12) for place, lr in enumerate((0.05, 0.1))),
    simple(435, 1e-3, "adam", data="shapes", epochs=12),
    Run("plain, MNIST", partial(plain, inputs=1), 436, 1e-3, "adam", data="mnist", epochs=12),
    Run("plain, two classes", plain, 437, 1e-3, "adam", data="two shapes", count=4000, epochs=12),
    Run("SqueezeNet, stem frozen on purpose", squeezenet, 441, 1e-4, "adam", data="shapes", count=1200, epochs=4),
    Run("pretrained ResNet-20, stem frozen on purpose", tuned_resnet, 442, 0.02, data="shapes", count=700, epochs=4),
    # Long enough for the rule about noise, which asks for a thousand steps.
    shown(451, 1e-3, "adam", epochs=11, count=800, batch=8),
    simple(452, 0.02, batch=8, count=800, epochs=12),
    simple(453, 1e-3, "adam", batch=8, count=800, epochs=12),
    Run("plain, MNIST", partial(plain, inputs=1), 454, 0.02, data="mnist", batch=8, count=800, epochs=12),
    Run("plain, two classes", plain, 455, 3e-4, "adam", data="two shapes", batch=8, count=4000, epochs=12),
]


def sick(name: str, seed: int, lr: float, kinds: str, fault: Callable[[Module], None] = nothing, **others: Any) -> Run:
    """A sick training, of the plain net with Adam if nothing else is said; one of these alarms is to come."""
    given = {"net": plain, "optimizer": "adam", **others}
    return Run(name, seed=seed, lr=lr, sick=tuple(kinds.split(", ")), change=fault, **given)


SGD = {"optimizer": "sgd"}
RESNET = {"net": resnet20, "count": 2000, **SGD}
STILL = "never started, stopped"
SICK = [
    sick("plain, learning rate too high", 501, 0.01, "dead"),
    sick("plain, learning rate too high", 502, 0.3, "dead", **SGD),
    sick("plain, learning rate too high", 503, 3.0, "dead, not finite", **SGD),
    sick("plain, a dead layer", 504, 1e-3, "dead", partial(dead_channels, 1.0)),
    sick("plain, 30 % of a layer dead", 505, 1e-3, "dead", partial(dead_channels, 0.3)),
    sick("plain, penalty with wrong sign", 506, 1e-3, "exploding, dead", partial(wrong_sign, 0.3)),
    sick("leaky, penalty with wrong sign", 507, 1e-3, "exploding", partial(wrong_sign, 0.3), net=leaky, epochs=10),
    sick("plain, root of 0 in the loss from epoch 2", 508, 1e-3, "not finite", root_of_zero),
    sick("ResNet-20, stage 2 left out", 511, 0.05, STILL, partial(left_out, ("6.", "7.", "8.")), **RESNET),
    sick(
        "demo, stage 1 left out", 512, 0.005, STILL, partial(left_out, ("stage1",)),
        net=demo, cycle=True, data="shapes", count=1200,
    ),
    sick("plain, stem left out", 513, 1e-3, STILL, partial(left_out, ("0.",))),
    sick("plain, a layer's learning rate 0 from epoch 3", 514, 1e-3, STILL, partial(stops, 3, "6."), epochs=8),
    sick("plain, weight decay 0.3", 515, 0.02, "dead, vanishing", decay=0.3, **SGD),
    sick("leaky, weight decay 0.05", 516, 0.05, "dead, vanishing", net=leaky, decay=0.05, epochs=8, **SGD),
    sick("ResNet-20, weight decay 0.1", 517, 0.1, "dead, collapsing", decay=0.1, epochs=8, **RESNET),
    sick("plain, features pulled together", 518, 1e-3, "dead, collapsing", partial(alike, 10.0), epochs=8),
    sick("plain, labels of other pictures", 521, 0.02, "noise", wrong_labels, batch=8, count=800, epochs=14, **SGD),
    sick("plain, labels of other pictures", 522, 1e-3, "noise", wrong_labels, batch=8, count=800, epochs=14),
]  # fmt: skip
