"""What outlives a run: resumed trainings go on with their probes, scales and choices; checkpoints can be looked at."""

import inspect
import warnings
from contextlib import nullcontext

import pytest
import pytorch_lightning as L
import torch
from fits import Events, Watched, data, facts, three
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from lightning_convviz import ActivationLogger, FilterPatternLogger, GradCAMLogger
from lightning_convviz.engine import checkpoint as checkpoints
from lightning_convviz.engine.contract import DrawResult

# Lightning has it from 2.6 on, and then as default.
ONLY = {"weights_only": True} if "weights_only" in inspect.signature(L.Trainer.fit).parameters else {}


def shuffled(seed: int) -> DataLoader:
    return DataLoader(data(20, seed=seed), batch_size=8)


@pytest.fixture
def saved(fit, tmp_path):
    """A checkpoint after two epochs, and the callbacks that were there."""
    watchers = three(every_n_epochs="log")
    trainer = fit(watchers, val=shuffled(1))
    path = tmp_path / "two.ckpt"
    trainer.save_checkpoint(path)
    return path, watchers, trainer


def collected(watcher):
    """The probes that a callback's checkpoints hold."""
    coordinator = watcher._coordinator
    return coordinator._store.to_save(watcher.settings, [each.settings for each in coordinator.participants])


def again(fit, tmp_path, saved, watchers, **arguments):
    logger = TensorBoardLogger(tmp_path / "again", name=None)
    return L.Trainer(
        max_epochs=6, accelerator="cpu", logger=logger, callbacks=watchers, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, log_every_n_steps=1, **arguments,
    )  # fmt: skip


def test_a_resumed_run_goes_on_with_probes_scales_and_choices(fit, tiny, saved, tmp_path):
    path, before, _ = saved
    watchers = three(every_n_epochs="log")
    trainer = again(fit, tmp_path, saved, watchers)
    loader = DataLoader(data(), batch_size=8, shuffle=True)
    trainer.fit(Watched(tiny()), loader, shuffled(7), ckpt_path=path, **ONLY)  # another validation set
    events = Events(trainer.logger.log_dir)
    assert events.steps("gradcam/probes") == [23]  # validation 4 is a power of two; 1 and 2 were before
    old, new = collected(before[0]), collected(watchers[0])
    assert torch.equal(old.images, new.images)
    assert torch.equal(old.labels, new.labels)
    assert (old.ids, old.class_names, old.space) == (new.ids, new.class_names, new.space)
    old, new = before[1].export_state(), watchers[1].export_state()
    for name in ("request", "selection", "fixed_size"):
        assert old[name] == new[name]
    assert new["num_drawings"] == old["num_drawings"] + 1
    assert before[0].export_state()["sources"] == watchers[0].export_state()["sources"]


def test_a_scale_is_kept_over_a_resume(fit, tiny, saved, tmp_path):
    path, before, _ = saved
    watcher = ActivationLogger(on_error="raise", num_probes=4)
    scales = {
        name: 1.5 * scale for name, scale in before[0].export_state()["scales"]["ends"].items()
    }  # within a factor of two
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["callbacks"][watcher.state_key]["own"]["scales"]["ends"] = scales
    torch.save(checkpoint, path)
    trainer = again(fit, tmp_path, saved, [watcher])
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint"):
        trainer.fit(Watched(tiny()), DataLoader(data(), batch_size=8), shuffled(1), ckpt_path=path)
    first = Events(trainer.logger.log_dir).images("activations/net.conv1")[0]
    assert facts(first)["scale"][1] == pytest.approx(scales["net.conv1"])


def test_changed_arguments_win_over_what_was_saved(fit, tiny, saved, tmp_path):
    path, *_ = saved
    watchers = [
        ActivationLogger("net.relu2", on_error="raise"),
        FilterPatternLogger("net.conv2", num_filters=2, steps=1, on_error="raise"),
        GradCAMLogger("net.conv1", num_mistakes=0, on_error="raise"),
    ]
    trainer = again(fit, tmp_path, saved, watchers)
    trainer.fit(Watched(tiny()), DataLoader(data(), batch_size=8), shuffled(1), ckpt_path=path)
    events = Events(trainer.logger.log_dir)
    assert events.tags == {"activations/net.relu2", "filters/net.conv2", "filters/kernels", "gradcam/probes"}
    assert facts(events.images("gradcam/probes")[0])["layer"] == "net.conv1"
    assert len(facts(events.images("filters/net.conv2")[0])["columns"]) == 2


def test_the_state_is_plain_small_and_without_images_if_so_wished(fit, tmp_path):
    for save_images in (True, False):
        watchers = three(save_images=save_images)
        trainer = fit(watchers)
        trainer.save_checkpoint(tmp_path / "state.ckpt")
        states = torch.load(tmp_path / "state.ckpt", weights_only=True)["callbacks"]
        ours = [states[watcher.state_key] for watcher in watchers]
        assert [state["probes"] is not None for state in ours] == [save_images, False, False]  # once is enough
        assert all(_size(state) < checkpoints.LIMIT for state in ours)


