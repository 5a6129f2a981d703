"""Mistakes of a real validation: found in the user's own forward, drawn, tracked, counted."""

from typing import ClassVar

import numpy as np
import pytest
import pytorch_lightning as L
import torch
from fits import Events, Watched, data, facts
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_convviz import GradCAMLogger, Probes, cams, heatmap_metrics, targets
from lightning_convviz.callbacks.gradcam.tracked_mistakes import TrackedMistakes
from lightning_convviz.engine import checkpoint
from lightning_convviz.engine.contract import RunInfo, ValidationBatch
from lightning_convviz.pages import explained as explained_
from lightning_convviz.pages.explained import ExplainedImages

VALIDATION = data(20, seed=1)


def gradcam(**arguments):
    return GradCAMLogger(**{"on_error": "raise", "num_probes": 4, "num_mistakes": 5} | arguments)


def last(trainer, tag):
    return facts(Events(trainer.logger.log_dir).images(tag)[-1])


def mistaken(module, count=5):
    """Places of the most confident errors, by a plain pass over the data."""
    module.eval()
    with torch.no_grad():
        confidence, said = module(VALIDATION.tensors[0]).softmax(1).max(1)
    wrong = [place for place in range(20) if said[place] != VALIDATION.tensors[1][place]]
    return sorted(wrong, key=lambda place: -confidence[place])[:count]


def test_the_most_confident_mistakes_of_the_validation_are_drawn_worst_first(fit):
    trainer = fit([gradcam()])
    carried = last(trainer, "gradcam/mistakes")
    places = mistaken(trainer.lightning_module)
    assert len(places) == 5, "the net errs often enough for this test"
    assert carried["rows"] == places
    assert all(item["right"] is False for item in carried["items"])
    assert carried["columns"][:4] == ["input", "predicted", "true", "difference"]
    shares = [item["p_predicted"] for item in carried["items"]]
    assert shares == sorted(shares, reverse=True)


def test_what_the_confusions_count_is_the_whole_validation(fit):
    trainer = fit([gradcam()])
    module = trainer.lightning_module.eval()
    with torch.no_grad():
        said = module(VALIDATION.tensors[0]).argmax(1)
    true = VALIDATION.tensors[1]
    for item in last(trainer, "gradcam/confusions")["items"]:
        one, other = (int(item[key].split()[-1]) for key in ("true", "predicted"))
        assert item["count"] == int(((true == one) & (said == other)).sum())
        assert item["of"] == int((true == one).sum())


def test_the_first_mistakes_are_pinned_and_followed(fit):
    trainer = fit([gradcam(num_mistakes=3)], max_epochs=4)
    events = Events(trainer.logger.log_dir)
    assert events.steps("gradcam/followed") == [5, 11, 17, 23]
    first = facts(events.images("gradcam/mistakes")[0])["rows"]
    for number, image in enumerate(events.images("gradcam/followed"), start=1):
        carried = facts(image)
        assert carried["rows"] == first
        assert carried["columns"] == [f"ep. {epoch}" for epoch in range(number)]
        assert [len(item["drawings"]) for item in carried["items"]] == [number] * 3
    module = trainer.lightning_module.eval()
    shares = module(VALIDATION.tensors[0][first]).softmax(1).detach()
    for row, place in enumerate(first):
        told = carried["items"][row]["drawings"][-1]
        assert told["p_true"] == pytest.approx(float(shares[row, VALIDATION.tensors[1][place]]), abs=1e-3)
        assert told["right"] == (int(shares[row].argmax()) == int(VALIDATION.tensors[1][place]))


def test_followed_mistakes_go_on_after_a_resume(fit, tmp_path):
    before = fit([gradcam(num_mistakes=3)], max_epochs=2)
    before.save_checkpoint(tmp_path / "last.ckpt")
    pinned = last(before, "gradcam/followed")["rows"]
    after = L.Trainer(
        max_epochs=4, accelerator="cpu", logger=L.loggers.TensorBoardLogger(tmp_path / "again"),
        callbacks=[gradcam(num_mistakes=3)], enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, log_every_n_steps=1,
    )  # fmt: skip
    loaders = DataLoader(data(), batch_size=8, shuffle=True), DataLoader(VALIDATION, batch_size=8)
    after.fit(before.lightning_module, *loaders, ckpt_path=tmp_path / "last.ckpt")
    carried = last(after, "gradcam/followed")
    assert carried["rows"] == pinned
    assert carried["columns"] == ["ep. 0", "ep. 1", "ep. 2", "ep. 3"]


