"""When is a layer sick? The thresholds, with their reasons, and one function for each kind of alarm."""

from collections.abc import Callable
from math import inf, isfinite, isnan
from typing import Literal, NamedTuple

from lightning_convviz.diagnostics.records import LayerHistory, Reading

PATIENCE = 2
"""Drawings in a row: one bad validation comes and goes. Above all the running statistics of BatchNorm lag behind a high
learning rate: a healthy ResNet-20 may begin with a percentile of 700 or a rank of 1.4. What is urgent does not wait."""

DEAD = 0.25
"""Share of a layer's channels. With BatchNorm it is about 0; without, narrow layers begin and train well with up to
0.2. The 0.1 that is often told would ring for two channels in a healthy layer of 16."""
DEAD_AT_ONCE = 0.5
"""Too high a learning rate kills half a layer within an epoch, and in the next one all of it."""
DEAD_LAST, DEAD_LAST_AT_ONCE = 0.75, 0.9
"""The deepest layer has what the head asks for: for two classes half its channels are dead in nets that are right."""
DEAD_SIGNED = 0.9
"""Where the mean is below 0, no ReLU has cut the values: the branch of a residual block, say, in which half the
channels may stay below 0 while the sum they go into does not. Only a layer that is below 0 as good as a whole is told
of, and of the last one nothing: it may give logits, and rare classes are rarely said."""
FEW = 3
"""Channels: in a layer of 8 two of them are 25 %, and chance."""
ALIVE = 0.1
"""Below this share a layer has recovered."""

EXPLODED = 16.0
"""Growth of the 99.5th percentile within two drawings: four-fold twice. Layers that learn grow fast too, from 0.1 to 10
or 20 in the first epochs, so growth counts from the value 1 on, and between drawings of the network in training."""
EXPLODED_EVER = 1e3
"""Growth since the initial network, or the first drawing known. Healthy layers come to 90, with BatchNorm that lags to
700 for one drawing."""
EXPLODED_AT_ONCE = 1e4
"""The same, where it is urgent: the next epoch will not be finite; float16 ends at 65,504."""

COLLAPSED = 1.25
"""Effective rank: the mean features of all pictures lie on a line. Healthy late layers come down to 2.5 while a network
begins to learn, to 1.4 where it learns two classes; those whose outputs are all alike have 1.0 to 1.1."""
COLLAPSED_SHARE = 0.5
"""And no more than this share of the layer's largest rank so far: gray pictures have a low one from the start."""
NARROW = 8
"""Channels: of fewer the rank is low anyhow."""

VANISHED = 20.0
"""How far the 99.5th percentile falls below the highest level that it held for two drawings. Weight decay and annealing
make less than 8."""

STILL = 1e-4
"""Relative change of the weights, as a share of the fastest other layer's: a comparison, since all come to rest where
the learning rate ends at 0. Layers trained from scratch lie within a factor of 15; where a pretrained net is tuned,
a first layer of large weights may move 600 times less than the last. What is left out of the optimizer has 0."""
FASTEST = 1.0
"""A larger change is a layer that was (nearly) 0 before: no measure for others."""
MOVING = 1e-5
"""Where nothing changes by more, float32 (6e-8) begins to round changes away: then nothing is said."""

NOISE, LEFT = 0.9, 0.03
"""Of white noise, see `noise`: at least so much, and less than `LEFT` below what it was when first seen. Networks that
learn have left their noise by 0.06 to 0.6 then, a plain one with labels that mean nothing by less than 0.02 (one with
BatchNorm learns even those by heart, and filters for it). CS231n (https://cs231n.github.io/neural-networks-3/,
"First-layer visualizations") takes noisy first filters for a sign of an unconverged network, a learning rate set wrong
or too little regularization."""
NOISE_AFTER, NOISE_STEPS = 10, 1000
"""Epochs and training steps, both: filters begin as noise, and a short epoch hardly moves them."""

Verdict = Literal["urgent", "sick", "between", "well", "unknown"]


class RuleInput(NamedTuple):
    """What a rule may look at.

    Attributes:
        reading: of the layer.
        history: of the same layer.
        fastest: the largest relative change among the other trainable layers; -1.0 where there are none.
        last: whether it is the deepest layer that is watched.
    """

    reading: Reading
    history: LayerHistory
    fastest: float = -1.0
    last: bool = False


class Finding(NamedTuple):
    """What a rule says, and by what figure. Between sick and well, nothing begins and nothing ends."""

    verdict: Verdict
    figure: float = 0.0


class Rule(NamedTuple):
    """A kind of alarm: `text` is formatted with the figure and the reading."""

    judge: Callable[[RuleInput], Finding]
    text: str
    advice: str


def finite(inputs: RuleInput) -> Finding:
    """No patience: what is not finite stays so. CKA is not known at times, and a change from 0 is infinite."""
    reading = inputs.reading
    figures = (reading.mean, reading.high, reading.effective_rank, reading.sparsity, reading.dead)
    broken = not all(map(isfinite, figures)) or isnan(reading.change or 0.0)
    return Finding("urgent" if broken else "well", reading.mean)


