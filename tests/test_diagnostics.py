"""The rules of the alarms one by one, and three trainings."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_convviz.diagnostics import Alarms, Reading, noise, rules
from lightning_convviz.layer_stats import LayerAccumulator, figures

WELL = Reading("mid", 0, 0, False, 64, 0.0, 0.5, 0.3, 3.0, 12.0, 0.9, 0.1, True, None)


def drawing(number, first=None, initial=False, **mid):
    """Three layers at one drawing, all well but for what is said."""
    where = {"epoch": 0 if initial else number, "step": 0 if initial else 100 * number + 100, "initial": initial}
    layers = [
        replace(WELL, layer="first", noise=0.5, **where),
        replace(WELL, **where),
        replace(WELL, layer="last", **where),
    ]
    return [replace(layers[0], **(first or {})), replace(layers[1], **mid), layers[2]]


def course(*changes, alarms=None):
    """Kind and layer of the alarms of each drawing."""
    alarms = alarms or Alarms()
    return [[(each.kind, each.layer) for each in alarms.update(drawing(n, **each))] for n, each in enumerate(changes)]


# kind -> what is well, what is sick, and the same a little on the well side of the threshold
CASES = {
    "dead": ({}, {"dead": 0.25}, {"dead": 0.24}),
    "exploding": ({"high": 1.5}, {"high": 1500.0}, {"high": 23.0}),
    "collapsing": ({}, {"effective_rank": 1.2}, {"effective_rank": 1.3}),
    "never started": ({}, {"change": 8e-6}, {"change": 2e-5}),
}


@pytest.mark.parametrize("kind", CASES)
def test_two_drawings_in_a_row_are_told_of_once(kind):
    well, sick, nearly = CASES[kind]
    mine = [(kind, "mid")]
    start = [{"initial": True, **well}] + ([well] * 3 if kind != "never started" else [])
    assert course(*start, sick, sick, sick, sick)[len(start) :] == [[], mine, [], []]
    assert course(*start, sick, nearly, sick, nearly) == [[]] * (len(start) + 4)
    assert course(*start, *[nearly] * 4) == [[]] * (len(start) + 4)


def test_a_recovered_layer_is_told_of_again_and_one_that_is_hardly_better_is_not():
    sick, better, well, mine = {"dead": 0.3}, {"dead": 0.15}, {"dead": 0.05}, [("dead", "mid")]
    assert course(sick, sick, better, sick, sick) == [[], mine, [], [], []]
    assert course(sick, sick, well, sick, sick) == [[], mine, [], [], mine]


def test_since_is_the_epoch_in_which_it_began():
    alarms = Alarms()
    for number, dead in enumerate([0.0, 0.3, 0.0, 0.3, 0.28]):
        found = alarms.update(drawing(number, dead=dead))
    (alarm,) = found
    assert (alarm.since, alarm.figure) == (3, 0.28)
    assert alarm.text == "mid: 18 of 64 channels (28%) were above 0 for no picture, since epoch 3."
    assert len(alarm.advice) > 40
    assert alarms.active() == found


@pytest.mark.parametrize(
    "figure", [{"mean": math.nan}, {"high": math.inf}, {"effective_rank": math.nan}, {"change": math.nan}]
)
def test_what_is_not_finite_is_told_at_once_and_nothing_else_is(figure):
    broken = {"dead": 1.0, "high": 1e9, **figure}
    assert course({"initial": True, **broken}) == [[("not finite", "mid")]]
    assert course({}, broken, broken) == [[], [("not finite", "mid")], []]
    assert course({}, {"first": broken, **broken}) == [[], [("not finite", "first")]]  # the first that passes it on
    assert course({}, {}, broken, {}, broken) == [[], [], [("not finite", "mid")], [], [("not finite", "mid")]]


def test_the_initial_network_is_only_compared_with():
    sick = {"dead": 1.0, "high": 1e9, "effective_rank": 1.0, "change": 0.0}
    assert course({"initial": True, **sick}, {"initial": True, **sick}, {}) == [[], [], []]


def test_half_a_layer_dead_does_not_wait():
    assert course({}, {"dead": 0.5}) == [[], [("dead", "mid")]]
    assert course(
        {}, {"dead": 1.0, "high": 0.0, "effective_rank": 1.0}, {"dead": 1.0, "high": 0.0, "effective_rank": 1.0}
    ) == [
        [],
        [("dead", "mid")],
        [],
    ]  # of what follows from it nothing


@pytest.mark.parametrize(
    "excuse",
    [{"trainable": False}, {"channels": 8}, {"mean": -0.1}],
    ids=["frozen on purpose", "two channels of eight", "no ReLU has cut the values"],
)
def test_dead_channels_that_are_none(excuse):
    assert course({"dead": 0.25}, {"dead": 0.25}) == [[], [("dead", "mid")]]
    assert course(*[{"dead": 0.25, **excuse}] * 4) == [[]] * 4


def test_the_last_layer_may_have_many_dead_channels_and_a_signed_one_as_well():
    def last(dead, mean=0.3):
        alarms, told = Alarms(), []
        for number in range(3):
            layers = drawing(number)
            told += alarms.update([*layers[:2], replace(layers[2], dead=dead, mean=mean)])
        return [each.kind for each in told]

    assert (last(0.74), last(0.76), last(1.0, mean=-1.0)) == ([], ["dead"], [])
    assert course(*[{"dead": 0.89, "mean": -1.0}] * 3) == [[]] * 3
    assert course(*[{"dead": 0.95, "mean": -1.0}] * 2) == [[], [("dead", "mid")]]


def test_growth_counts_from_one_and_between_drawings_in_training():
    assert course({"initial": True, "high": 0.01}, {"high": 12.0}, {"high": 14.0}, {"high": 15.0}) == [[]] * 4
    assert (
        course({"initial": True, "high": 0.01}, {"high": 230.0}, {"high": 16.0}, {"high": 3.0}) == [[]] * 4
    )  # BatchNorm
    assert course({"high": 2.0}, {"high": 8.0}, {"high": 32.0}, {"high": 128.0})[3] == [("exploding", "mid")]
    assert course({"initial": True, "high": 1.0}, {"high": 2e4}) == [[], [("exploding", "mid")]]  # at once
    assert course(*[{"high": 3.0 * 1.9**n} for n in range(14)])[-3:] == [[], [("exploding", "mid")], []]


def test_an_exploded_layer_stays_so_until_it_is_back():
    alarms = Alarms()
    course({}, {"high": 1e3}, {"high": 1e3}, {"high": 1e3}, {"high": 1e3}, alarms=alarms)
    assert [each.kind for each in alarms.active()] == ["exploding"]
    course({}, {"high": 3.0}, alarms=alarms)
    assert alarms.active() == []


def test_a_fall_is_measured_from_a_level_that_was_held():
    highs = [3.0, 40.0, 40.0, 1.9, 1.9]
    assert course(*[{"high": high} for high in highs])[-1] == [("vanishing", "mid")]
    assert (
        course(*[{"high": high} for high in [900.0, 100.0, 3.0, 2.0, 2.0]]) == [[]] * 5
    )  # what BatchNorm makes at first
    assert course(*[{"high": high} for high in [3.0, 3.0, 90.0, 3.0, 3.0, 3.0]]) == [[]] * 6


def test_low_ranks_that_were_low_before_are_no_collapse():
    gray = {"effective_rank": 1.2}
    assert course({"initial": True, **gray}, gray, gray, gray) == [[]] * 4
    assert course({"initial": True}, {}, {"channels": 4, **gray}, {"channels": 4, **gray}) == [[]] * 4


# -- layers that do not move ------------------------------------------------------------------------------------------


def test_a_layer_that_moved_before_has_stopped():
    still = {"change": 0.0}
    assert course({}, {}, still, still, still) == [[], [], [], [("stopped", "mid")], []]
    assert course({}, still, {}, still, still) == [[], [], [], [], [("stopped", "mid")]]
    assert course(still, still, {}, still, still) == [[], [("never started", "mid")], [], [], [("stopped", "mid")]]


def test_a_layer_that_is_to_rest_is_no_alarm():
    still = {"change": 0.0, "trainable": False}
    assert course(*[still] * 4, {}, {}) == [[]] * 6  # and thaws
    assert course(still, still, {"change": 0.0}, {"change": 0.0})[3] == [("never started", "mid")]  # or does not
    assert course(*[{"change": None}] * 3, *[{"change": 0.0, "trainable": None}] * 3) == [[]] * 6


def all_at(scale, alarms, number, step=None):
    readings = [replace(each, change=scale, step=each.step if step is None else step) for each in drawing(number)]
    return [(each.kind, each.layer) for each in alarms.update(readings)]


def test_all_layers_may_come_to_rest_together():
    alarms = Alarms()
    assert [all_at(0.1 * 10.0**-n, alarms, n) for n in range(12)] == [[]] * 12
    slow = [replace(each, change=change) for each, change in zip(drawing(12), (1e-7, 0.0, 1e-7), strict=True)]
    assert alarms.update(slow) == alarms.update([replace(each, step=10_000) for each in slow]) == []  # rounded away


def test_nothing_moves_at_all():
    kinds = [("never started", layer) for layer in ("first", "mid", "last")]
    assert [all_at(0.0, alarms, n) for alarms in [Alarms()] for n in range(3)] == [[], kinds, []]
    alarms = Alarms()
    assert [all_at(0.0, alarms, n, step=7) for n in range(3)] == [[], [], []]  # and no step was made in between


def test_a_layer_that_began_at_zero_is_no_measure_for_others():
    assert course(*[{"first": {"change": math.inf}, "change": 2e-4}] * 3) == [[]] * 3
    assert course(*[{"first": {"change": 1e11}, "change": 2e-4}] * 3) == [[]] * 3


# -- noise ------------------------------------------------------------------------------------------------------------


def stem(epoch, value, **other):
    return {"first": {"epoch": epoch, "step": 100 * epoch + 100, "noise": value, **other}}


def test_filters_may_look_like_noise_at_first_and_must_leave_it():
    mine = [("noise", "first")]
    assert course(*[stem(epoch, 1.0) for epoch in range(9)]) == [[]] * 9
    assert course(*[stem(epoch, 1.0) for epoch in range(12)])[9:] == [[], mine, []]
    assert course(*[stem(epoch, 1.0, step=50 * epoch + 50) for epoch in range(20)]) == [[]] * 20  # of short epochs
    assert course(*[stem(epoch, 1.0 - 0.01 * epoch) for epoch in range(12)]) == [[]] * 12
    assert course(*[stem(epoch, 0.85) for epoch in range(12)]) == [[]] * 12
    assert course(*[stem(epoch, 1.0, trainable=False, change=0.0) for epoch in range(12)]) == [[]] * 12


def test_noise_is_one_for_white_noise_and_low_for_patterns():
    generator = torch.Generator().manual_seed(0)
    figures_ = [noise(torch.randn(16, 3, 5, 5, generator=generator)) for _ in range(200)]
    assert sum(figures_) / 200 == pytest.approx(1, abs=0.005)
    assert max(abs(each - 1) for each in figures_) < 0.1
    ramp = torch.linspace(-1, 1, 7).expand(16, 3, 7, 7)
    assert noise(ramp) < 0.3
    assert noise(ramp + 5) < 0.02
    checkers = (-1.0) ** (torch.arange(7)[:, None] + torch.arange(7)).expand(16, 3, 7, 7)
    assert noise(checkers) == pytest.approx(2)
    assert noise(3 * ramp) == pytest.approx(noise(ramp)) == pytest.approx(noise(ramp.transpose(2, 3)))


@pytest.mark.parametrize("shape", [(64, 3, 3, 3), (8, 1, 5, 5), (64, 3, 7), (64, 100)])
def test_kernels_that_say_nothing(shape):
    assert noise(torch.randn(shape)) is None
    assert noise(torch.zeros(16, 3, 5, 5)) is None


# -- memory -----------------------------------------------------------------------------------------------------------


SICK_RUN = [
    {"initial": True}, {}, {"dead": 0.3}, {"dead": 0.3, "change": 0.0}, {"dead": 0.3, "change": 0.0, "high": 60.0},
    {"high": 60.0, "effective_rank": 1.1}, {"dead": 0.3, "high": 2.0, "effective_rank": 1.1},
    {"dead": 0.3, "high": 2.0},
    {"mean": math.nan}, {"dead": 0.6, "high": 2.0}, *[stem(epoch, 1.0) for epoch in range(9, 13)],
]  # fmt: skip


@pytest.mark.parametrize("cut", range(len(SICK_RUN)))
def test_a_resumed_run_goes_on_identically(cut):
    whole, part = Alarms(), Alarms()
    said = [whole.update(drawing(number, **each)) for number, each in enumerate(SICK_RUN)]
    assert len({each.kind for told in said for each in told}) >= 5
    for number, each in enumerate(SICK_RUN[:cut]):
        part.update(drawing(number, **each))
    saved = json.loads(json.dumps(part.state()))
    kept = copy.deepcopy(saved)
    resumed = Alarms()
    resumed.restore(saved)
    assert str(resumed.active()) == str(part.active())  # not a number is unlike itself
    rest = [resumed.update(drawing(number, **each)) for number, each in enumerate(SICK_RUN) if number >= cut]
    assert str(rest) == str(said[cut:])
    assert str(saved) == str(kept)  # nothing is shared with what was saved


def test_memory_is_flat():
    alarms, sizes = Alarms(), []
    for number in range(200):
        alarms.update(drawing(number, **SICK_RUN[1 + number % 13]))
        sizes.append(
            sum(len(each["recent"]) + len(each["rows"]) + len(each["since"]) for each in alarms.state().values())
        )
    assert max(sizes[100:]) <= max(sizes[:100])
    assert alarms.update([]) == alarms.active() == []
    assert alarms.state() == {}


def test_thresholds_have_advice():
    assert all(len(rule.advice) > 40 and rule.advice.endswith((".", "?")) for rule in rules.RULES.values())


# -- trainings --------------------------------------------------------------------------------------------------------


def watched(lr, *, prepare=lambda net: None, skip=(), epochs=3):
    """Alarms by epoch of a small plain net that learns where a blob is; and how often it is right in the end."""
    torch.manual_seed(0)
    labels = torch.arange(256) % 4
    images = 0.5 * torch.randn(256, 1, 12, 12)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, 6 * (label // 2) + 1 : 6 * (label // 2) + 5, 6 * (label % 2) + 1 : 6 * (label % 2) + 5] += 2
    convs = [nn.Conv2d(1, 16, 5, 1, 2), nn.Conv2d(16, 24, 3, 2, 1), nn.Conv2d(24, 24, 3, 1, 1)]
    parts = [part for conv in convs for part in (conv, nn.ReLU())]
    net = nn.Sequential(*parts, nn.Flatten(), nn.Linear(24 * 36, 4))
    prepare(net)
    learned = [each for name, each in net.named_parameters() if not name.startswith(tuple(skip))]
    optimizer, alarms, told = torch.optim.Adam(learned, lr), Alarms(), {}
    last = [conv.weight.detach().clone() for conv in convs]
    for epoch in range(-1, epochs):
        for rows in torch.randperm(256).split(32) if epoch >= 0 else ():
            optimizer.zero_grad()
            F.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
        readings = []
        with torch.no_grad():
            for place, conv in enumerate(convs):
                tally = LayerAccumulator()
                tally.update(tally.reduce(net[: 2 * place + 2](images)), images)
                found = figures(tally.compute())
                change = float((conv.weight - last[place]).norm() / last[place].norm()) if epoch >= 0 else None
                last[place] = conv.weight.detach().clone()
                reading = Reading(
                    f"conv{place + 1}", max(epoch, 0), 8 * (epoch + 1), epoch < 0, found.channels,
                    float(found.dead.float().mean()), found.sparsity, found.mean, found.high, found.effective_rank,
                    None, change, conv.weight.requires_grad, noise(conv.weight) if place == 0 else None,
                )  # fmt: skip
                readings.append(reading)
            right = float((net(images).argmax(1) == labels).float().mean())
        told[epoch] = [(each.kind, each.layer) for each in alarms.update(readings)]
    return told, right


def test_a_healthy_training_is_silent():
    told, right = watched(1e-3)
    assert right > 0.9
    assert not any(told.values())


def test_too_high_a_learning_rate_is_told_of_after_the_first_epoch():
    told, right = watched(0.2)
    assert right < 0.5
    assert "dead" in [kind for kind, _ in told[0]]


def test_a_layer_that_the_optimizer_does_not_get_is_told_of_after_the_second():
    told, right = watched(1e-3, skip=["2."])
    assert right > 0.9
    assert {epoch: found for epoch, found in told.items() if found} == {1: [("never started", "conv2")]}
    frozen, _ = watched(1e-3, skip=["2."], prepare=lambda net: net[2].requires_grad_(False))
    assert not any(frozen.values())


def test_channels_that_are_dead_from_the_start_are_told_of_after_the_second():
    def kill(net):
        with torch.no_grad():
            net[2].bias[:8] = -20

    told, _ = watched(1e-3, prepare=kill)
    assert {epoch: found for epoch, found in told.items() if found} == {1: [("dead", "conv2")]}
