"""A callback of one's own, against the contract alone: it draws, resumes and fails as ours do."""

import gc
import warnings
import weakref
from typing import Any

import pytest
import pytorch_lightning as L
import torch
from fits import Events, Watched, data, three
from torch.utils.data import DataLoader

from lightning_convviz import VisualizationCallback, render
from lightning_convviz.engine.contract import DrawContext, DrawResult, ForwardRequest, ProbeView, ValidationBatch
from lightning_convviz.layer_stats import LayerAccumulator


# The example of the documentation: the twenty lines between the marks.
# -- begin --
class FeatureNorms(VisualizationCallback):
    """The probes, with the norm of their features, and how many validation images there were."""

    name = "norms"

    def reset(self) -> None:
        self.count = 0

    def on_batch(self, batch: ValidationBatch) -> None:
        self.count += len(batch.images)

    def request(self, view: ProbeView) -> ForwardRequest:
        self.layer = list(view.trace)[-1]
        return ForwardRequest(layers=[self.layer])

    def draw(self, context: DrawContext, parts: Any) -> DrawResult:
        norms = context.result.outputs[self.layer].flatten(1).norm(dim=1).tolist()
        page = render.picture_grid(context.photos, [f"{norm:.3g}" for norm in norms], title=context.snapshot.caption)
        return DrawResult({f"{self.name}/probes": page}, scalars={"images": self.count})

    def export_state(self) -> dict[str, Any]:
        return {"count": self.count}

    def import_state(self, state: Any) -> None:
        self.count = state["count"]


# -- end --


def test_it_draws_beside_ours(fit):
    trainer = fit([*three(), FeatureNorms(on_error="raise", num_probes=4)])
    events = Events(trainer.logger.log_dir)
    assert events.steps("norms/probes") == events.steps("gradcam/probes") == [5, 11]
    assert [value for _, value in events.scalar("convviz/norms/images")] == [36, 56]  # 16 in the sanity check


def test_without_a_name_it_has_that_of_its_class():
    class Nameless(VisualizationCallback):
        def draw(self, context: DrawContext, parts: Any) -> DrawResult:
            return DrawResult({})

    assert Nameless().settings.name == "nameless"
    assert Nameless(name="other").settings.name == "other"


def test_it_draws_alone_and_before_training(fit):
    callback = FeatureNorms(on_error="raise")
    trainer = fit([callback], max_epochs=1)
    assert Events(trainer.logger.log_dir).tags == {"norms/probes"}
    assert list(callback.initial_pictures) == ["norms/probes"]


def test_it_resumes(fit, tiny, tmp_path):
    fit([FeatureNorms(on_error="raise")]).save_checkpoint(tmp_path / "two.ckpt")
    callback = FeatureNorms(on_error="raise")
    trainer = L.Trainer(
        max_epochs=3, accelerator="cpu", logger=L.loggers.TensorBoardLogger(tmp_path / "again", name=None),
        callbacks=[callback], enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        log_every_n_steps=1,
    )  # fmt: skip
    loader = DataLoader(data(20, seed=1), batch_size=8)
    trainer.fit(Watched(tiny()), DataLoader(data(), batch_size=8), loader, ckpt_path=tmp_path / "two.ckpt")
    assert callback.count == 56 + 20
    assert Events(trainer.logger.log_dir).steps("norms/probes") == [17]


@pytest.mark.parametrize("method", ["start_validation", "on_batch", "select", "request", "compute", "draw"])
def test_what_fails_in_it_is_told_and_harms_neither_training_nor_ours(fit, method):
    class Fails(FeatureNorms):
        fails = False

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            super().on_train_start(trainer, pl_module)
            self.fails = True

    def failing(self: Any, *arguments: Any) -> Any:
        if self.fails:
            raise RuntimeError("the brush broke")
        return getattr(FeatureNorms, method)(self, *arguments)

    setattr(Fails, method, failing)
    with pytest.warns(UserWarning, match="Fails") as told:
        trainer = fit([Fails(), *three()], max_epochs=4)
    events = Events(trainer.logger.log_dir)
    assert events.steps("gradcam/probes") == events.steps("activations/net.conv1") == [5, 11, 17, 23]
    ours = [str(one.message) for one in told if "Fails" in str(one.message)]
    assert sum("could not" in each and "the brush broke" in each for each in ours) == 1  # once for its kind
    switched_off = any("failed 3 times in a row and is switched off" in each for each in ours)
    assert switched_off == (method not in ("on_batch",))


@pytest.mark.parametrize("method", ["validate", "start_validation", "select", "request", "compute", "draw"])
def test_what_fails_in_it_before_training_ends_the_run_in_the_first_second(fit, method):
    def failing(self: Any, *arguments: Any) -> Any:
        raise ValueError("`layers` is wrong")

    wrong = type("Wrong", (FeatureNorms,), {method: failing})
    with pytest.raises(ValueError, match="`layers` is wrong"):
        fit([*three(), wrong()])


@pytest.mark.parametrize(
    "result",
    [
        {"scalars": [1.0]},
        {"animations": {"animation/norms": lambda: 1 / 0}},
        {"scalars": {"mean": object()}, "diagnostics": 3},
    ],
    ids=["no mapping", "an animation that raises", "no number"],
)
@pytest.mark.filterwarnings("ignore:.*could not write everything")  # what is no number fails in the writer
def test_a_wrong_result_costs_its_pictures_and_not_the_training(fit, result):
    class Wrong(FeatureNorms):
        def draw(self, context: DrawContext, parts: Any) -> DrawResult:
            drawn = super().draw(context, parts)
            return drawn if context.snapshot.initial else DrawResult(drawn.pictures, **result)

    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        trainer = fit([Wrong(), *three()])
    assert Events(trainer.logger.log_dir).steps("gradcam/probes") == [5, 11]
    assert "animation/gradcam/probes" in Events(trainer.logger.log_dir).every


@pytest.mark.parametrize("fails", [None, "select", "compute"])
def test_what_it_observed_is_let_go_of_after_the_validation(fit, fails):
    """Also where the drawing fails: an accumulator may hold much of the device's memory."""
    seen: list[Any] = []

    class Observes(FeatureNorms):
        def start_validation(self, run: Any) -> Any:
            self.accumulator = LayerAccumulator()
            seen.append(weakref.ref(self.accumulator))
            return [("net.relu1", self.accumulator)]

        def end_validation(self) -> None:
            self.accumulator = None

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            gc.collect()
            assert not any(each() for each in seen)

    if fails:
        setattr(Observes, fails, lambda self, *arguments: 1 / 0 if len(seen) > 1 else None)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        fit([Observes(), *three()], max_epochs=3)
    assert len(seen) == 4


def test_its_state_never_costs_a_checkpoint(fit, tmp_path):
    class Forgets(FeatureNorms):
        def export_state(self) -> dict[str, Any]:
            raise RuntimeError("forgotten")

    callback = Forgets(on_error="raise")
    trainer = fit([callback, *three()])
    with pytest.warns(UserWarning, match="Forgets could not save its state"):
        trainer.save_checkpoint(tmp_path / "state.ckpt")
    states = torch.load(tmp_path / "state.ckpt", weights_only=True)["callbacks"]
    assert len([key for key in states if "name" in key]) == 3
