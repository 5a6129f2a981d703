"""Law 5, on two processes: every rank decides alike, nobody waits, and training ends as without the callbacks."""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fits import Events, facts
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy

from lightning_convviz import GradCAMLogger, _lightning, layer_stats

PROGRAM = Path(__file__).with_name("ranks.py")
slow = pytest.mark.slow


def run(folder: Path, case: str, accelerator: str = "cpu") -> str:
    command = [sys.executable, str(PROGRAM), str(folder), case, accelerator]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    try:
        return started.communicate(timeout=240)[0]
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        pytest.fail(f"{case}: the ranks wait for each other\n{started.communicate()[0][-3000:]}")


def ends(told: str, rank: int) -> list[str]:
    """Digests of what training left on a rank: with the callbacks, and where that was tried without."""
    found = re.findall(rf"rank {rank}: done (\w{{12}})", told)
    assert found, told[-3000:]
    return found


def compared(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "compared.jsonl").read_text().splitlines()]


cpu_fsdp = pytest.mark.skipif(torch.__version__ < (2, 11), reason="FSDP2 of older torch needs CUDA")
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.mark.parametrize(
    ("case", "accelerator"),
    [
        ("fits", "cpu"),
        pytest.param("sharded", "cpu", marks=cpu_fsdp),
        pytest.param("inside", "cpu", marks=[cpu_fsdp, slow]),
        pytest.param("spawn", "cpu", marks=slow),
        pytest.param("fits", "gpu", marks=two_gpus),
        pytest.param("sharded", "gpu", marks=two_gpus),
    ],
)
def test_training_ends_as_without_the_callbacks_and_the_pictures_are_there(case, accelerator, tmp_path):
    told = run(tmp_path, case, accelerator)
    for rank in (0, 1):
        watched, bare = ends(told, rank)
        assert watched == bare
    events = Events(tmp_path / "watched")
    assert {tag.split("/")[0] for tag in events.tags} == {"activations", "filters", "gradcam", "given"}
    assert {tuple(events.steps(tag)) for tag in events.tags} == {(2, 5, 8)}
    if case not in ("sharded", "inside"):
        carried = [facts(image) for image in events.images("gradcam/mistakes")]
        assert [page["validated"] for page in carried] == [20, 20, 20]
        assert [facts(image)["count"] for image in events.images("layer_stats/activations")] == [20, 20, 20]
        for page in carried:  # of both ranks, which have every other image
            assert {row % 2 for row in page["rows"]} == {0, 1}
            assert len(set(page["rows"])) == len(page["rows"]) == 8
        rows = compared(tmp_path)
        assert [row["ranks"] for row in rows] == [1, 2, 2, 2]  # the dry run is rank 0's own
        for row in rows:  # law 4: in float32 by objective and by correlation
            assert statistics.median(correlation for correlation, _, _ in row["found"]) > 0.9
            assert all(abs(part - alone) <= 0.1 * abs(alone) + 1e-3 for _, part, alone in row["found"])


@slow
def test_figures_of_two_ranks_are_those_of_one_big_batch(tmp_path):
    """A network that stays the same, and a validation that divides evenly."""
    run(tmp_path, "figures")
    maps, images = torch.load(tmp_path / "maps.pt", weights_only=True)
    tally = layer_stats.LayerAccumulator()
    tally.update(tally.reduce(maps), images)
    expected = layer_stats.figures(tally.compute())
    events = Events(tmp_path / "watched")
    for figure, value in expected.scalars().items():
        told = events.scalar(f"convviz/activations/{figure}/net.relu2")
        assert [step for step, _ in told] == [2, 5, 8]
        assert all(each == pytest.approx(value, rel=1e-4, abs=1e-6) for _, each in told)
    assert [value for _, value in events.scalar("convviz/activations/cka/net.relu2")] == pytest.approx([1, 1])


def test_a_misfit_ends_the_run_on_both_ranks(tmp_path):
    told = run(tmp_path, "misfit")
    for rank in (0, 1):
        assert f"rank {rank}: `probes` has label 7" in told


@slow
@pytest.mark.parametrize("case", ["uneven", "empty"])
def test_ranks_of_different_length_do_not_hang(case, tmp_path):
    told = run(tmp_path, case)
    assert ends(told, 0)
    assert ends(told, 1)
    assert {row["ranks"] for row in compared(tmp_path)} == {1}  # shared only where every rank has what it takes
    assert len(Events(tmp_path / "watched").steps("filters/net.conv1")) == 3


@slow
def test_a_rank_that_fails_costs_its_pictures_and_nothing_else(tmp_path):
    told = run(tmp_path, "broken")
    assert ends(told, 1)
    assert told.count("could not draw (RuntimeError: rank 1: RuntimeError: rank 1 has no luck)") == 1
    events = Events(tmp_path / "watched")
    drawn = {tag for tag in events.tags if events.steps(tag)}  # beside the initial network, which rank 0 drew alone
    assert drawn == {f"gradcam/{page}" for page in ("probes", "mistakes", "confusions", "followed")}
    assert len(events.steps("gradcam/probes")) == 3


class DeepSpeedStrategy(DDPStrategy):
    """Has the name and the base of the real one, whose package needs CUDA to be installed."""


@pytest.mark.parametrize(
    ("strategy", "sharded", "replicated", "unfit"),
    [
        (SingleDeviceStrategy("cpu"), False, False, None),
        (DDPStrategy(), False, True, None),
        (ModelParallelStrategy(), True, False, None),
        (FSDPStrategy(), False, False, r"FSDPStrategy .*Use ModelParallelStrategy \(FSDP2\)"),
        (DeepSpeedStrategy(), False, False, "DeepSpeedStrategy .*Use DDP, or ModelParallelStrategy"),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "broadcast") else "",
)
def test_strategies_are_told_apart(strategy, sharded, replicated, unfit):
    assert _lightning.is_sharded(strategy) == sharded
    assert _lightning.is_replicated(strategy) == replicated
    reason = _lightning.unfit(strategy)
    assert (reason is None) == (unfit is None)
    assert unfit is None or re.search(unfit, reason)


def test_a_strategy_that_does_not_fit_is_refused_at_once(fit):
    class FSDPStrategy(SingleDeviceStrategy):
        """The real one is not to be had without CUDA; it is known by its name."""

    with pytest.raises(ValueError, match=r"`strategy`: FSDPStrategy keeps .*or leave GradCAMLogger out"):
        fit([GradCAMLogger()], strategy=FSDPStrategy("cpu"))
