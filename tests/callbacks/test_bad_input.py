"""Bad and unusual input: it works, or it fails before the first training step and says what would be right."""

import inspect
import io
import re
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as L
import torch
from fits import Events, facts, three
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_convviz import ActivationLogger, FilterPatternLogger, GradCAMLogger, Probes, batches, outputs

# The modules here validate nothing, most of them: what GradCAMLogger says of that has tests of its own.
pytestmark = pytest.mark.filterwarnings("ignore:.*can't read the logits")

# -- arguments that are refused at once --------------------------------------------------------------------------------

TWO = torch.zeros(2, 3, 8, 12)
FOUR = TensorDataset(torch.zeros(4, 3, 8, 12), torch.arange(4))
LIKES = r"It can be Probes, a tensor of images, \(images, labels\), \(data set, indices\) or the path of a folder"

REFUSED = {
    "layer-number": (lambda: GradCAMLogger(5), TypeError, "`layer` is a int. It must be the name of one layer"),
    "layer-list": (lambda: GradCAMLogger(["conv1"]), ValueError, "`layer` is a list, and .*'gradcam' explains one"),
    "finer-number": (lambda: GradCAMLogger(high_res_layer=3), TypeError, "`high_res_layer` is a int. It must be"),
    "target-unknown": (lambda: GradCAMLogger(target="best"), ValueError, "`target` is 'best'. It can be .*'label'"),
    "target-flag": (lambda: GradCAMLogger(target=True), TypeError, "`target` is a bool. It can be .* a class, or a"),
    "mistakes-below-0": (lambda: GradCAMLogger(num_mistakes=-1), ValueError, "`num_mistakes` is -1. It must be at lea"),
    "signed-word": (lambda: GradCAMLogger(signed="yes"), TypeError, "`signed` is 'yes'. It must be True or False"),
    "metrics-number": (lambda: GradCAMLogger(heatmap_metrics=1), TypeError, "`heatmap_metrics` is 1. It must be True"),
    "logits-name": (lambda: GradCAMLogger(logits="out"), TypeError, "`logits` is a str. It must be a function: what"),
    "reshape-name": (lambda: GradCAMLogger(reshape="vit"), TypeError, "`reshape` is a str. It must be a function: a l"),
    "layers-none": (lambda: ActivationLogger(None), TypeError, "`layers` is None. It can be names, globs, module cl"),
    "layers-module": (lambda: ActivationLogger(nn.ReLU()), TypeError, r"`layers` is ReLU\(\). It can be names, globs"),
    "layers-other-class": (lambda: ActivationLogger(int), TypeError, "`layers` is <class 'int'>. It can be .* module"),
    "layers-set": (lambda: FilterPatternLogger({"a"}), TypeError, r"`layers` is \{'a'\}. It can be names, globs"),
    "method-near": (lambda: GradCAMLogger(method="hires"), ValueError, "`method` is 'hires'.*Did you mean 'hirescam'"),
    "method-far": (lambda: GradCAMLogger(method="lime"), ValueError, r"`method` is 'lime'. It can be \['eigencam', "),
    "method-number": (lambda: GradCAMLogger(method=3), TypeError, "`method` is a int. It can be .* or a function"),
    "output-name": (lambda: GradCAMLogger(output="logits"), TypeError, "`output` is a str. It must be a function"),
    "forward-list": (lambda: GradCAMLogger(forward=["net"]), TypeError, "`forward` is a list. It can be the name of"),
    "cmap-number": (lambda: ActivationLogger(cmap=3), TypeError, "`cmap` is 3. It must be the name of a matplotlib"),
    "max_channels": (lambda: ActivationLogger(max_channels=1.5), TypeError, "`max_channels` is 1.5. .*an integer of"),
    "strongest": (lambda: ActivationLogger(strongest=True), TypeError, "`strongest` is True. .*integer of at least 0"),
    "strongest-many": (lambda: ActivationLogger(strongest=99), ValueError, "`strongest` is 99. A row has room for 12"),
    "exciting": (lambda: ActivationLogger(exciting="all"), TypeError, "`exciting` is 'all'. .*integer.*or a list of"),
    "exciting-flag": (lambda: ActivationLogger(exciting=[True]), TypeError, r"`exciting` is \[True\]. .*integers"),
    "exciting-twice": (lambda: ActivationLogger(exciting=[2, 2]), ValueError, r"`exciting` is \[2, 2\], which repeats"),
    "exciting-many": (lambda: ActivationLogger(exciting=25), ValueError, "`exciting` asks for 25 channels. .*for 24"),
    "objective": (lambda: FilterPatternLogger(objective=3), TypeError, "`objective` is a int. .*'above_blank'"),
    "size-pair": (lambda: FilterPatternLogger(size=(9, 9)), TypeError, r"`size` is \(9, 9\). .*integer of at least 8"),
    "steps": (lambda: FilterPatternLogger(steps=2.5), TypeError, "`steps` is 2.5. It must be an integer of at least 1"),
    "filters": (lambda: FilterPatternLogger(filters="best"), ValueError, "`filters` is 'best'. It can be 'spread'"),
    "filters-flag": (lambda: FilterPatternLogger(filters=[True]), TypeError, r"`filters` is \[True\]. .*integers"),
    "classes": (lambda: FilterPatternLogger(classes=3), TypeError, "`classes` is 3. It must be a list of integers"),
    "warm": (lambda: FilterPatternLogger(warm=1), TypeError, "`warm` is 1. It must be True or False"),
    "canvas": (lambda: FilterPatternLogger(canvas=3), TypeError, "`canvas` is a int. It can be .*'fourier'"),
    "num_filters": (lambda: FilterPatternLogger(num_filters="9"), TypeError, "`num_filters` is '9'. .*an integer of"),
    "scale": (lambda: ActivationLogger(scale="filter"), ValueError, "`scale` is 'filter'. It can be 'layer' or"),
    "layer_stats": (lambda: ActivationLogger(layer_stats=1), TypeError, "`layer_stats` is 1. It must be True or False"),
    "evolution": (lambda: FilterPatternLogger(evolution=9), TypeError, "`evolution` is 9. It must be True or False"),
    "evolution of heatmaps": (lambda: GradCAMLogger(evolution="no"), TypeError, "`evolution` is 'no'. It must be True"),
    "num_probes": (lambda: GradCAMLogger(num_probes=True), TypeError, "`num_probes` is True. .*an integer of at least"),
    "every_n_epochs": (lambda: GradCAMLogger(every_n_epochs=-1), ValueError, "`every_n_epochs` is -1. .*at least 1"),
    "dataloader_idx": (lambda: GradCAMLogger(dataloader_idx=-1), ValueError, "`dataloader_idx` is -1. .*at least 0"),
    "name-empty": (lambda: GradCAMLogger(name=" / "), ValueError, "`name` is ' / '. It must be a word for the tags"),
    "name-number": (lambda: GradCAMLogger(name=3), TypeError, "`name` is 3. It must be a word for the tags"),
    "save_dir-number": (lambda: GradCAMLogger(save_dir=3), TypeError, "`save_dir` is 3. .* path of a local folder"),
    "save_dir-empty": (lambda: GradCAMLogger(save_dir=""), ValueError, "`save_dir` is ''. .* path of a local folder"),
    "save_dir-url": (lambda: GradCAMLogger(save_dir="s3://b"), ValueError, "`save_dir` is 's3://b'. .*a local folder"),
    "save_images": (lambda: GradCAMLogger(save_images="no"), TypeError, "`save_images` is 'no'. .*True or False"),
    "initial": (lambda: GradCAMLogger(initial=0), TypeError, "`initial` is 0. It must be True or False"),
    "on_error": (lambda: GradCAMLogger(on_error="Raise"), ValueError, "`on_error` is 'Raise'. .*'warn' or 'raise'"),
    "on_error-array": (lambda: GradCAMLogger(on_error=np.array("warn")), TypeError, "`on_error` is array.*'warn' or"),
    "array": (lambda: GradCAMLogger(probes=TWO.numpy()), TypeError, "`probes` is a ndarray. " + LIKES),
    "list": (lambda: GradCAMLogger(probes=[*TWO]), TypeError, "`probes` is a list. " + LIKES),
    "tuple-of-one": (lambda: GradCAMLogger(probes=(TWO,)), TypeError, "`probes` is a tuple. " + LIKES),
    "data-set": (lambda: GradCAMLogger(probes=FOUR), TypeError, "`probes` is a TensorDataset. " + LIKES),
    "integers": (lambda: GradCAMLogger(probes=TWO.long()), TypeError, "`images` is a torch.int64.*Give a floating"),
    "no-images": (lambda: GradCAMLogger(probes=TWO[:0]), ValueError, r"`images` has shape \(0, 3, 8, 12\). .*n of at"),
    "indices-none": (lambda: GradCAMLogger(probes=(FOUR, [])), ValueError, "`indices` is empty. Give the indices of"),
    "indices-high": (lambda: GradCAMLogger(probes=(FOUR, [4])), ValueError, "`indices` holds 4; .* has items 0 to 3"),
    "indices-low": (lambda: GradCAMLogger(probes=(FOUR, [-1])), ValueError, "`indices` holds -1; .* has items 0 to 3"),
    "labels-many": (lambda: GradCAMLogger(probes=(TWO, [0, 1, 2])), ValueError, r"`labels` .*\(3,\).*Give 2 integers"),
    "labels-one-hot": (lambda: GradCAMLogger(probes=(TWO, torch.eye(2))), ValueError, r"`labels` .*\(2, 2\).*2 int"),
    "labels-float": (lambda: GradCAMLogger(probes=(TWO, [0.0, 1.0])), ValueError, "`labels` .*float32. Give 2 int"),
    "labels-negative": (lambda: GradCAMLogger(probes=(TWO, [0, -1])), ValueError, r"`labels` holds \[0, -1\]. .*from"),
    "labels-unnamed": (lambda: Probes(TWO, [0, 2], ["ant", "bee"]), ValueError, "`class_names` has 2 names, but "),
    "names-string": (lambda: Probes(TWO, class_names="ab"), TypeError, "`class_names` is 'ab'. Give a list of names"),
    "names-numbers": (lambda: Probes(TWO, class_names=[0, 1]), TypeError, r"`class_names` is \[0, 1\]. Give a list of"),
    "ids-array": (lambda: Probes(TWO, ids=np.arange(2)), TypeError, r"`ids` is array.*Give a list of integers or nam"),
    "extra_inputs-list": (
        lambda: Probes(TWO, extra_inputs=[TWO]), TypeError, "`extra_inputs` is a list. Give a dictionary of tensors"
    ),
    "extra_inputs-number": (
        lambda: Probes(TWO, extra_inputs={"age": 3}), TypeError, r"`extra_inputs\['age'\]` is a int. Give a tensor"
    ),
    "space-name": (lambda: Probes(TWO, space="imagenet"), TypeError, "`space` is a str. Give a Denormalization, or"),
    "mean-words": (lambda: Probes(TWO, mean=["a"], std=[1]), TypeError, r"`mean` is \['a'\]. Give a list with a numbe"),
    "std-nan": (lambda: Probes(TWO, mean=[0], std=[float("nan")]), ValueError, r"`std` is \[nan\]. Each must be fini"),
    "mean-alone": (lambda: Probes(TWO, mean=[0.5]), ValueError, "`mean` and `std` .*Give both or neither"),
    "mean-of-two": (lambda: Probes(TWO, mean=[0, 0], std=[1, 1]), ValueError, "`mean` has 2 numbers for 3 channels"),
    "std-short": (lambda: Probes(TWO, mean=[0, 0, 0], std=[1]), ValueError, "`mean` has 3 .* `std` has 1. Give one"),
    "std-zero": (lambda: Probes(TWO, mean=[0], std=[0]), ValueError, r"`std` is \[0.0\]. Each must be greater than 0"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_arguments_are_refused_at_once(make, error, message):
    refused(make, error, message)


def refused(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(Exception, match=r"\w") as caught:
        make()
    assert caught.type is error
    assert re.search(message, str(caught.value))


NEVER = [object(), 1j, np.zeros(2), np.array("warn"), np.array(["layer", "log"]), b"log", {"auto"}, slice(2)]


@pytest.mark.parametrize("make", [ActivationLogger, FilterPatternLogger, GradCAMLogger, Probes])
def test_every_argument_refuses_what_it_can_never_be_and_says_its_name(make):
    usual = {"images": TWO, "mean": [0], "std": [1]} if make is Probes else {}
    others, wrong = {"images", "labels", "path", "indices", "probes"}, []
    for argument in inspect.signature(make).parameters:
        named = others if argument == "probes" else {argument}
        for value in NEVER:
            if argument == "class_names" and isinstance(value, np.ndarray) and value.ndim and value.dtype.kind == "U":
                continue  # these are names
            try:
                make(**usual | {argument: value})
                wrong.append(f"{argument}={value!r} is accepted")
            except (TypeError, ValueError) as error:
                if not any(str(error).startswith(f"`{name}") for name in named):
                    wrong.append(f"{argument}={value!r}: {type(error).__name__}: {error}")
    assert wrong == []


def png(w: int, h: int) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


FOLDERS = {
    "empty": ({}, "`path` is '.*pictures', where there are no pictures. Give a folder that holds some"),
    "text-only": ({"a.txt": b"no picture"}, "`path` is '.*pictures', where there are no pictures"),
    "no-png": ({"a.png": png(12, 8), "b.png": b"?"}, "`path` holds 'b.png', which can't be read as a picture"),
    "truncated": ({"a.png": png(99, 99)[:5000]}, "`path` holds 'a.png', which can't be read .*truncated"),
    "no-bytes": ({"a.jpg": b""}, "`path` holds 'a.jpg', which can't be read as a picture"),
}


@pytest.mark.parametrize(("files", "message"), FOLDERS.values(), ids=FOLDERS)
def test_bad_folders_are_refused_at_once(tmp_path, files, message):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    refused(lambda: GradCAMLogger(probes=str(folder)), ValueError, message)


# -- models and data ---------------------------------------------------------------------------------------------------

_stream = torch.Generator().manual_seed(45)
IMAGES = torch.randn(8, 3, 12, 16, generator=_stream) + 2 * torch.randn(8, 3, 1, 1, generator=_stream)
CLASSES = torch.arange(8) % 5  # so that the four probes are the first four images
AGES = torch.linspace(-3, 3, 8)


class Bare(L.LightningModule):
    """A classifier that counts its training steps and has no `forward`: its validation calls the net."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.taken = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.taken += 1
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.net(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Model(Bare):
    """Returns what `bend` makes of the net's logits, and takes validation batches of all kinds."""

    def __init__(self, net: nn.Module, bend: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__(net)
        self.bend = bend

    def forward(self, images: Any) -> Any:
        return self.bend(self.net(images))

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        pass


def loader(*parts: Tensor, **arguments: Any) -> DataLoader:
    return DataLoader(TensorDataset(*(parts or (IMAGES, CLASSES))), **{"batch_size": 8} | arguments)


def of(batch: Any) -> DataLoader:
    """A loader with one batch, as it is."""
    return DataLoader([0], batch_size=1, collate_fn=lambda items: batch)


# -- what does not fit -------------------------------------------------------------------------------------------------


def fails(fit: Any, watcher: Any, module: Bare, message: str, val: Any = None) -> None:
    with pytest.raises(ValueError, match=message):
        fit([watcher], module=module, train=loader(), val=loader() if val is None else val, max_epochs=1)
    assert module.taken == 0


MISFITS = {
    "layers-near": (lambda: ActivationLogger("net.conv3"), "`layers` is 'net.conv3', which `Model` .*mean 'net.conv"),
    "layers-far": (lambda: ActivationLogger("encoder"), "`layers` is 'encoder', .*Its layers begin .'net', 'net"),
    "layers-class": (lambda: ActivationLogger(nn.Conv3d), "`layers` is <class .*Conv3d'>, which `Model` does not have"),
    "layers-head": (lambda: ActivationLogger("net.head"), r"`layers` holds 'net.head', .*shape \(8, 5\). .*with maps"),
    "exciting": (lambda: ActivationLogger(exciting=[1, 9]), "`exciting` holds 9; layer 'net.conv1' .*0 to 3"),
    "layers-one-of": (lambda: FilterPatternLogger(["net.conv1", "net.con"]), "`layers` is 'net.con', .*Did you mean"),
    "layers-unused": (lambda: FilterPatternLogger("net.relu2", forward="net.conv1"), "'net.relu2', .*does not call"),
    "layer-several": (lambda: GradCAMLogger("net.conv*"), r"`layer` is 'net.conv\*', .*for 2 layers.*conv2'\]. Name"),
    "layer-head": (lambda: GradCAMLogger("net.head"), r"`layer` is 'net.head', .*shape \(8, 5\). .*maps"),
    "layer-empty": (lambda: GradCAMLogger(""), "`layer` is '', which `Model` does not have. Its layers begin"),
    "forward-near": (lambda: GradCAMLogger(forward="nets"), "`forward` is 'nets', .*Did you mean 'net'"),
    "forward-several": (lambda: GradCAMLogger(forward="*"), r"`forward` is '\*', which stands for 10 layers.*Name one"),
    "forward-one": (lambda: GradCAMLogger(forward=lambda images: images), "takes 1 .*`forward=` a function .model, im"),
    "forward-three": (lambda: GradCAMLogger(forward=lambda model, images, age: 0), "needs 'age' .*Give `forward=`"),
    "forward-part": (lambda: GradCAMLogger(forward="net.conv1"), r"returned a tensor of shape \(8, 4, 12, 16\)"),
    "output-scalar": (lambda: GradCAMLogger(output=torch.mean), r"`output` returned .*shape \(\), .*a function"),
    "output-none": (lambda: GradCAMLogger(output=lambda logits: None), "`output` returned a NoneType, .*a function"),
    "method-flat": (lambda: GradCAMLogger(method=lambda a, g: a.sum(1).sum(1)), r"`method` returned .*\(8, 6, 8\)"),
    "loader": (lambda: GradCAMLogger(dataloader_idx=3), "`dataloader_idx` is 3, and there are 1 loaders, 0 to 0"),
    "channels": (lambda: ActivationLogger(probes=TWO[:, :1]), r"\(2, 1, 8, 12\).*but got 1 channels.*Give `probes=`"),
    "label": (lambda: GradCAMLogger(probes=(TWO, [0, 5])), "`probes` has label 5; the model has classes 0 to 4"),
    "size": (lambda: FilterPatternLogger("net.conv2", size=8, forward=only_wide), "`size` is 8, .*too low.*Leave it"),
}  # fmt: skip


def only_wide(model: Any, images: Tensor) -> Any:
    if images.shape[-1] < 16:
        raise ValueError("too low")
    return model(images)


@pytest.mark.parametrize(("make", "message"), MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_the_model_fails_before_the_first_step(fit, tiny, make, message):
    fails(fit, make(), Model(tiny()), message)


UNREADABLE = {
    "nothing": (lambda logits: None, "a NoneType"),
    "text": (lambda logits: "cat", "a str"),
    "classes": (lambda logits: logits.argmax(1), r"a tensor of shape \(2,\)"),
    "pixels": (lambda logits: logits[..., None, None].expand(-1, -1, 6, 6), r"a tensor of shape \(8, 5, 6, 6\)"),
    "sequence": (lambda logits: logits[:, None].expand(-1, 3, -1), r"a tensor of shape \(8, 3, 5\)"),
    "loss": (lambda logits: logits.mean(), r"a tensor of shape \(\)"),
    "no-classes": (lambda logits: logits[:, :0], r"a tensor of shape \(2, 0\)"),
    "detections": (lambda logits: {"scores": logits, "boxes": logits}, r"a dict with the keys \['boxes', 'scores'\]"),
    "features-only": (lambda logits: HFOutput(last_hidden_state=logits), r"a HFOutput with the keys \['last_hidden"),
    "empty-object": (lambda logits: Answer(None), "a Answer"),
    "empty-tuple": (lambda logits: (), "a tuple"),
    "array": (lambda logits: logits.detach().numpy(), "a ndarray"),
}  # fmt: skip


class HFOutput(OrderedDict):
    """As Hugging Face's `ModelOutput`: a mapping, with attributes, that counts like a tuple."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]


@dataclass
class Answer:
    logits: Tensor | None
    loss: Tensor | None = None


@pytest.mark.parametrize(("bend", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_model_whose_logits_cannot_be_read_fails_before_the_first_step(fit, tiny, bend, message):
    said = rf"the model returned {message}.*, where class logits of shape \(n, k\) were expected. Give `output=`"
    fails(fit, GradCAMLogger(), Model(tiny(), bend), said)


class Net(nn.Module):
    """A net with a part that leads nowhere."""

    def __init__(self, net: nn.Module, detached: bool = False) -> None:
        super().__init__()
        self.inner, self.aside, self.unused, self.detached = net, nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), detached

    def forward(self, images: Tensor) -> Tensor:
        self.aside(images)
        return self.inner(images).detach() if self.detached else self.inner(images)


class Aged(Model):
    def forward(self, images: Tensor, age: Tensor) -> Tensor:
        return self.net(images) + age[:, None] * torch.arange(5)


class Halves(Bare):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.net(batch[0] / 2)


def flat() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(576, 5))


def one_size() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(280, 5))


MODELS = {
    "rows": (lambda net: Model(net, lambda logits: logits.repeat(2, 1)), GradCAMLogger, "16 rows of logits for 8 im"),
    "mlp-activations": (lambda net: Model(flat()), ActivationLogger, "`layers` is .auto., but no convolution .*Name"),
    "mlp-patterns": (lambda net: Model(flat()), FilterPatternLogger, "`layers` is .auto., but no convolution .*Name"),
    "mlp-maps": (lambda net: Model(flat()), GradCAMLogger, "`layer` is .auto., but no layer returned a map.*Name a"),
    "one-size": (
        lambda net: Model(one_size()), lambda: GradCAMLogger(probes=TWO),
        r"fails on the probes, a batch of shape \(2, 3, 8, 12\).*cannot be multiplied.*Give `probes=`",
    ),
    "unused": (lambda net: Model(Net(net)), lambda: GradCAMLogger("net.unused"), "'net.unused', .*does not call"),
    "aside": (lambda net: Model(Net(net)), lambda: GradCAMLogger("net.aside"), "`layer` is 'net.aside', which does"),
    "detached": (lambda net: Model(Net(net, True)), GradCAMLogger, "`layer` is 'net.inner.relu2', which does not"),
    "scripted": (lambda net: Model(torch.jit.script(net)), GradCAMLogger, "`layer` is .auto., .*give the model"),
    "two-inputs": (Aged, GradCAMLogger, "needs 'age' beside the images. Give `forward=` a function"),
    "no-forward": (Halves, GradCAMLogger, "`Halves` has no `forward` of its own.*Give `forward=`"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize(("make", "watcher", "message"), MODELS.values(), ids=MODELS)
def test_a_model_that_cannot_be_watched_fails_before_the_first_step(fit, tiny, make, watcher, message):
    fails(fit, watcher(), make(tiny()), message)


WITHOUT_IMAGES = {
    "bytes": ((IMAGES.byte(), CLASSES), "tuple"),
    "ragged": (([IMAGES[0], IMAGES[1, :, :8]], CLASSES[:2]), "tuple"),
    "nested": (([IMAGES, AGES], CLASSES), "tuple"),
    "labels-only": (CLASSES, "Tensor"),
    "volumes": ([IMAGES[:, None], CLASSES], "list"),
    "object": (Answer(IMAGES), "Answer"),
    "nothing": (None, "NoneType"),
    "text": ("cat", "str"),
}


@pytest.mark.parametrize(("batch", "came"), WITHOUT_IMAGES.values(), ids=WITHOUT_IMAGES)
def test_a_batch_without_images_fails_before_the_first_step(fit, tiny, batch, came):
    message = rf"batch is a {came} without images \(a floating-point tensor n, c, h, w\). Give `probes=`"
    fails(fit, GradCAMLogger(), Model(tiny()), message, of(batch))


# -- what is unusual and works -----------------------------------------------------------------------------------------


def works(
    fit: Any, module: Bare, val: Any = None, *, images: Tensor = IMAGES[:4], truth: Any = None, names: Any = None,
    labels: Any = (0, 1, 2, 3), gradcam: Any = (), **arguments: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """All three callbacks draw, and what the picture says of the probes is what the net says of `images`."""
    arguments = {"on_error": "raise", "num_probes": 4} | arguments
    watchers = [
        ActivationLogger(max_channels=1, **arguments),
        FilterPatternLogger(num_filters=1, steps=1, cold_steps=1, **arguments),
        GradCAMLogger(**arguments | dict(gradcam)),
    ]  # fmt: skip
    trainer = fit(
        watchers, module=module, train=loader(images, CLASSES[: len(images)]), max_epochs=1,
        val=loader() if val is None else val,
    )  # fmt: skip
    assert module.taken > 0
    events = Events(trainer.logger.log_dir)
    assert {tag.split("/")[0] for tag in events.tags} == {"activations", "filters", "gradcam"}
    (drawn,) = events.images("gradcam/probes")
    module.eval()  # the picture is of the last step, after which nothing changed
    with torch.no_grad():
        logits = module.net(images.float()) if truth is None else truth(module, images)
    probabilities = logits.float().softmax(1)
    called = names or [f"class {index}" for index in range(probabilities.shape[1])]
    items = facts(drawn)["items"]
    assert [item["predicted"] for item in items] == [called[index] for index in probabilities.argmax(1)]
    assert [item["p_predicted"] for item in items] == pytest.approx(probabilities.amax(1).tolist(), abs=1e-3)
    if labels is None:
        assert facts(drawn)["columns"][:3] == ["input", "predicted", "2nd best"]
        assert {item["true"] for item in items} == {None}
    else:
        assert [item["true"] for item in items] == [called[label] for label in labels]
        ours = [row[label].item() for row, label in zip(probabilities, labels, strict=True)]
        assert [item["p_true"] for item in items] == pytest.approx(ours, abs=1e-3)
    return items


Pair = namedtuple("Pair", ["logits", "aux_logits"])

OUTPUTS = {
    "tensor": (lambda logits: logits, None),
    "tuple": (lambda logits: (logits, logits.argmax(1)), None),
    "tuple-of-classes-first": (lambda logits: (logits.argmax(1), logits), None),
    "loss-and-logits": (lambda logits: (logits.mean(), logits), None),
    "maps-and-logits": (lambda logits: [torch.zeros(len(logits), 4, 6, 6), logits], None),
    "auxiliary-heads": (lambda logits: [logits, -logits, logits[:, :2]], None),
    "namedtuple": (lambda logits: Pair(logits, -logits), None),
    "dict": (lambda logits: {"features": -logits, "logits": logits}, None),
    "dict-of-segmenter": (lambda logits: OrderedDict(out=logits, aux=-logits), None),
    "nested": (lambda logits: {"output": (logits.mean(), {"logits": logits})}, None),
    "dataclass": (lambda logits: Answer(logits, logits.mean()), None),
    "hugging-face": (lambda logits: HFOutput(loss=logits.mean(), logits=logits, hidden_states=(-logits,)), None),
    "log-softmax": (lambda logits: logits.log_softmax(1), None),
    "softmax": (lambda logits: logits.softmax(1), None),
    "softmax-in-dict": (lambda logits: {"preds": logits.softmax(1)}, None),
    "double": (lambda logits: logits.double(), None),
    "output-key": (lambda logits: {"boxes": logits}, lambda output: output["boxes"]),
    "output-second": (lambda logits: (-logits, logits), lambda output: output[1]),
    "output-mean": (lambda logits: logits[..., None, None].expand(-1, -1, 6, 6), lambda output: output.mean((2, 3))),
    "output-text": (lambda logits: Answer(None, logits), lambda answer: {"logits": answer.loss}),
}


@pytest.mark.parametrize(("bend", "output"), OUTPUTS.values(), ids=OUTPUTS)
def test_logits_are_read_from_what_models_return(tiny, bend, output):
    logits = tiny()(IMAGES).detach()
    expected = logits.log_softmax(1) if "softmax" in str(bend.__code__.co_names) else logits
    torch.testing.assert_close(outputs.logits(bend(logits), output).float(), expected)


@pytest.mark.parametrize("name", ["tuple-of-classes-first", "hugging-face", "softmax-in-dict", "double", "output-text"])
def test_pictures_are_of_the_logits_that_models_return(fit, tiny, name):
    bend, output = OUTPUTS[name]
    works(fit, Model(tiny(), bend), gradcam={"output": output})


def test_the_probes_of_these_tests_tell_classes_apart(fit, tiny):
    items = works(fit, Model(tiny()))
    assert len({item["predicted"] for item in items}) == 3
    assert {item["right"] for item in items} == {True, False}


@pytest.mark.parametrize("shape", [(-1, 1), (-1,)], ids=["column", "flat"])
def test_one_logit_is_two_classes(fit, tiny, shape):
    module = Model(tiny(classes=1), lambda logits: (logits / 4 + 1.5).reshape(shape))
    items = works(
        fit, module, loader(IMAGES, CLASSES % 2), labels=(0, 1, 0, 1),
        truth=lambda module, images: F.pad(module.net(images) / 4 + 1.5, (1, 0)),  # the sigmoid is a softmax of (0, z)
    )  # fmt: skip
    assert {item["predicted"] for item in items} == {"class 0", "class 1"}


class Named(TensorDataset):
    """A data set that knows something of itself."""

    def __init__(self, **known: Any) -> None:
        super().__init__(IMAGES, CLASSES)
        self.__dict__.update(known)


class Stream(IterableDataset):
    """Has no length."""

    def __iter__(self) -> Any:
        return iter(zip(IMAGES, CLASSES, strict=True))


ANIMALS = ["ant", "bee", "cat", "dog", "emu"]
KNOWN = {"labels": (0, 1, 2, 3)}
UNKNOWN = {"labels": None}

BATCHES = {
    "column-of-labels": (lambda: loader(IMAGES, CLASSES[:, None]), KNOWN),
    "uint8-labels": (lambda: loader(IMAGES, CLASSES.byte()), KNOWN),
    "uint8-column": (lambda: loader(IMAGES, CLASSES.byte()[:, None]), KNOWN),
    "int32-labels": (lambda: loader(IMAGES, CLASSES.int()), KNOWN),
    "labels-first": (lambda: loader(CLASSES, IMAGES), KNOWN),
    "more-than-two": (lambda: loader(IMAGES, AGES, CLASSES), KNOWN),
    "dict": (lambda: of({"label": CLASSES, "image": IMAGES}), KNOWN),
    "dict-with-ids": (lambda: of({"id": torch.arange(8) + 90, "x": IMAGES, "y": CLASSES, "file": ["a"] * 8}), KNOWN),
    "user-dict": (lambda: of(UserDict(pixel_values=IMAGES, labels=CLASSES)), KNOWN),
    "namedtuple": (lambda: of(namedtuple("Batch", ["pictures", "kinds"])(IMAGES, CLASSES)), KNOWN),
    "no-labels": (lambda: DataLoader(IMAGES, batch_size=8), UNKNOWN),
    "float-labels": (lambda: loader(IMAGES, CLASSES.float()), UNKNOWN),
    "one-hot": (lambda: loader(IMAGES, F.one_hot(CLASSES, 5)), UNKNOWN),
    "unlabeled": (lambda: loader(IMAGES, torch.full((8,), -1)), UNKNOWN),
    "stream": (lambda: DataLoader(Stream(), batch_size=8), KNOWN),
    "named": (lambda: DataLoader(Named(classes=ANIMALS), batch_size=8), {"names": ANIMALS}),
    "named-by-number": (lambda: DataLoader(Named(classes=5, transform=None), batch_size=8), KNOWN),
    "too-few-names": (lambda: DataLoader(Named(classes=["ant"]), batch_size=8), KNOWN),
    "second-of-two": (lambda: [loader(-IMAGES, CLASSES), loader()], {"dataloader_idx": 1}),
    "second-by-name": (lambda: {"a": loader(-IMAGES, CLASSES), "b": loader()}, {"dataloader_idx": 1}),
    "channels-last": (lambda: loader(IMAGES.contiguous(memory_format=torch.channels_last), CLASSES), KNOWN),
    "double": (lambda: loader(IMAGES.double(), CLASSES), KNOWN),
}  # fmt: skip


@pytest.mark.parametrize(("val", "said"), BATCHES.values(), ids=BATCHES)
def test_images_and_labels_are_found_in_batches_of_all_kinds(val, said):
    loaders = val()
    each = [*loaders.values()] if isinstance(loaders, dict) else loaders if isinstance(loaders, list) else [loaders]
    images, labels, _ = batches.read(next(iter(each[said.get("dataloader_idx", 0)])))
    assert torch.equal(images.float(), IMAGES)
    known = said.get("labels", KNOWN["labels"]) is not None
    # -1 stands for none: the callbacks leave it out, as they know the model's classes
    assert (labels is not None and labels.tolist() == CLASSES.tolist()) == known
    assert known or labels is None or set(labels.tolist()) == {-1}


IN_FITS = ["column-of-labels", "dict-with-ids", "user-dict", "no-labels", "unlabeled", "stream", "named"]
IN_FITS += ["too-few-names", "second-of-two", "second-by-name", "double"]


@pytest.mark.parametrize("name", IN_FITS)
def test_pictures_are_of_the_images_of_batches_of_all_kinds(fit, tiny, name):
    val, said = BATCHES[name]
    works(fit, Model(tiny()), val(), **said)


PROBES = {
    "images": (lambda: IMAGES[4:], UNKNOWN),
    "labels-list": (lambda: (IMAGES[4:], [4, 0, 1, 2]), {"labels": (4, 0, 1, 2)}),
    "labels-uint8": (lambda: (IMAGES[4:], CLASSES[4:].byte()), {"labels": (4, 0, 1, 2)}),
    "indices": (lambda: (TensorDataset(IMAGES, CLASSES), range(4, 8)), {"labels": (4, 0, 1, 2)}),
    "named": (lambda: Probes(IMAGES[4:], [0] * 4, ANIMALS, ids="wxyz"), {"labels": (0,) * 4, "names": ANIMALS}),
    "with-gradient": (lambda: IMAGES[4:].clone().requires_grad_(), UNKNOWN),
}


@pytest.mark.parametrize(("probes", "said"), PROBES.values(), ids=PROBES)
def test_probes_of_all_kinds(fit, tiny, probes, said):
    works(fit, Model(tiny()), probes=probes(), images=IMAGES[4:], **said)


class Gray(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.widen, self.net = nn.Conv2d(1, 3, 1), net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(self.widen(images))


def test_one_channel(fit, tiny):
    gray = IMAGES[:, :1]
    works(fit, Model(Gray(tiny())), loader(gray, CLASSES), images=gray[:4])


class AgedByName(Model):
    def forward(self, images: Tensor, *, age: Tensor, scale: float = 1.0) -> Tensor:
        return self.net(images) + age[:, None] * torch.arange(5) * scale


class OfBatch(Model):
    def forward(self, batch: Any) -> Tensor:
        return self.net(batch["image"])


class Frozen(Model):
    """A backbone that is run without gradients, and a forward that takes anything."""

    def forward(self, *images: Tensor, **others: Any) -> Any:
        with torch.no_grad():
            maps = self.net.features(*images)
        return self.net.head(maps.mean((2, 3)))


def aged(module: Model, images: Tensor) -> Tensor:
    return module.net(images) + AGES[:4, None] * torch.arange(5)


FORWARDS = {
    "none": (Bare, loader, {}),
    "none-and-wrapped": (lambda net: Bare(nn.Sequential(nn.Sequential(net))), loader, {}),
    "none-but-named": (Halves, loader, {"forward": "net"}),
    "two-inputs-dict": (Aged, lambda: of({"image": IMAGES, "label": CLASSES, "age": AGES}), {"truth": aged}),
    "two-inputs-tuple": (Aged, lambda: loader(IMAGES, AGES, CLASSES), {"truth": aged}),
    "two-inputs-last": (Aged, lambda: loader(IMAGES, CLASSES, AGES), {"truth": aged}),
    "keyword-only": (AgedByName, lambda: of({"image": IMAGES, "label": CLASSES, "age": AGES}), {"truth": aged}),
    "supplied": (
        Aged, loader,
        {"forward": lambda model, images: model(images, torch.ones(len(images))),
         "truth": lambda module, images: module.net(images) + torch.arange(5)},
    ),
    "takes-the-batch": (OfBatch, loader, {"forward": lambda model, images: model({"image": images})}),
    "frozen": (Frozen, loader, {}),
}  # fmt: skip


@pytest.mark.parametrize(("make", "val", "said"), FORWARDS.values(), ids=FORWARDS)
def test_forwards_of_all_kinds(fit, tiny, make, val, said):
    works(fit, make(tiny()), val(), **said)


@pytest.mark.filterwarnings("ignore:Total length of `.*` across ranks is zero")
@pytest.mark.parametrize("val", [lambda: DataLoader([]), list], ids=["empty-loader", "no-loader"])
def test_without_a_validation_batch_there_is_no_picture(fit, tiny, val):
    module = Model(tiny())
    trainer = fit(three(), module=module, train=loader(), val=val(), max_epochs=1)
    assert module.taken == 1
    assert Events(trainer.logger.log_dir).tags == set()
