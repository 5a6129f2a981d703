import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from lightning_convviz import cams, isolation
from lightning_convviz.isolation import autograd_everywhere, in_chunks, isolated

MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]


@pytest.mark.parametrize("mode", MODES)
def test_inside_the_model_is_evaluated_and_autograd_records(net, images, mode):
    net.bn1.eval()
    with mode(), isolated(net):
        assert not any(module.training for module in net.modules())
        assert net(images.clone()).requires_grad
        assert not torch.is_inference_mode_enabled()
    assert net.training
    assert not net.bn1.training


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fails", [False, True])
def test_whatever_the_forward_does_is_undone(busy, images, leaves_no_trace, mode, fails):
    net = busy(fails=fails)
    outcome = pytest.raises(RuntimeError, match="the forward failed") if fails else nullcontext()
    with mode(), leaves_no_trace(net), outcome, isolated(net):
        net(images.clone())


def test_everyone_s_random_numbers_go_on_as_if_nothing_was_drawn(net):
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = draw()
    random.setstate(states[0]), np.random.set_state(states[1]), torch.set_rng_state(states[2])
    with isolated(net):
        assert draw() == expected, "inside, the numbers are those that come next"
    assert draw() == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_device_s_random_numbers_are_put_back(net):
    before = torch.cuda.get_rng_state()
    with isolated(net.cuda()):
        torch.rand(1, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_evaluation_does_not_go_through_train_overrides(images):
    class Merging(nn.Module):
        merged = 0

        def train(self, mode=True):
            self.merged += 1
            return super().train(mode)

    model = Merging()
    with isolated(model):
        pass
    assert model.merged == 0


def test_a_graph_of_the_user_s_survives_a_look_in_the_middle(net, images):
    loss = net(images).sum()
    cams.heatmaps(net, images)
    loss.backward()  # would complain about BatchNorm's statistics "modified by an inplace operation"
    assert net.conv1.weight.grad is not None


def test_buffers_and_caches_made_in_inference_mode_are_put_back(images):
    class Caching(nn.Conv2d):
        def __init__(self):
            super().__init__(3, 2, 1)
            self.register_buffer("cache", None)
            self.plain = None

        def forward(self, images):
            output = super().forward(images)
            if self.cache is None:
                self.cache, self.plain = output.detach().mean(), output.detach().amax()
            return output

    model = Caching()
    with torch.inference_mode():
        model(images)
    cache, value, plain = model.cache, model.cache.clone(), model.plain
    with isolated(model):
        model.cache = torch.zeros(())
    assert model.cache is cache
    assert torch.equal(cache, value)
    assert model.plain is plain


def test_what_was_bound_deleted_or_filled_inside_is_as_before(net):
    net.names, net.table, net.bag, net.number = ["a"], {"k": 1}, {1}, 3
    net.register_buffer("shared", net.bn1.running_mean)
    with isolated(net):
        net.names.append("b")
        net.table["k"] = 2
        net.bag.clear()
        net.number, net.fresh = 4, 5
        del net.bn1.running_mean
        net.register_buffer("extra", torch.ones(1))
    assert (net.names, net.table, net.bag, net.number) == (["a"], {"k": 1}, {1}, 3)
    assert not hasattr(net, "fresh")
    assert not hasattr(net, "extra")
    assert net.shared is net.bn1.running_mean


def test_it_can_be_nested(net, images, leaves_no_trace):
    with leaves_no_trace(net), isolated(net):
        with isolated(net):
            net(images)
        assert not net.training
        assert torch.is_grad_enabled()


def test_anomaly_detection_and_autotuning_are_off_inside(net, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with torch.autograd.set_detect_anomaly(True, check_nan=False), isolated(net):
        assert not torch.is_anomaly_enabled()
        assert not torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.benchmark


def test_meta_tensors_have_no_device_and_no_value():
    model = nn.BatchNorm2d(2, device="meta")
    with isolated(model):
        assert isolation.devices(model) == set()


def test_autograd_can_be_on_in_a_backbone_that_is_run_without_it(images):
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Conv2d(3, 2, 1)

        def forward(self, images):
            with torch.no_grad():
                return self.backbone(images)

    model = Frozen()
    with autograd_everywhere(model):
        assert model(images.requires_grad_()).requires_grad
    assert not model(images).requires_grad


def test_chunks_shrink_until_they_fit():
    tried = []

    def work(rows):
        tried.append(rows)
        if rows.stop - rows.start > 2:
            raise torch.OutOfMemoryError("too much")
        return list(range(rows.start, rows.stop))

    assert in_chunks(work, 7) == [[0, 1], [2, 3], [4, 5], [6]]
    assert [rows.stop - rows.start for rows in tried] == [7, 4, 2, 2, 2, 1]


@pytest.mark.parametrize(("size", "expected"), [(3, [3, 3, 1]), (1, [1] * 7), (7, [7]), (99, [7]), (None, [7])])
def test_chunks_are_no_larger_than_asked_for(size, expected):
    parts = in_chunks(lambda rows: list(range(7))[rows], 7, size=size)
    assert [len(part) for part in parts] == expected
    assert [row for part in parts for row in part] == list(range(7))


@pytest.mark.parametrize(("size", "sizes"), [(5, [5, 3, 2, 2, 2, 1]), (99, [7, 4, 2, 2, 2, 1])])
def test_chunks_of_a_size_shrink_too(size, sizes):
    tried = []

    def work(rows):
        tried.append(rows.stop - rows.start)
        if rows.stop - rows.start > 2:
            raise torch.OutOfMemoryError("too much")
        return list(range(rows.start, rows.stop))

    assert in_chunks(work, 7, size=size) == [[0, 1], [2, 3], [4, 5], [6]]
    assert tried == sizes


def test_ranks_in_step_take_chunks_of_their_size_or_none():
    tried = []

    def never(rows):
        tried.append(rows)
        raise torch.OutOfMemoryError("no room at all")

    assert [len(part) for part in in_chunks(lambda rows: list(range(5))[rows], 5, whole=True, size=2)] == [2, 2, 1]
    with pytest.raises(torch.OutOfMemoryError, match="no room at all"):
        in_chunks(never, 5, whole=True, size=2)
    assert tried == [slice(0, 2)]


def test_one_image_that_does_not_fit_is_an_error():
    def never(rows):
        raise torch.OutOfMemoryError("no room at all")

    with pytest.raises(torch.OutOfMemoryError, match="no room at all"):
        in_chunks(never, 4)


def test_other_errors_are_not_tried_again():
    tried = []

    def broken(rows):
        tried.append(rows)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        in_chunks(broken, 4)
    assert len(tried) == 1