def _size(state):
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return sum(map(_size, parts))


def test_probes_that_are_too_large_for_a_checkpoint_are_left_out_with_a_word(fit, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "LIMIT", 1000)
    trainer = fit(three())
    with pytest.warns(UserWarning, match="checkpoints") as told:
        trainer.save_checkpoint(tmp_path / "state.ckpt")
    said = [str(warning.message) for warning in told]
    assert any("saves no probes in checkpoints: they take over" in each for each in said)
    for lost, smaller in {"patterns": "num_filters", "film strips": "layers"}.items():
        assert any(f"saves no {lost} in" in each and f"A smaller `{smaller}` fits" in each for each in said)
    states = torch.load(tmp_path / "state.ckpt", weights_only=True)["callbacks"]
    assert all(state["probes"] is None for key, state in states.items() if "name" in key)


def test_a_state_that_can_t_be_read_begins_anew_with_one_warning(fit, tiny, saved, tmp_path):
    path, *_ = saved
    watcher = GradCAMLogger(on_error="raise", num_probes=4)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["callbacks"] = {watcher.state_key: {"version": 99}}
    torch.save(checkpoint, path)
    trainer = again(fit, tmp_path, saved, [watcher])
    with pytest.warns(UserWarning, match="could not read its state.*version is 99"):
        trainer.fit(Watched(tiny()), DataLoader(data(), batch_size=8), shuffled(1), ckpt_path=path)
    assert Events(trainer.logger.log_dir).steps("gradcam/probes") == [17, 23, 29, 35]


def test_an_error_of_ours_never_costs_a_checkpoint(fit, tmp_path):
    from pytorch_lightning.callbacks import ModelCheckpoint

    class Broken(GradCAMLogger):
        def export_state(self):
            raise RuntimeError("forgotten")

        def draw(self, context, parts):
            if context.snapshot.initial:
                return DrawResult({})
            raise RuntimeError("the brush broke")

    with pytest.warns(UserWarning, match="could not") as told:
        fit(
            [Broken(), ModelCheckpoint(tmp_path / "kept", save_top_k=-1, filename="{epoch}")],
            enable_checkpointing=True, max_epochs=2,
        )  # fmt: skip
    assert sorted(file.name for file in (tmp_path / "kept").iterdir()) == [f"epoch={i}.ckpt" for i in range(2)]
    messages = [str(warning.message) for warning in told]
    assert sum("could not save its state (RuntimeError: forgotten)" in message for message in messages) == 1


# -- validate and test ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_a_checkpoint_can_be_looked_at(fit, tiny, saved, tmp_path, stage):
    class Tested(Watched):
        test_step = Watched.validation_step

    path, _, before = saved
    watchers = three()
    trainer = again(fit, tmp_path, saved, watchers)
    module = Tested(tiny())
    getattr(trainer, stage)(module, shuffled(1), ckpt_path=path, verbose=False)
    events = Events(trainer.logger.log_dir)
    assert {tag.split("/")[0] for tag in events.tags} == {stage}
    assert {tag.split("/")[1] for tag in events.tags} == {"activations", "filters", "gradcam"}
    assert events.steps(f"{stage}/gradcam/probes") == [12]
    (picture,) = events.images(f"{stage}/gradcam/probes")
    items = facts(picture)["items"]
    was = facts(Events(before.logger.log_dir).images("gradcam/probes")[-1])["items"]
    assert [item["p_predicted"] for item in items] == [item["p_predicted"] for item in was]
    pages = [f"{stage}/gradcam/{page}" for page in ("probes", "mistakes", "confusions")]
    assert events.epochs(f"{stage}/gradcam") == [{"v": 1, "epoch": facts(picture)["epoch"], "step": 12, "tags": pages}]


def test_steps_of_a_reused_logger_never_fall(fit, tiny, tmp_path):
    logger = TensorBoardLogger(tmp_path / "one", name=None)
    watchers = [GradCAMLogger(on_error="raise")]
    trainer = fit(watchers, logger=logger)
    trainer.validate(trainer.lightning_module, shuffled(1), verbose=False)
    for _ in range(2):
        fresh = L.Trainer(logger=logger, callbacks=watchers, accelerator="cpu", enable_progress_bar=False)
        fresh.validate(Watched(tiny()), shuffled(1), verbose=False)
    events = Events(logger.log_dir)
    assert events.steps("gradcam/probes") == [5, 11]
    assert events.steps("validate/gradcam/probes") == [12, 13, 14]


def test_looking_at_a_checkpoint_changes_no_metric(fit, tiny, saved, tmp_path):
    path, *_ = saved
    found = []
    for watchers in ([], three()):
        trainer, module = again(fit, tmp_path, saved, watchers), Watched(tiny(), logs_in_forward=True)
        with nullcontext() if watchers else pytest.warns(UserWarning, match="callbacks used to create the checkpoint"):
            found.append(trainer.validate(module, shuffled(1), ckpt_path=path, verbose=False))
    assert found[0] == found[1]