class Returns(Watched):
    """Gives its logits by what `validation_step` returns; its forward is called twice a batch."""

    key = "logits"

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self(images.flip(-1))
        logits = self(images)
        self.log("val_loss", F.cross_entropy(logits, labels))
        return {"loss": logits.sum(), self.key: logits}


class Elsewhere(Returns):
    key = "answers"


class Inside(Watched):
    """Calls a part of itself, and has no forward of its own."""

    forward = L.LightningModule.forward

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Returns, {}),
        (Elsewhere, {"logits": lambda returned: returned["answers"]}),
        (Inside, {}),
        (Watched, {"forward": "net"}),
    ],
    ids=["in the step's output", "by a function", "of an inner part", "of a part by name"],
)
@pytest.mark.parametrize("sanity", [0, 2])
def test_logits_are_found_where_the_users_step_has_them(fit, tiny, kind, options, sanity):
    trainer = fit([gradcam(**options)], module=kind(tiny()), num_sanity_val_steps=sanity, max_epochs=1)
    module = trainer.lightning_module
    assert last(trainer, "gradcam/mistakes")["rows"] == mistaken(module.net)


def test_where_the_forward_is_called_twice_a_batch_they_are_left_out_with_a_word(fit, tiny):
    with pytest.warns(UserWarning, match=r"called the module's forward 2 times.*`logits=` a function") as told:
        trainer = fit([gradcam()], module=Elsewhere(tiny()))
    assert len([each for each in told if "logits=" in str(each.message)]) == 1
    assert Events(trainer.logger.log_dir).tags == {"gradcam/probes"}


def test_validation_batches_without_labels_have_no_mistakes(fit, tiny):
    class Unlabeled(Watched):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self(batch[0]).mean())

    val = DataLoader(torch.utils.data.TensorDataset(VALIDATION.tensors[0]), batch_size=8)
    trainer = fit([gradcam()], module=Unlabeled(tiny()), val=val)
    assert Events(trainer.logger.log_dir).tags == {"gradcam/probes"}


def test_num_mistakes_zero_leaves_the_validation_alone(fit):
    trainer = fit([gradcam(num_mistakes=0)])
    assert Events(trainer.logger.log_dir).tags == {"gradcam/probes"}


