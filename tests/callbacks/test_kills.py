"""Law 2 at its hardest: what kills a run, a drawing or the writer harms neither training nor what was drawn before."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from fits import Events

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("kills.py")
CALLBACKS = ("ActivationLogger", "FilterPatternLogger", "GradCAMLogger")
TAGS = (
    *(f"{name}/net.{layer}" for name in ("activations", "filters") for layer in ("conv1", "conv2", "late")),
    "filters/kernels",
    "gradcam/probes",
)
PAGES = {"gradcam/mistakes", "gradcam/confusions", "gradcam/followed"}  # where the probes are, if there are mistakes
ALL = (5, 11, 17, 23)


@dataclass(frozen=True)
class Kill:
    """How a case ends.

    Attributes:
        told: one pattern for each warning of ours, each of which is given once.
        steps: at which there are pictures of every tag.
        but: the same for tags that differ.
        like: the case whose run without callbacks ends the same; None where the process can't tell how it ended.
        code: what the process returns.
        epochs: how many of them the last checkpoint has seen.
    """

    told: tuple[str, ...] = ()
    steps: tuple[int, ...] = ALL
    but: dict[str, tuple[int, ...]] = field(default_factory=dict)
    like: str | None = "nothing"
    code: int = 0
    epochs: int = 4


def undrawn(who: str, why: str) -> str:
    return rf"{who} could not draw \({why}.*\)\. Training goes on; the next drawing is tried\."


def unwritten(what: str) -> str:
    return f"lightning_convviz could not write everything: .*{what}"


KILLS = {
    "nothing": Kill(),
    # The process.
    "interrupt": Kill(steps=(5, 11), like="interrupt", code=1, epochs=2),
    "terminated": Kill(steps=(5, 11), like="terminated", epochs=2),  # Lightning's own way to end
    "terminated_at_once": Kill(steps=(5, 11, 17), like=None, code=-15, epochs=3),
    "killed": Kill(steps=(5, 11, 17), like=None, code=-9, epochs=3),
    "user_error": Kill(steps=(5, 11), like="user_error", code=1, epochs=2),
    # A drawing.
    "drawing_error": Kill(
        told=(
            undrawn("GradCAMLogger", "ValueError: `method` fails: RuntimeError: the brush broke"),
            "GradCAMLogger failed 3 times in a row",
        ),
        but={"gradcam/probes": (5,)},
    ),
    "out_of_memory": Kill(
        told=tuple(undrawn(who, "OutOfMemoryError: CUDA out of memory") for who in CALLBACKS), steps=(5, 17, 23)
    ),
    # The model.
    "nan": Kill(told=("(?i).*(nan|finite|diverge)",), like="nan"),
    "inf": Kill(told=("(?i).*(inf|finite|diverge)",), like="inf"),
    "layer_gone": Kill(
        told=tuple(undrawn(who, r"ValueError: `layers?` is 'net\.late', which `Module` does") for who in CALLBACKS[1:]),
        but=dict.fromkeys(("activations/net.late", "filters/net.late", "filters/kernels", "gradcam/probes"), (5, 11))
        | dict.fromkeys(("filters/net.conv1", "filters/net.conv2"), ()),  # not asked for
        like="layer_gone",
    ),
    # What is behind the writer.
    "exit_in_thread": Kill(
        told=(unwritten("SystemExit: a logger's client gave up"),),
        but={tag: (5, 17, 23) for tag in TAGS if tag.startswith("activations")},
    ),
    "dead_thread": Kill(
        told=(unwritten("UnspeakableError"),),
        but={tag: (5, 17, 23) for tag in TAGS if tag.startswith("activations")},
    ),
    "blocked_disk": Kill(
        told=(
            unwritten("drawings were dropped because writing was slower"),
            "lightning_convviz: the last pictures were not written within 1 s",
        ),
        steps=(),
    ),
    "full_disk": Kill(told=(unwritten("has 1 MB left"),), steps=()),
    "unwritable": Kill(told=(unwritten("NotADirectoryError: .*/pictures"),), steps=()),
}


@dataclass(frozen=True)
class Ended:
    """What is left of a run."""

    folder: Path

    @property
    def code(self) -> str:
        return (self.folder / "code").read_text()

    @property
    def digest(self) -> str:
        return (self.folder / "digest").read_text()

    @property
    def threads(self) -> list[str]:
        (line,) = re.findall(r"^threads: (.*)$", (self.folder / "out").read_text(), re.MULTILINE)
        return line.split()

    @property
    def errors(self) -> str:
        return (self.folder / "err").read_text()

    @property
    def told(self) -> list[str]:
        """Our warnings."""
        given = re.findall(r"^WARNING \w+ (.*)$", self.errors, re.MULTILINE)
        return [message for message in given if message.startswith(("lightning_convviz", *CALLBACKS))]

    @property
    def events(self) -> Events | None:
        folder = self.folder / "version_0"
        return Events(folder) if folder.exists() else None


@pytest.fixture(scope="module")
def ended(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Ended]:
    """What is left of a case, `watched` or `bare`: all that the chosen tests need are run at the first."""
    chosen = [item for item in request.session.items if item.getparent(pytest.Module) is request.node]
    cases = dict.fromkeys(item.callspec.params["case"] for item in chosen)
    bare = dict.fromkeys(KILLS[case].like for case in cases if KILLS[case].like)
    folder = tmp_path_factory.mktemp("kills")
    command = [
        sys.executable,
        PROGRAM,
        folder,
        *(f"{case}/watched" for case in cases),
        *(f"{case}/bare" for case in bare),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, timeout=500, check=True, env=environment)
    return lambda case, who: Ended(folder / case / who)


@pytest.mark.parametrize("case", KILLS)
def test_the_process_ends_as_it_should_and_leaves_no_thread(ended, case):
    watched, kill = ended(case, "watched"), KILLS[case]
    assert watched.code == str(kill.code), watched.errors[-3000:]
    assert "Fatal Python error" not in watched.errors
    if kill.like:
        bare = ended(kill.like, "bare")
        assert bare.code == watched.code
        blocked = ["convviz-writer"] if case == "blocked_disk" else []  # for ever; it keeps nobody
        assert watched.threads == [*bare.threads, *blocked]


@pytest.mark.parametrize("case", [case for case, kill in KILLS.items() if kill.like])
def test_training_ends_as_one_without_us(ended, case):
    assert ended(case, "watched").digest == ended(KILLS[case].like, "bare").digest


@pytest.mark.parametrize("case", KILLS)
def test_what_was_drawn_before_and_what_still_can_be_is_readable(ended, case):
    kill, events = KILLS[case], ended(case, "watched").events
    if case == "unwritable":
        assert events is None
        return
    steps = {tag: kill.but.get(tag, kill.steps) for tag in TAGS}
    assert {tag: tuple(events.steps(tag)) if tag in events.tags else () for tag in TAGS} == steps
    assert events.tags <= {*TAGS, *PAGES}
    assert all(set(events.steps(tag)) <= set(events.steps("gradcam/probes")) for tag in PAGES & events.tags)
    for tag in events.tags:
        for picture in events.images(tag):
            picture.load()
            assert min(picture.size) > 30  # a page without anything to show is two lines
    if kill.like:
        assert repr(events.scalar("val_loss")) == repr(ended(kill.like, "bare").events.scalar("val_loss"))


@pytest.mark.parametrize("case", KILLS)
def test_the_user_is_told_once(ended, case):
    told, patterns = ended(case, "watched").told, KILLS[case].told
    assert [sum(bool(re.match(pattern, message)) for message in told) for pattern in patterns] == [1] * len(patterns), (
        told
    )
    assert len(told) == len(patterns), told


@pytest.mark.parametrize("case", KILLS)
def test_no_checkpoint_is_lost(ended, case):
    last = torch.load(ended(case, "watched").folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert (last["epoch"] + 1, last["global_step"]) == (KILLS[case].epochs, KILLS[case].epochs * 6)
    assert {"ActivationLogger", "FilterPatternLogger", "GradCAMLogger"} <= {
        key.split("{")[0] for key in last["callbacks"]
    }