def test_two_of_a_kind_with_names_stand_side_by_side(fit, tmp_path):
    one = {"num_mistakes": 0, "on_error": "raise"}
    watchers = [GradCAMLogger(**one), GradCAMLogger("net.conv1", name="early", **one)]
    trainer = fit(watchers)
    events = Events(trainer.logger.log_dir)
    assert events.tags == {"gradcam/probes", "early/probes"}
    assert events.epochs("early")[0]["tags"] == ["early/probes", "evolution/early/probes"]
    trainer.save_checkpoint(tmp_path / "both.ckpt")
    states = torch.load(tmp_path / "both.ckpt", weights_only=True)["callbacks"]
    assert states[watchers[1].state_key]["own"]["explainer"]["layer"] == "net.conv1"
    assert states[watchers[0].state_key]["own"]["explainer"]["layer"] != "net.conv1"


def test_a_checkpoint_from_before_the_first_drawing_keeps_no_probes(fit, tmp_path):
    class Saves(L.Callback):
        def on_train_start(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "early.ckpt")

    watcher = GradCAMLogger(on_error="raise")
    fit([watcher, Saves()], val=DataLoader(data(20, seed=1), batch_size=1))  # the sanity check shows two images
    assert torch.load(tmp_path / "early.ckpt", weights_only=True)["callbacks"][watcher.state_key]["probes"] is None
    assert len(collected(watcher)) == 8


def test_probes_of_another_loader_or_too_few_are_not_gone_on_with(fit, tiny, tmp_path):
    trainer = fit([GradCAMLogger(num_probes=4, on_error="raise")])
    trainer.save_checkpoint(tmp_path / "four.ckpt")
    loaders = [shuffled(1), shuffled(2)]
    for arguments, own in (({"dataloader_idx": 1}, 2), ({"num_probes": 6}, 1)):
        watcher = GradCAMLogger(**({"num_probes": 4, "on_error": "raise"} | arguments))
        again(fit, tmp_path, None, [watcher]).fit(
            Watched(tiny()), DataLoader(data(), batch_size=8), loaders, ckpt_path=tmp_path / "four.ckpt"
        )
        found = collected(watcher)
        assert len(found) == watcher.settings.num_probes
        assert all(any(torch.equal(image, one) for one in data(20, seed=own).tensors[0]) for image in found.images)


def test_a_private_callback_leaves_the_saving_to_the_others(fit, tmp_path):
    watchers = [ActivationLogger(save_images=False, on_error="raise"), GradCAMLogger(on_error="raise")]
    fit(watchers).save_checkpoint(tmp_path / "one.ckpt")
    states = torch.load(tmp_path / "one.ckpt", weights_only=True)["callbacks"]
    assert [states[watcher.state_key]["probes"] is None for watcher in watchers] == [True, False]


def test_a_validation_before_the_fit_does_not_choose_its_probes(fit, tiny, tmp_path):
    watcher = GradCAMLogger(on_error="raise")
    trainer, module = again(fit, tmp_path, None, [watcher]), Watched(tiny())
    trainer.validate(module, shuffled(5), verbose=False)
    trainer.fit(module, DataLoader(data(), batch_size=8), shuffled(1))
    found = collected(watcher)
    assert all(any(torch.equal(image, one) for one in data(20, seed=1).tensors[0]) for image in found.images)


def test_what_was_loaded_before_is_not_said_of_the_next_checkpoint(fit, tiny, saved, tmp_path):
    path, *_ = saved
    plain = {"state_dict": torch.load(path, weights_only=True)["state_dict"], "pytorch-lightning_version": "2.5.1"}
    torch.save(plain, tmp_path / "plain.ckpt")
    watcher = GradCAMLogger(on_error="raise")
    captions = []
    watcher.draw = lambda context, parts: captions.append(context.snapshot.caption) or DrawResult({})
    trainer = again(fit, tmp_path, saved, [watcher])
    for each in (path, tmp_path / "plain.ckpt"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.validate(Watched(tiny()), shuffled(1), ckpt_path=each, verbose=False)
    assert captions[0].endswith("step 12 · two.ckpt")
    assert captions[1] == "validate · plain.ckpt"


def test_pictures_of_two_stand_alone_runs_do_not_overwrite_each_other(fit, tiny, tmp_path):
    for _ in range(2):
        watcher = GradCAMLogger(save_dir=tmp_path / "mine", on_error="raise")
        trainer = L.Trainer(logger=False, callbacks=[watcher], accelerator="cpu", enable_progress_bar=False)
        trainer.validate(Watched(tiny()), shuffled(1), verbose=False)
    files = sorted((tmp_path / "mine/validate/gradcam/probes").iterdir())
    assert [file.stem for file in files] == ["step_00000000", "step_00000001"]
