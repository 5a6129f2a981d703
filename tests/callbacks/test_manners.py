"""How the callbacks behave: what fails, fails in the first second and says why; what fails later harms nothing."""

import copy
import gc
import pickle
import re
import threading
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as L
import torch
from fits import Events, Watched, data, facts, three
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from lightning_convviz import (
    ActivationLogger,
    FilterPatternLogger,
    GradCAMLogger,
    Probes,
    VisualizationCallback,
    sinks,
)
from lightning_convviz.engine.contract import DrawResult, Observers, RunInfo

CALLBACKS = [ActivationLogger, FilterPatternLogger, GradCAMLogger]


@pytest.mark.parametrize("callback", CALLBACKS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_probes": 0}, "`num_probes` is 0. It must be at least 1"),
        ({"num_probes": 2.5}, "`num_probes` is 2.5. It must be an integer"),
        ({"every_n_epochs": 0}, "`every_n_epochs` is 0"),
        ({"every_n_epochs": "often"}, "`every_n_epochs` is 'often'"),
        ({"on_error": "ignore"}, "`on_error` is 'ignore'"),
        ({"forward": 3}, "`forward` is a int"),
        ({"probes": 3}, "`probes` is a int"),
        ({"probes": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)}, "`images` is a torch.uint8 tensor"),
        ({"probes": torch.zeros(3, 4, 4)}, r"`images` has shape \(3, 4, 4\)"),
        ({"probes": (torch.zeros(2, 3, 4, 4), [0])}, "`labels` has shape"),
        ({"probes": "no/such/folder"}, "`path` is 'no/such/folder'"),
    ],
)
def test_bad_arguments_are_refused_by_the_constructor(callback, arguments, message):
    with pytest.raises(Exception, match=r"\w") as caught:
        callback(**arguments)
    assert caught.type in (ValueError, TypeError)
    assert re.search(message, str(caught.value))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ActivationLogger(max_channels=0), "`max_channels` is 0"),
        (lambda: ActivationLogger(cmap="rainbows"), "`cmap` is 'rainbows'"),
        (lambda: FilterPatternLogger(num_filters=0), "`num_filters` is 0"),
        (lambda: FilterPatternLogger(steps=0), "`steps` is 0"),
        (lambda: FilterPatternLogger(size=4), "`size` is 4"),
        (lambda: FilterPatternLogger(objective="most"), "`objective` is 'most'"),
        (lambda: FilterPatternLogger(objective="diverse"), "`objective` is 'diverse', .* Use `ascent.patterns`"),
        (lambda: FilterPatternLogger(cold_steps=0), "`cold_steps` is 0"),
        (lambda: FilterPatternLogger(chunk=0), "`chunk` is 0"),
        (lambda: FilterPatternLogger(canvas="oil"), "`canvas` is 'oil'. It can be .*'fourier'"),
        (lambda: FilterPatternLogger(filters=[]), "`filters` is empty"),
        (lambda: FilterPatternLogger(filters=[3, 3]), r"`filters` is \[3, 3\], which repeats itself"),
        (lambda: FilterPatternLogger(important_for=-1), "`important_for` is -1"),
        (lambda: FilterPatternLogger(filters="active", important_for=1), "`important_for` chooses filters, too"),
        (lambda: GradCAMLogger(method="gradcamm"), "Did you mean 'gradcam'"),
    ],
)
def test_arguments_of_one_callback(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Steps:
    """Counts training steps, to see that an error came before the first."""

    taken = 0


@pytest.fixture
def counted(tiny):
    class Counted(Watched):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            Steps.taken += 1
            return super().training_step(batch, batch_idx)

    Steps.taken = 0
    return Counted(tiny())


@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ActivationLogger("net.conv3"), "`layers` is 'net.conv3'.*Did you mean 'net.conv"),
        (lambda: FilterPatternLogger(["net.conv1", "x*"]), r"`layers` is 'x\*'"),
        (lambda: GradCAMLogger("conv"), "`layer` is 'conv'"),
        (lambda: GradCAMLogger(forward="nett"), "`forward` is 'nett'.*Did you mean 'net'"),
    ],
)
def test_unknown_layers_fail_before_the_first_step(fit, counted, make, message, sanity):
    with pytest.raises(ValueError, match=message):
        fit([make()], module=counted, num_sanity_val_steps=sanity)
    assert Steps.taken == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ActivationLogger("net.head"), "`layers` holds 'net.head', whose output has shape"),
        (lambda: GradCAMLogger("net.pool", probes=torch.zeros(2, 1, 12, 16)), "Give `probes=` that are input"),
        (
            lambda: GradCAMLogger(probes=(torch.zeros(2, 3, 12, 16), [0, 7])),
            "`probes` has label 7; the model has classes 0 to 4",
        ),
        (
            lambda: GradCAMLogger(forward=lambda model, images: str(model(images)), num_mistakes=0),
            "returned a str.*Give `output=`",
        ),
    ],
)
def test_what_does_not_fit_fails_in_the_dry_run_whatever_on_error_says(fit, counted, make, message):
    with pytest.raises(ValueError, match=message):
        fit([make()], module=counted)
    assert Steps.taken == 0