def dead(inputs: RuleInput) -> Finding:
    """Channels that were never above 0. Frozen layers are as they were made."""
    reading, share = inputs.reading, inputs.reading.dead
    if reading.trainable is False or share < ALIVE:
        return Finding("well", share)
    if reading.count < FEW:
        return Finding("between", share)
    if reading.mean < 0:
        return Finding("sick" if share >= DEAD_SIGNED and not inputs.last else "between", share)
    if share >= (DEAD_LAST_AT_ONCE if inputs.last else DEAD_AT_ONCE):
        return Finding("urgent", share)
    return Finding("sick" if share >= (DEAD_LAST if inputs.last else DEAD) else "between", share)


def exploding(inputs: RuleInput) -> Finding:
    """Growth within two drawings, or since the beginning."""
    high, history = inputs.reading.high, inputs.history
    begin = history.first if history.initial is None else history.initial
    recent, ever = (high / max(1.0, inf if old is None else old) for old in (min(history.recent, default=None), begin))
    if ever >= EXPLODED_AT_ONCE:
        return Finding("urgent", ever)
    if recent >= EXPLODED or ever >= EXPLODED_EVER:
        return Finding("sick", max(recent, ever))
    return Finding("well" if ever < EXPLODED else "between", max(recent, ever))


def collapsing(inputs: RuleInput) -> Finding:
    """The features of all pictures are alike, or differ in brightness, say, alone."""
    reading, rank = inputs.reading, inputs.reading.effective_rank
    if reading.trainable is False or reading.channels < NARROW:
        return Finding("well", rank)
    if rank < COLLAPSED and rank <= COLLAPSED_SHARE * inputs.history.rank:
        return Finding("sick" if inputs.history.drawings else "unknown", rank)
    return Finding("between" if rank < 1.2 * COLLAPSED else "well", rank)


def vanishing(inputs: RuleInput) -> Finding:
    """A percentile far below the level that was held."""
    fall = inputs.history.level / max(inputs.reading.high, 1e-30)
    if fall >= VANISHED:
        return Finding("sick", fall)
    return Finding("between" if fall >= VANISHED / 2 else "well", fall)


def still(inputs: RuleInput) -> Finding:
    """Weights that do not change while those of other layers do, or while training steps pass and nothing changes."""
    reading, change, fastest = inputs.reading, inputs.reading.change, inputs.fastest
    if reading.trainable is False:
        return Finding("well")
    if reading.trainable is None or change is None or reading.step <= inputs.history.step:
        return Finding("unknown")
    if change == 0 and fastest <= 0:
        return Finding("sick", 0.0)
    if fastest < MOVING:
        return Finding("unknown", change)
    return Finding("sick" if change <= STILL * fastest else "well", change)


def stopped(inputs: RuleInput) -> Finding:
    """Still, and it moved before."""
    found = still(inputs)
    return found if inputs.history.moved or found.verdict == "well" else Finding("unknown")


def never_started(inputs: RuleInput) -> Finding:
    """Still since it was first seen."""
    found = still(inputs)
    return Finding("unknown") if inputs.history.moved and found.verdict != "well" else found


def noisy(inputs: RuleInput) -> Finding:
    """Kernels that still are the noise they began as after many epochs. Frozen ones are as they were made."""
    reading = inputs.reading
    if reading.trainable is False or reading.noise is None or not isfinite(reading.noise):
        return Finding("well")
    if reading.epoch + 1 < NOISE_AFTER or reading.step < NOISE_STEPS:
        return Finding("unknown", reading.noise)
    left = (inputs.history.noise or reading.noise) - reading.noise
    return Finding("sick" if reading.noise >= NOISE and left < LEFT else "well", reading.noise)


_GRADIENT = (
    "Is it left out of the optimizer, behind a `detach()`, a `no_grad()` or a saturated layer? Look at its gradient. "
    "If it is to rest, set `requires_grad` to False."
)
RULES = {
    "not finite": Rule(
        finite,
        "its outputs or weights are not finite",
        "Go back to a checkpoint; lower the learning rate, clip gradients, and look for a division or logarithm of 0. "
        "In 16-bit precision try bfloat16.",
    ),
    "dead": Rule(
        dead,
        "{reading.count} of {reading.channels} channels ({figure:.0%}) were above 0 for no picture",
        "Lower the learning rate or warm it up, put a normalization before the ReLU, or take a leaky one; dead "
        "channels rarely come back.",
    ),
    "exploding": Rule(
        exploding,
        "the 99.5th percentile of its values is {reading.high:.3g}, {figure:.3g} times what it was",
        "Lower the learning rate, clip gradients, add a normalization, and look for a loss term with the wrong sign.",
    ),
    "collapsing": Rule(
        collapsing,
        "its features of all pictures are alike, with an effective rank of {figure:.2f} in {reading.channels} channels",
        "Lower the weight decay or the learning rate, and look at the loss: would the same answer to everything do?",
    ),
    "vanishing": Rule(
        vanishing,
        "the 99.5th percentile of its values is {reading.high:.3g}, {figure:.3g} times below what it was",
        "Lower the weight decay, which pulls weights to 0 where the loss does not hold them, and exempt normalizations "
        "and biases from it.",
    ),
    "stopped": Rule(
        stopped,
        "its weights have stopped, with a relative change of {figure:.2g} while training went on",
        _GRADIENT,
    ),
    "never started": Rule(
        never_started,
        "its weights have not moved yet, with a relative change of {figure:.2g}",
        _GRADIENT,
    ),
    "noise": Rule(
        noisy,
        "its filters still look like the noise they began as ({figure:.2f}, where white noise is 1)",
        "Check that the labels belong to the pictures; then train longer, or try another learning rate.",
    ),
}
"""In the order in which they are told of."""