def test_a_net_without_mistakes_says_so(fit, tiny):
    class Knows(nn.Module):
        """The label stands in the first pixel."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.free = nn.Parameter(torch.zeros(()))

        def forward(self, images):
            said = F.one_hot(images[:, 0, 0, 0].round().long(), 5).float()
            return 9 * said + self.conv(images).mean((2, 3)).sum(1, keepdim=True) + self.free

    images, labels = VALIDATION.tensors
    images = images.clone()
    images[:, 0, 0, 0] = labels
    own = torch.utils.data.TensorDataset(images, labels)
    trainer = fit([gradcam()], module=Watched(Knows()), train=DataLoader(own, 8), val=DataLoader(own, 8))
    assert last(trainer, "gradcam/mistakes")["items"] == []
    assert "gradcam/followed" not in Events(trainer.logger.log_dir).tags


def test_mistakes_are_looked_for_in_the_loader_of_the_probes_alone(fit):
    loaders = [DataLoader(data(12, seed=5), batch_size=8), DataLoader(VALIDATION, batch_size=8)]
    trainer = fit([gradcam(dataloader_idx=1)], val=loaders)
    assert last(trainer, "gradcam/mistakes")["rows"] == mistaken(trainer.lightning_module)


def test_no_mistake_of_an_earlier_validation_is_left(fit):
    trainer = fit([gradcam(num_mistakes=20)], max_epochs=3)
    assert sorted(last(trainer, "gradcam/mistakes")["rows"]) == sorted(mistaken(trainer.lightning_module, 20))


@pytest.mark.parametrize(
    ("target", "columns"),
    [("predicted", ["predicted"]), ("label", ["label"]), ("runner_up", ["runner_up"]), (2, ["c"])],
)
def test_one_target_is_one_column(fit, target, columns):
    images, labels = VALIDATION.tensors
    probes = Probes(images[:4], labels[:4], class_names=list("abcde"))
    trainer = fit([gradcam(target=target, probes=probes, high_res_layer=None)])
    assert last(trainer, "gradcam/probes")["columns"] == ["input", *columns]


def test_heatmap_metrics_are_logged(fit):
    events = Events(fit([gradcam()], max_epochs=3).logger.log_dir)
    prefix = "convviz/gradcam/heatmap_metrics/"
    names = {tag.removeprefix(prefix) for tag in events.scalars if tag.startswith(prefix)}
    assert names >= {"deletion", "insertion", "entropy", "initial", "stability"}
    quiet = Events(fit([gradcam(heatmap_metrics=False)]).logger.log_dir)
    assert not [tag for tag in quiet.scalars if "heatmap_metrics" in tag]


@pytest.mark.parametrize("save_images", [True, False])
def test_a_checkpoint_stays_small_and_private(fit, tmp_path, monkeypatch, save_images):
    """Followed mistakes go first: with all of them the state would be over the limit."""
    monkeypatch.setattr(checkpoint, "LIMIT", 16_000)  # four probes take 9 kB, three followed pictures 7 kB, maps 1 kB
    watcher = gradcam(num_mistakes=3, save_images=save_images)
    if not save_images:
        fit([watcher]).save_checkpoint(tmp_path / "last.ckpt")
    else:
        trainer = fit([watcher])
        with pytest.warns(UserWarning, match="saves no followed mistakes in checkpoints"):
            trainer.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"][watcher.state_key]
    assert checkpoint.size(state) < 16_000
    assert state["own"]["tracked"] is None
    assert (state["probes"] is not None) == save_images


def test_classes_without_a_name_and_pictures_that_grow_are_no_obstacle(fit):
    """Names of two classes for a net of five; later validations bring larger pictures."""

    class Grows(torch.utils.data.Dataset):
        epoch = 0

        def __len__(self):
            return 20

        def __getitem__(self, index):
            image, label = VALIDATION[index]
            return F.interpolate(image[None], scale_factor=2)[0] if self.epoch > 1 else image, label

    class Turns(L.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            Grows.epoch += 1

    probes = Probes(VALIDATION.tensors[0][:4], [0, 1, 0, 1], class_names=["ant", "bee"])
    val = DataLoader(Grows(), batch_size=8)
    watcher = gradcam(probes=probes, num_mistakes=20)
    trainer = fit([watcher, Turns()], val=val, max_epochs=4, module=Watched(Pooled()))
    events = Events(trainer.logger.log_dir)
    assert events.steps("gradcam/mistakes") == events.steps("gradcam/followed") == [5, 11, 17, 23]
    names = {item["true"] for image in events.images("gradcam/mistakes") for item in facts(image)["items"]}
    assert names & {"ant", "bee"}
    assert names & {"class 2", "class 3", "class 4"}


class Pooled(nn.Sequential):
    """Takes pictures of any size."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))


@pytest.mark.parametrize("named", [False, True])
def test_a_head_of_zeros_beside_an_auxiliary_branch_is_waited_for(fit, named):
    class Zero(Pooled):
        def __init__(self):
            super().__init__()
            self.side, self.extra = nn.Conv2d(6, 2, 3), nn.Conv2d(6, 2, 1)
            nn.init.zeros_(self[4].weight)

        def forward(self, images):
            maps = self[1](self[0](images))
            self.side(maps), self.extra(maps)
            return self[4](self[3](self[2](maps)))

    trainer = fit([gradcam(layer="net.1" if named else "auto")], module=Watched(Zero()))
    assert last(trainer, "gradcam/probes")["layer"] == "net.1"