class Fails(VisualizationCallback):
    """Draws nothing but errors, after a dry run that went well."""

    name = "fails"

    def __init__(self, error: type[Exception] = RuntimeError, **arguments: Any) -> None:
        super().__init__(**{"num_probes": 2} | arguments)
        self.error, self.tries = error, 0

    def draw(self, context, parts):
        if context.snapshot.initial:
            return DrawResult({})
        self.tries += 1
        raise self.error("the brush broke")


def test_a_drawing_that_fails_warns_once_and_is_switched_off_after_three(fit):
    watcher = Fails()
    with pytest.warns(UserWarning, match="lightning_convviz|could not draw|switched off") as told:
        trainer = fit([watcher, *three()], max_epochs=5)
    messages = [str(warning.message) for warning in told]
    assert sum("the brush broke" in message for message in messages) == 1
    assert sum("failed 3 times in a row and is switched off" in message for message in messages) == 1
    assert watcher.tries == 3
    assert len(Events(trainer.logger.log_dir).steps("gradcam/probes")) == 5


def test_on_error_raise_raises(fit):
    with pytest.raises(RuntimeError, match="the brush broke"):
        fit([Fails(on_error="raise")])


def test_a_writer_that_fails_is_told_and_the_rest_is_written(fit, monkeypatch):
    calls = []

    def broken(logger, files):
        calls.append(files.drawing.name)
        if files.drawing.name == "filters":
            raise OSError("the disk is full")
        sinks.tensorboard(logger, files)

    monkeypatch.setitem(sinks.table.SINKS, "TensorBoardLogger", broken)
    with pytest.warns(UserWarning, match="could not write everything: OSError: the disk is full"):
        trainer = fit(three())
    events = Events(trainer.logger.log_dir)
    assert {tag.split("/")[0] for tag in events.tags} == {"activations", "gradcam"}


def test_a_writer_slower_than_the_run_drops_the_oldest_and_tells(fit, monkeypatch):
    gate = threading.Event()
    written = []

    def slow(logger, files):
        gate.wait(10)
        written.append((files.drawing.name, files.drawing.step))

    class Opens(L.Callback):
        def on_train_end(self, trainer, pl_module):
            threading.Timer(0.7, gate.set).start()  # when all has been handed over

    monkeypatch.setitem(sinks.table.SINKS, "TensorBoardLogger", slow)
    with pytest.warns(UserWarning, match="dropped because writing was slower"):
        fit([GradCAMLogger(on_error="raise"), Opens()], max_epochs=6)
    assert written[0] == ("gradcam", 0)
    assert written[-2:] == [("gradcam", 35), ("animation/gradcam", 35)], "what ends the run drops nothing"
    assert len(written) == 4


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_run_that_breaks_leaves_its_pictures_and_no_hook(fit, tiny, error):
    class Breaks(Watched):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            if self.trainer.current_epoch == 2:
                raise error("out of luck")
            super().validation_step(batch, batch_idx)

    class Sees(Fails):
        def start_validation(self, run: RunInfo) -> Observers:
            return [("net.conv1", Shapes([]))]

        def draw(self, context, parts):
            return DrawResult({})

    module = Breaks(tiny())
    with pytest.raises(RuntimeError if error is RuntimeError else SystemExit):
        fit([Sees(), *three()], module=module, max_epochs=4)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    folder = next(path for path in _folders(module))
    assert Events(folder).steps("gradcam/probes") == [5, 11]


