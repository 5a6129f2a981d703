"""The three ways to take part in a drawing, each by itself; together, on two processes, in `test_ranks.py`."""

import pytest
import torch
from torch import nn

from lightning_convviz.engine.contract import Needs
from lightning_convviz.engine.participation import Lockstep, Plan, Shared, Solo
from lightning_convviz.engine.processes import Processes, rank_local_buffers
from lightning_convviz.isolation import isolated


def rank(number: int, world_size: int = 2) -> Processes:
    processes = Processes()
    processes.rank, processes.world_size = number, world_size
    return processes


def test_the_shares_of_all_ranks_are_everything_once():
    items = list(range(7))
    shares = [items[Shared(rank(number, 3)).share] for number in range(3)]
    assert sorted(item for share in shares for item in share) == items
    assert [items[way(rank(1)).share] for way in (Solo, Lockstep)] == [items, items]


def test_who_takes_part():
    divisible, other = Needs(divisible=True), Needs()
    answers = {
        way: [
            way(rank(0)).admits(needs, probes_are_final=final)
            for needs in (divisible, other)
            for final in (True, False)
        ]
        for way in (Solo, Shared, Lockstep)
    }
    assert answers == {Solo: [False] * 4, Shared: [True, False, False, False], Lockstep: [True] * 4}


@pytest.mark.parametrize("number", [0, 1])
def test_a_share_is_computed_in_the_network_of_rank_0_and_leaves_no_trace(number):
    """Running statistics differ from rank to rank, as each validates in the ones it was trained with."""
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    first = {name: torch.full_like(value, 3.0) for name, value in rank_local_buffers(net).items()}
    assert set(first) == {"1.running_mean", "1.running_var"}
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with isolated(net):
        Shared(rank(number)).prepare(net, Plan(["one"], {}, first))
        assert bool((net[1].running_mean == 3).all()) == (number == 1)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("way", [Solo, Lockstep])
def test_where_nothing_is_divided_rank_0_draws_its_own_part(way):
    assert way(rank(0)).gather("part") == ["part"]
    assert way(rank(1)).gather("part") is None


def test_what_one_rank_alone_may_have_met_ends_a_run_in_lockstep():
    errors = RuntimeError("this rank alone, perhaps"), ValueError("bad arguments, on all ranks alike")
    assert [Lockstep(rank(1)).must_raise(error) for error in errors] == [True, False]
    assert not any(way(rank(1)).must_raise(error) for way in (Solo, Shared) for error in errors)


def test_positions_of_all_ranks_are_the_whole_validation_once():
    """As Lightning's sampler deals images out: two batches of 3 and 2 on each of two ranks."""
    found = []
    for number in range(2):
        processes = rank(number)
        processes.is_replicated = True
        found += [*processes.positions(0, 3), *processes.positions(3, 2)]
    assert sorted(found) == list(range(10))
    assert list(rank(0).positions(4, 3)) == [4, 5, 6]