def test_the_heatmap_metrics_ask_for_no_more_pictures_at_once_than_there_are_probes(fit, tiny):
    class Scarce(tiny):
        def forward(self, images):
            if len(images) > 8:  # a batch of the validation
                raise torch.OutOfMemoryError("more than eight images")
            return super().forward(images)

    events = Events(fit([gradcam(num_mistakes=0)], module=Watched(Scarce())).logger.log_dir)
    assert events.steps("gradcam/probes") == [5, 11]
    assert len(events.scalar("convviz/gradcam/heatmap_metrics/deletion")) == 2


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, ValueError])
def test_numbers_that_can_t_be_had_cost_no_pictures(fit, monkeypatch, error):
    def fails(*arguments, **options):
        raise error("none today")

    monkeypatch.setattr(heatmap_metrics, "report", fails)
    with pytest.warns(UserWarning, match="could not measure how far to trust its heatmaps .*none today") as told:
        events = Events(fit([gradcam(num_mistakes=0)]).logger.log_dir)
    assert sum("none today" in str(one.message) for one in told) == 1
    assert events.steps("gradcam/probes") == [5, 11]
    assert not [tag for tag in events.scalars if "heatmap_metrics" in tag]


@pytest.mark.parametrize("target", [3, "runner_up", "label"])
def test_heatmap_metrics_are_of_the_class_that_is_explained(fit, target, monkeypatch):
    asked = []
    original = heatmap_metrics.report

    def spy(forward, images, heat, classes, **options):
        asked.append(classes.clone())
        return original(forward, images, heat, classes, **options)

    monkeypatch.setattr(heatmap_metrics, "report", spy)
    images, labels = VALIDATION.tensors
    trainer = fit([gradcam(target=target, probes=(images[:4], labels[:4]))])
    best = trainer.lightning_module.eval()(images[:4]).argsort(dim=1, descending=True)
    expected = {3: torch.full((4,), 3), "runner_up": best[:, 1], "label": labels[:4]}[target]
    assert torch.equal(asked[-1], expected)


def test_a_target_that_is_no_class_is_not_captioned_as_one(fit):
    """Embeddings of four numbers, probes with labels up to 4 and a similarity."""
    images, labels = VALIDATION.tensors
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))

    class Embeds(Watched):
        def training_step(self, batch, batch_idx):
            return self(batch[0]).square().mean()

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self(batch[0]).mean())

    watcher = gradcam(target=targets.similarity(torch.ones(4)), probes=(images[:4], labels[:4]))
    trainer = fit([watcher], module=Embeds(net))
    carried = last(trainer, "gradcam/probes")
    assert carried["items"] == [{"id": place} for place in range(4)]
    assert Events(trainer.logger.log_dir).tags == {"gradcam/probes"}


def test_a_validation_of_its_own_does_not_get_into_the_strips_of_the_training(fit, tmp_path):
    watcher = gradcam(num_mistakes=3)
    trainer = fit([watcher])
    tracked, scales = watcher._tracked, watcher._scales
    before = list(tracked.probes.ids), len(tracked.history.frames), scales.state_dict()
    trainer.validate(trainer.lightning_module, DataLoader(data(20, seed=9), batch_size=8), verbose=False)
    assert (list(tracked.probes.ids), len(tracked.history.frames), scales.state_dict()) == before


def test_free_places_are_filled_by_mistakes_that_are_not_pinned_yet():
    tracked, images = TrackedMistakes(3), torch.zeros(4, 3, 8, 8)
    logits = torch.eye(5)[:4]

    def explained(rows):
        probes = Probes(images[rows], [4] * len(rows), ids=rows)
        return ExplainedImages(probes, cams.ForwardResult(logits[rows], {}, [torch.zeros(len(rows), 2, 2)] * 2, []))

    assert tracked.pin(explained([2]), None).ids == [2]
    assert tracked.pin(explained([2, 0, 1, 3]), explained([2])).ids == [2, 0, 1]
    assert list(tracked.probes.ids) == [2, 0, 1]
    assert tracked.pin(None, explained([2, 0, 1])).ids == [2, 0, 1]