def _folders(module: Any) -> list[str]:
    return [module.trainer.logger.log_dir]


class Shapes:
    """Keeps the shapes of what it is given, and nothing else."""

    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    def reduce(self, output):
        self.seen.append(output.shape)

    def update(self, batch, images):
        assert len(images) == self.seen[-1][0]

    def compute(self):
        return None

    @staticmethod
    def merge(parts):
        return None


def test_observers_see_the_users_own_validation_forward(fit):
    class Sees(Fails):
        def __init__(self):
            super().__init__()
            self.seen = []

        def start_validation(self, run: RunInfo) -> Observers:
            return [("net.relu1", Shapes(self.seen)), ("net.absent", Shapes([]))]

        def draw(self, context, parts):
            return DrawResult({})

    watcher = Sees()
    trainer = fit([watcher], max_epochs=1, num_sanity_val_steps=0)
    assert [shape[0] for shape in watcher.seen] == [8, 8, 4]
    assert not any(part._forward_hooks for part in trainer.lightning_module.modules())


def test_three_callbacks_share_one_forward_of_the_probes(fit, tiny):
    calls = []

    class Counts(Watched):
        def forward(self, images):
            if not torch.is_grad_enabled() or not self.training:
                calls.append(len(images))
            return super().forward(images)

    quiet = {"num_mistakes": 0, "heatmap_metrics": False}
    fit([ActivationLogger(num_probes=5), GradCAMLogger(num_probes=5, **quiet)], module=Counts(tiny()), max_epochs=1)
    # the dry run: a trace and the shared forward; then one forward a drawing
    assert calls.count(5) == 3
    calls.clear()
    fit([GradCAMLogger(num_probes=5, num_mistakes=0)], module=Counts(tiny()), max_epochs=1)
    assert calls.count(5) == 3 + 2 * 6, "six forwards more at each drawing for the heatmap metrics"


def test_probes_mistakes_and_those_that_are_followed_share_one_forward(fit, tiny):
    calls = []

    class Counts(Watched):
        def forward(self, images):
            if not self.training and len(images) not in (8, 4):  # as the validation's own batches are
                calls.append(len(images))
            return super().forward(images)

    callback = GradCAMLogger(
        "net.conv2", high_res_layer=None, heatmap_metrics=False, num_probes=6, num_mistakes=3, on_error="raise"
    )
    trainer = fit([callback], module=Counts(tiny()), max_epochs=3)
    # before training a trace and a forward, then a forward a drawing: three mistakes, and from the second one on three
    # that are followed
    assert calls == [6, 6 + 3, 6 + 3, 6 + 3 + 3, 6 + 3 + 3]
    assert Events(trainer.logger.log_dir).steps("gradcam/followed") == [5, 11, 17]


def test_probes_of_their_own_need_a_forward_of_their_own(fit):
    watchers = [
        ActivationLogger("net.conv1", probes=torch.randn(3, 3, 12, 16)),
        GradCAMLogger(num_probes=2, num_mistakes=0),
    ]
    trainer = fit(watchers)
    assert Events(trainer.logger.log_dir).tags == {"activations/net.conv1", "gradcam/probes"}


def test_no_validation_gives_one_warning(fit):
    with pytest.warns(UserWarning, match="draws at validations, and this run has none") as told:
        fit(three(), limit_val_batches=0)
    assert sum("lightning_convviz" in str(warning.message) for warning in told) == 1


def test_every_tensorboard_logger_gets_the_pictures(fit, tmp_path):
    loggers = [TensorBoardLogger(tmp_path / name, name=None) for name in ("one", "two")]
    fit([GradCAMLogger(on_error="raise")], logger=loggers)
    assert [Events(logger.log_dir).steps("gradcam/probes") for logger in loggers] == [[5, 11], [5, 11]]


def test_a_sink_of_ones_own(fit, monkeypatch, tmp_path):
    monkeypatch.setattr(sinks.table, "SINKS", dict(sinks.table.SINKS))
    seen = []
    sinks.register("CSVLogger")(lambda logger, files: seen.append((files.drawing.step, sorted(files.images))))
    fit([GradCAMLogger(num_mistakes=0, on_error="raise")], logger=CSVLogger(tmp_path))
    pages = ["evolution/gradcam/probes", "gradcam/probes"]
    assert seen == [(0, pages[1:]), (5, pages), (11, pages), (11, ["animation/gradcam/probes"])]


