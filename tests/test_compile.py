"""Compiled models are looked at eagerly: hooks fire, and no probe leaves a graph behind."""

import pytest
import torch
from fits import Events, Watched, three

from lightning_convviz.ascent import patterns
from lightning_convviz.cams import heatmaps


@pytest.fixture
def graphs():
    torch.compiler.reset()
    yield []
    torch.compiler.reset()


@pytest.fixture(params=["torch.compile(net)", "net.compile()"])
def compiled(request, tiny, graphs):
    """A compiled net in training, which has already seen a batch of another size than the probes."""

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    net = tiny()
    if request.param == "net.compile()":
        net.compile(backend=backend)
    else:
        net = torch.compile(net, backend=backend)
    net(torch.randn(2, 3, 8, 8)).sum().backward()
    assert len(graphs) == 1
    return net


def test_heatmaps_are_those_of_the_eager_net(compiled, tiny, images, graphs, leaves_no_trace):
    expected = heatmaps(twin(compiled, tiny), images, layer=["conv1", "relu2"])
    with leaves_no_trace(compiled):
        found = heatmaps(compiled, images, layer=["conv1", "relu2"])
        last = heatmaps(compiled, images)  # "auto" traces by hooks
    assert torch.equal(found["conv1"], expected["conv1"])
    assert torch.equal(found["relu2"], expected["relu2"])
    assert torch.equal(last, expected["relu2"])
    assert len(graphs) == 1


def test_patterns_are_those_of_the_eager_net(compiled, tiny, images, graphs, leaves_no_trace):
    expected = patterns(twin(compiled, tiny), "conv2", [0, 1], like=images, steps=3)
    with leaves_no_trace(compiled):
        found = patterns(compiled, "conv2", [0, 1], like=images, steps=3)
    assert torch.equal(found.images, expected.images)
    assert len(graphs) == 1


def test_training_goes_on_with_the_graph_it_had(compiled, images, graphs):
    heatmaps(compiled, images)
    patterns(compiled, "conv2", [0], like=images, steps=1)
    compiled(torch.randn(2, 3, 8, 8)).sum().backward()
    assert len(graphs) == 1


def test_the_builtin_eager_backend_works_too(tiny, images):
    torch.compiler.reset()
    net = torch.compile(tiny(), backend="eager")
    net(images)
    assert torch.equal(heatmaps(net, images), heatmaps(twin(net, tiny), images))
    torch.compiler.reset()


def twin(compiled, tiny):
    """The same net, never compiled."""
    twin = tiny()
    twin.load_state_dict({name.removeprefix("_orig_mod."): value for name, value in compiled.state_dict().items()})
    return twin


@pytest.mark.parametrize("which", ["module", "net"])
def test_a_watched_run_compiles_what_an_unwatched_one_does(which, fit, tiny):
    """No graph more, and none of dynamic shape, though probes come in another number than batches."""
    found = []
    for watchers in ([], three(num_probes=3)):
        torch.compiler.reset()
        shapes = []

        def backend(graph, inputs, shapes=shapes):
            shapes.append([str(tuple(each.shape)) for each in inputs if isinstance(each, torch.Tensor)])
            return graph.forward

        module = Watched(tiny())
        (module if which == "module" else module.net).compile(backend=backend)
        trainer = fit(watchers, module=module)
        found.append(shapes)
    assert found[0]
    assert found[0] == found[1]
    assert len(Events(trainer.logger.log_dir).steps("activations/net.conv1")) == 2
    torch.compiler.reset()