def test_the_features_of_a_backbone_are_not_taken_for_logits(fit, tiny):
    class Two(Inside):
        def __init__(self):
            super().__init__(nn.Sequential(nn.Conv2d(3, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
            self.head = nn.Linear(16, 5)

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.head(self.net(batch[0])), batch[1])

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", F.cross_entropy(self.head(self.net(batch[0])), batch[1]))

    with pytest.warns(UserWarning, match=r"forward 0 times.*`logits=` a function"):
        trainer = fit([gradcam()], module=Two())
    assert "gradcam/mistakes" not in Events(trainer.logger.log_dir).tags


def test_very_tall_pictures_make_no_endless_page(fit):
    val = DataLoader([(torch.randn(3, 300, 12), index % 5) for index in range(8)], batch_size=4)
    train = DataLoader([(torch.randn(3, 300, 12), index % 5) for index in range(8)], batch_size=4)
    trainer = fit([gradcam()], module=Watched(Pooled()), train=train, val=val)
    image = Events(trainer.logger.log_dir).images("gradcam/probes")[-1]
    assert image.height < 4 * 260 + 200


def test_probes_mistakes_and_tracked_ones_go_through_the_model_together(fit, tiny):
    """After a validation of 20 pictures in three batches, one forward."""

    class Counts(tiny):
        sizes: ClassVar = []

        def forward(self, images):
            if not self.training:
                self.sizes.append(len(images))
            return super().forward(images)

    fit([gradcam(num_mistakes=3, heatmap_metrics=False)], module=Watched(Counts()), max_epochs=3)
    drawings = "".join(f"{size}," for size in Counts.sizes).split("8,8,4,")[-3:]
    assert drawings == ["7,", "10,", "10,"], "4 probes, 3 mistakes, and once they are pinned 3 of them"


def test_no_mistakes_are_drawn_where_ranks_run_every_forward_together():
    callback = gradcam()
    with pytest.warns(UserWarning, match="mistakes are not drawn where each rank holds a part of the model"):
        callback.start_validation(RunInfo(0, 2, "lockstep"))
    callback.start_validation(RunInfo(0, 2, "lockstep"))  # says so once: warnings are errors
    images, labels = VALIDATION.tensors
    callback.on_batch(ValidationBatch(images, labels, torch.eye(5)[(labels + 1) % 5], {}, range(20)))
    callback._collect_pictures(Probes(images[:4]))
    assert (callback._pictures, callback._mistakes.seen) == ({}, 0)


def test_names_of_classes_with_line_breaks_are_captions_like_others(fit):
    images, labels = VALIDATION.tensors
    probes = Probes(images[:4], labels[:4], class_names=np.array(["an\nant", "a\r\nbee", "c", "d", "e"]))
    trainer = fit([gradcam(probes=probes)])
    assert {"an ant", "a bee"} & {item["true"] for item in last(trainer, "gradcam/probes")["items"]}
    for tag in ("gradcam/mistakes", "gradcam/confusions", "gradcam/followed", "evolution/gradcam/probes"):
        assert Events(trainer.logger.log_dir).images(tag)


def test_predictions_are_computed_once_for_all_captions(fit, monkeypatch):
    counted, original = [], explained_._predictions

    def spy(probes, logits):
        counted.append(len(logits))
        return original(probes, logits)

    monkeypatch.setattr(explained_, "_predictions", spy)
    fit([gradcam(num_mistakes=3)], max_epochs=1)
    assert counted == [4, 3, 4, 3, 3], "initial: probes, mistakes; then probes, mistakes, tracked"


def test_a_strip_of_a_target_that_is_no_class_speaks_of_no_predictions(fit):
    trainer = fit([gradcam(target=targets.similarity(torch.ones(5)))])
    carried = last(trainer, "evolution/gradcam/probes")
    assert all(drawing == {} for item in carried["items"] for drawing in item["drawings"])