def test_fast_dev_run_draws_and_writes_nothing(fit):
    fit(three(), fast_dev_run=True)


def test_two_of_a_kind_are_refused(fit):
    with pytest.raises(ValueError, match=r"`callbacks` holds two callbacks named 'gradcam'.*another `name=`"):
        fit([GradCAMLogger(), GradCAMLogger()])


def test_the_same_callbacks_can_be_used_for_another_run(fit, tmp_path):
    watchers = three()
    fit(watchers)
    trainer = fit(watchers, logger=TensorBoardLogger(tmp_path / "again", name=None))
    assert Events(trainer.logger.log_dir).steps("gradcam/probes") == [5, 11]


def test_a_trainer_is_let_go_of_after_its_run_and_no_thread_stays(fit):
    watchers = three()
    trainer = fit(watchers)
    assert len({id(watcher._coordinator) for watcher in watchers}) == 1
    assert not any(thread.name == "convviz-writer" for thread in threading.enumerate())
    gone = weakref.ref(trainer)
    del trainer, watchers
    gc.collect()
    assert gone() is None


# -- batches and forwards of all kinds --------------------------------------------------------------------------------


class Dicts(Dataset):
    def __init__(self, images: str, labels: str, extra: str | None = None) -> None:
        self.keys, self.items = (images, labels, extra), data(20, seed=1)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, label = self.items[index]
        item = {self.keys[0]: image, self.keys[1]: label}
        return item | ({self.keys[2]: torch.tensor(float(index))} if self.keys[2] else {})


@pytest.mark.parametrize(("images", "labels"), [("image", "label"), ("pixel_values", "labels"), ("x", "target")])
def test_batches_may_be_mappings(fit, tiny, images, labels):
    class Module(Watched):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("val_loss", F.cross_entropy(self(batch[images]), batch[labels]), batch_size=8)

    val = DataLoader(Dicts(images, labels), batch_size=8)
    trainer = fit([GradCAMLogger(on_error="raise")], module=Module(tiny()), val=val)
    assert Events(trainer.logger.log_dir).steps("gradcam/probes") == [5, 11]


def test_a_model_of_several_inputs_gets_the_others_from_its_batch(fit, tiny):
    class Module(Watched):
        def forward(self, images: Any, age: Any) -> Any:
            return self.net(images) + age[:, None]

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self(batch["image"], batch["age"]), batch["label"])

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("val_loss", self.training_step(batch, batch_idx), batch_size=8)

    loader = DataLoader(Dicts("image", "label", "age"), batch_size=8)
    trainer = fit(three(), module=Module(tiny()), train=loader, val=loader)
    assert "gradcam/probes" in Events(trainer.logger.log_dir).tags


def test_a_module_without_forward_is_watched_where_the_images_go_in(fit, tiny):
    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.wrapped = nn.Sequential(tiny())

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self.wrapped(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", F.cross_entropy(self.wrapped(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    module = Module()
    trainer = fit(three(), module=module)
    assert "activations/wrapped.0.conv1" in Events(trainer.logger.log_dir).tags
    assert not any(part._forward_pre_hooks for part in module.modules())


def test_a_batch_without_images_is_told_of_before_training(fit, counted):
    class Module(type(counted)):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("val_loss", batch[0].float().mean())

    val = DataLoader(data(20).tensors[1], batch_size=4)
    with pytest.raises(ValueError, match="the validation batch is a Tensor without images"):
        fit([GradCAMLogger()], module=Module(counted.net), val=val)


def test_probes_of_double_precision_fit_a_net_of_single_precision(fit):
    trainer = fit([GradCAMLogger(probes=torch.rand(2, 3, 12, 16, dtype=torch.float64), on_error="raise")])
    assert Events(trainer.logger.log_dir).steps("gradcam/probes") == [5, 11]


@pytest.mark.parametrize("forward", ["net", lambda module, images: {"logits": module.net(images)}], ids=["name", "own"])
def test_forward_can_be_given(fit, forward):
    watchers = [*three(forward=forward)[:2], GradCAMLogger(forward=forward, num_mistakes=0, on_error="raise")]
    trainer = fit(watchers)
    assert Events(trainer.logger.log_dir).steps("gradcam/probes") == [5, 11]


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels(fit, channels):
    net = nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    train = DataLoader(data(channels=channels), batch_size=8)
    trainer = fit(three(), module=Watched(net), train=train, val=train)
    assert len(Events(trainer.logger.log_dir).steps("filters/net.0")) == 2


def test_small_batches_fill_the_probes_until_the_first_drawing(fit):
    watcher = GradCAMLogger(num_probes=7, on_error="raise")
    trainer = fit([watcher], val=DataLoader(data(20, seed=1), batch_size=2))
    drawn = Events(trainer.logger.log_dir).images("gradcam/probes")
    assert [facts(image)["rows"] for image in drawn] == [list(range(7))] * 2


def test_labels_and_names_come_from_the_data_set(fit):
    class Named(Dataset):
        classes = ("ant", "bee", "cat", "dog", "emu")
        items = data(20, seed=1)

        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> Any:
            return self.items[index]

    trainer = fit([GradCAMLogger(on_error="raise")], val=DataLoader(Named(), batch_size=8))
    items = facts(Events(trainer.logger.log_dir).images("gradcam/probes")[0])["items"]
    assert {item["true"] for item in items} <= set(Named.classes)
    assert len({item["true"] for item in items}) == len(set(Named.items.tensors[1][:8].tolist()))


def test_pictures_of_a_folder(fit, tmp_path):
    from PIL import Image

    for name in ("b.png", "a.png"):
        Image.new("RGB", (16, 12), "red").save(tmp_path / name)
    probes = Probes.from_folder(tmp_path)
    assert probes.ids == ("a.png", "b.png")
    trainer = fit(three(probes=str(tmp_path)))
    assert Events(trainer.logger.log_dir).steps("gradcam/probes") == [5, 11]


# -- what a review found ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda callback: pickle.loads(pickle.dumps(callback))])
@pytest.mark.parametrize("callback", CALLBACKS)
def test_callbacks_can_be_copied_and_sent_to_other_processes(fit, callback, copied):
    trainer = fit([copied(callback(on_error="raise", num_probes=2))], max_epochs=1)
    assert Events(trainer.logger.log_dir).tags


def test_activations_and_patterns_need_no_classifier(fit):
    class Autoencoder(Watched):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.mse_loss(self(batch[0]), batch[0])

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("val_loss", self.training_step(batch, batch_idx))

    module = Autoencoder(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1)))
    trainer = fit(three()[:2], module=module)
    assert {"activations/net.0", "filters/net.2"} <= Events(trainer.logger.log_dir).tags


def test_no_image_is_a_probe_twice(fit):
    watcher = GradCAMLogger(num_probes=8, on_error="raise")
    seen = []
    watcher.draw = lambda context, parts: seen.append(context.probes.images.clone()) or DrawResult({})
    fit([watcher], val=DataLoader(data(20, seed=1), batch_size=2))
    assert [len(images) for images in seen] == [4, 8, 8]
    assert len(seen[1].flatten(1).unique(dim=0)) == 8
    assert torch.equal(seen[1], seen[2])


def test_buffers_that_repeat_their_memory_and_scripted_parts_do_no_harm(fit, tiny):
    class Module(Watched):
        def __init__(self, net: nn.Module) -> None:
            super().__init__(net)
            self.register_buffer("scale", torch.ones(1).expand(3), persistent=False)
            self.stream = torch.Generator().manual_seed(0)

        def forward(self, images: Any) -> Any:
            torch.rand(1, generator=self.stream)
            return self.net(images * self.scale[:, None, None])

    states = []
    for watchers in ([], three()):
        module = Module(tiny())
        fit(watchers, module=module)
        states.append(module.stream.get_state())
    assert torch.equal(*states)


def test_hooks_that_look_for_the_forward_do_not_pile_up(fit, tiny):
    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.most = tiny(), 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self.net(batch[0] / 2), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.most = max(self.most, len(self.net.conv1._forward_pre_hooks))
            self.log("val_loss", F.cross_entropy(self.net(batch[0] / 2), batch[1]))

        configure_optimizers = Watched.configure_optimizers

    module = Module()
    with pytest.raises(ValueError, match="has no `forward` of its own"):
        fit([GradCAMLogger(num_probes=2, num_mistakes=0)], module=module)
    assert module.most == 1
    module = Module()
    fit([GradCAMLogger(num_probes=2, forward="net", num_mistakes=0)], module=module)
    assert module.most == 0


@pytest.mark.parametrize("value", [-100, 7])
def test_integers_that_are_no_classes_are_not_taken_for_labels(fit, value):
    class Module(Watched):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("val_loss", self(batch[0]).mean(), batch_size=8)

    images = data(20, seed=1).tensors[0]
    val = DataLoader(torch.utils.data.TensorDataset(images, torch.full((20,), value)), batch_size=8)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer = fit([GradCAMLogger(on_error="raise")], module=Module(fit_net()), val=val)
    (first, _) = Events(trainer.logger.log_dir).images("gradcam/probes")
    assert facts(first)["columns"] == ["input", "predicted", "2nd best", "difference"]
    assert any("is no class of the model" in str(one.message) for one in told) == (value == 7)


@pytest.mark.parametrize("sanity", [0, 2])
def test_what_is_no_label_makes_no_mistakes(fit, sanity):
    """Integers of the batch that are no classes are known for what they are only when the model has run."""
    images = data(20, seed=1).tensors[0]
    val = DataLoader(torch.utils.data.TensorDataset(images, torch.arange(20)), batch_size=8)

    class Module(Watched):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("val_loss", self(batch[0]).mean(), batch_size=8)

    with pytest.warns(UserWarning, match="is no class of the model"):
        trainer = fit([GradCAMLogger(on_error="raise")], module=Module(fit_net()), val=val, num_sanity_val_steps=sanity)
    assert Events(trainer.logger.log_dir).tags == {"gradcam/probes"}


def test_images_of_another_size_are_left_out_of_the_probes(fit):
    val = [(torch.randn(1, 3, 12, 16 + index % 2), torch.tensor([index % 5])) for index in range(6)]
    loader = DataLoader(val, batch_size=None)
    trainer = fit([GradCAMLogger(num_probes=4, on_error="raise")], val=loader)
    (first, _) = Events(trainer.logger.log_dir).images("gradcam/probes")
    assert len(facts(first)["rows"]) == 3


def test_another_model_on_the_same_trainer_begins_anew(fit, tmp_path):
    trainer = fit(three(), max_epochs=1)
    trainer.fit_loop.max_epochs = 2
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    loader = DataLoader(data(20, seed=1), batch_size=8)
    trainer.fit(Watched(net), loader, loader)
    assert "activations/net.0" in Events(trainer.logger.log_dir).tags


def test_a_net_that_takes_one_size_only_gets_patterns_of_that_size(fit):
    class Fixed(nn.Sequential):
        def forward(self, images: Any) -> Any:
            assert images.shape[-1] == 120
            return super().forward(images)

    net = Fixed(nn.Conv2d(3, 4, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    probes = torch.randn(2, 3, 120, 120)

    class Module(Watched):
        def forward(self, images: Any) -> Any:
            return self.net(F.interpolate(images, (120, 120)) if images.shape[-1] == 16 else images)

    watcher = FilterPatternLogger(num_filters=1, steps=1, probes=probes, on_error="raise")
    trainer = fit([watcher], module=Module(net), max_epochs=1)
    assert facts(Events(trainer.logger.log_dir).images("filters/net.0")[0])["tiles"]["w"] % 120 == 0
    with pytest.raises(ValueError, match="`size` is 64, and the model fails on it"):
        fit([FilterPatternLogger(steps=1, probes=probes, size=64)], module=Module(net), max_epochs=1)


def test_a_diverged_net_is_called_that(fit):
    class Diverges(Watched):
        def on_validation_epoch_start(self) -> None:
            if not self.trainer.sanity_checking:
                self.net[4].head.weight.data.fill_(float("nan"))

    with pytest.warns(UserWarning, match="not finite.*training has probably diverged") as told:
        trainer = fit(three(), module=Diverges(fit_net()), max_epochs=1)
    assert sum("lightning_convviz" in str(one.message) for one in told) == 1
    (drawn,) = Events(trainer.logger.log_dir).images("gradcam/probes")
    assert {(item["right"], item["p_predicted"], item["margin"]) for item in facts(drawn)["items"]} == {(None,) * 3}


def test_a_slow_writer_is_waited_for_once(fit, monkeypatch):
    gate = threading.Event()
    monkeypatch.setitem(sinks.table.SINKS, "TensorBoardLogger", lambda logger, files: gate.wait(20))
    monkeypatch.setattr(sinks.writer, "PATIENCE", 0.2)
    with pytest.warns(UserWarning, match="not written within") as told:
        fit(three(), max_epochs=1)
    gate.set()
    assert sum("not written within" in str(one.message) for one in told) == 1


def test_what_was_drawn_before_a_crash_is_written(fit, tiny):
    class Breaks(L.Callback):
        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                raise RuntimeError("just then")

    module = Watched(tiny())
    with pytest.raises(RuntimeError, match="just then"):
        fit([Breaks(), *three()], module=module)
    assert Events(module.trainer.logger.log_dir).steps("gradcam/probes") == [5]


@pytest.mark.parametrize(
    ("layers", "message"),
    [([], "`layers` is empty"), (5, "`layers` is 5. It can be names"), ([5], r"`layers` is \[5\]")],
)
@pytest.mark.parametrize("callback", CALLBACKS[:2])
def test_layers_are_checked_by_the_constructor(callback, layers, message):
    with pytest.raises(TypeError if layers else ValueError, match=message):
        callback(layers)


def test_a_method_of_the_wrong_shape_is_refused(fit):
    with pytest.raises(ValueError, match="`method` returned shape"):
        fit([GradCAMLogger(method=lambda activations, gradients: activations)])


def test_the_first_event_of_a_tag_describes_it(fit):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    trainer = fit([GradCAMLogger(on_error="raise")])
    (path,) = Path(trainer.logger.log_dir).glob("events*")
    values = [value for event in EventFileLoader(str(path)).Load() for value in event.summary.value]
    first = next(value for value in values if value.tag == "gradcam/probes")
    assert first.metadata.plugin_data.plugin_name == "images"
    assert "Class activation heatmaps" in first.metadata.summary_description
    assert first.metadata.data_class == 3  # DATA_CLASS_BLOB_SEQUENCE


def test_a_step_never_repeats(fit):
    class Again(L.Callback):
        """Validates three times more at the same step."""

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            for _ in range(3):
                trainer.fit_loop.epoch_loop.val_loop.run()

    trainer = fit([GradCAMLogger(on_error="raise"), Again()])
    events = Events(trainer.logger.log_dir)
    assert events.metric("val_loss") == [5, 11, 12, 12, 12]
    assert events.steps("gradcam/probes") == [5, 11, 12, 13, 14]


def _weight_averaging() -> Any:
    if not hasattr(L.callbacks, "WeightAveraging"):
        pytest.skip("this Lightning averages no weights")
    return L.callbacks.WeightAveraging()


@pytest.mark.parametrize("before", [True, False])
def test_the_maps_are_those_of_the_averaged_weights_wherever_the_averaging_stands(fit, tiny, before):
    """The averaged weights, which make the metrics, are in place at the drawing, in either order of callbacks."""
    drawn = []
    watcher = GradCAMLogger(on_error="raise")
    watcher.draw = lambda context, parts: drawn.append(context.model.net.head.weight.detach().clone()) or DrawResult({})
    module = Watched(tiny())
    validated = []
    step = module.validation_step
    module.validation_step = lambda *args: (validated.append(module.net.head.weight.detach().clone()), step(*args))[1]
    averaging = _weight_averaging()
    fit([watcher, averaging] if before else [averaging, watcher], module=module)
    assert torch.equal(drawn[-1], validated[-1])
    assert not torch.equal(drawn[-1], drawn[-2])


def test_the_forward_is_in_the_precision_of_the_run(fit):
    seen = []
    watcher = GradCAMLogger(
        on_error="raise", num_mistakes=0,
        forward=lambda model, images: seen.append(model.net(images).dtype) or model(images),
    )  # fmt: skip
    fit([watcher], precision="bf16-mixed", max_epochs=1)
    assert set(seen) == {torch.bfloat16}


def fit_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), Head())


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 5)

    def forward(self, maps: Any) -> Any:
        return self.head(maps.mean((2, 3)))
