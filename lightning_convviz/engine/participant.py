"""One callback's way through a run: from a validation that is due to a drawing that is handed over."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_convviz import _lightning, sinks
from lightning_convviz._lightning import Trainer
from lightning_convviz.engine.contract import DrawContext, DrawResult, Observers, RunInfo, ValidationBatch, Visualizer
from lightning_convviz.engine.failures import Failures, WarnOnce
from lightning_convviz.engine.hooks import LayerObservers, Listener
from lightning_convviz.engine.logits import HINT, LogitsCapture
from lightning_convviz.engine.participation import Participation, Solo
from lightning_convviz.engine.picture_queue import PictureQueue
from lightning_convviz.engine.probe_store import Read
from lightning_convviz.engine.processes import Processes
from lightning_convviz.engine.schedule import Schedule
from lightning_convviz.history import Snapshot
from lightning_convviz.render import Drawable


@dataclass(frozen=True)
class _Failed:
    """Why a rank has no part; as text, since not every exception survives the way to another process."""

    reason: str


@dataclass(frozen=True)
class _Computed:
    """What this rank computed of a drawing, and how many seconds that took."""

    context: DrawContext
    part: Any
    seconds: float


@dataclass(frozen=True)
class _Drawn:
    """A drawing that is not handed over yet, with its pictures in main memory."""

    snapshot: Snapshot
    result: DrawResult
    seconds: float


class Participant:
    """The state of one callback in one run, without what the callback itself keeps.

    Attributes:
        visualizer: the callback, as the engine sees it.
        is_due: whether this rank draws the current validation.
        participation: how the processes take part in its drawing.
        schedule: which validations are drawn, and at which step.
        failures: of its drawings.
        loaded: epoch and step of the checkpoint that was loaded.
        dry_run_error: what the drawing before training failed with; it ends the run.
        dry_run_done: whether all ranks know how that drawing went.
    """

    def __init__(self, visualizer: Visualizer, processes: Processes, once: WarnOnce) -> None:
        self.visualizer = visualizer
        self.settings = visualizer.settings
        self.schedule = Schedule(self.settings.every_n_epochs)
        self.failures = Failures(type(visualizer).__name__)
        self.is_due = False
        self.participation: Participation = Solo(processes)
        self.loaded: tuple[int, int] | None = None
        self.dry_run_error: Exception | None = None
        self.dry_run_done = False
        self._processes = processes
        self._once = once
        self._listener: Listener | None = None
        self._logits_unavailable = False
        self._computed: _Computed | None = None
        self._error: Exception | None = None
        self._initial: _Drawn | None = None
        self._drawn: _Drawn | None = None
        self._animations: tuple[int, int, Mapping[str, Callable[[], Drawable]]] | None = None

    @property
    def initial_pictures(self) -> dict[str, Drawable]:
        """What the drawing before training shows, by tag."""
        return {} if self._initial is None else dict(self._initial.result.pictures)

    @property
    def has_failed(self) -> bool:
        """Whether the current drawing failed on this rank."""
        return self._error is not None

    # -- whether to draw -----------------------------------------------------------------------------------------------

    def is_active(self, trainer: Trainer) -> bool:
        """Whether this process draws, and somebody takes the pictures."""
        has_sink = sinks.has_sink(trainer.loggers) or self.settings.save_dir is not None
        return has_sink and self._processes.is_rank_zero and not self.failures.too_many

    def start_validation(self, trainer: Trainer, participation: Participation) -> None:
        """A validation starts, on every rank that has batches for it: decide whether it is due."""
        self.participation = participation
        self._computed, self._error, self._listener = None, None, None
        if trainer.sanity_checking:
            self.is_due = self.is_active(trainer) and self.settings.initial and trainer.global_step == 0
        elif _lightning.is_fit(trainer):
            self.is_due = self.schedule.is_due(trainer.current_epoch) and self.is_active(trainer)
        else:
            self.is_due = self.is_active(trainer)

    def run_info(self, *, provisional: bool) -> RunInfo:
        """Where the current drawing is made."""
        processes = self._processes
        return RunInfo(processes.rank, processes.world_size, self.participation.mode, provisional)

    # -- what passes ---------------------------------------------------------------------------------------------------

    def listener(self, run: RunInfo, *, initial: bool) -> Listener:
        """What is to be taken from the validation that starts."""
        observers: Observers = ()
        try:
            observers = self.visualizer.start_validation(run)
        except Exception as error:
            self.is_due = False  # what it draws would be of a part of the validation
            self.fail(error, initial=initial)
        wants_logits = self.visualizer.needs.logits and run.mode != "lockstep" and not self._logits_unavailable
        self._listener = Listener(
            self.settings,
            LayerObservers(observers, partial(self._miss, "observe its layers")),
            LogitsCapture() if wants_logits else None,
        )
        return self._listener

    def take(self, read: Read, returned: Any, positions: range, *, has_labels: bool) -> None:
        """A batch of this callback's loader has passed."""
        images, labels, extra_inputs = read
        if self._listener is None:
            return
        try:
            for accumulator, reduced, count in self._listener.observers.reduced:
                if count == len(images):
                    accumulator.update(reduced, images)
        except Exception as error:
            self._miss("observe its layers", error)
        try:
            labels = labels if has_labels else None
            logits = self._logits(len(images), labels, returned)
            self.visualizer.on_batch(ValidationBatch(images, labels, logits, extra_inputs, positions))
        except Exception as error:
            self._miss("take a validation batch", error)

    def _miss(self, doing: str, error: Exception) -> None:
        """Something of the validation is missed, which is told once."""
        if self.settings.on_error == "raise":
            raise error
        self.failures.warn(doing, error)

    def _logits(self, count: int, labels: Tensor | None, returned: Any) -> Tensor | None:
        """The logits of the batch; where they can't be had it is told once, and they are not looked for again."""
        capture = None if self._listener is None else self._listener.capture
        if capture is None or self._logits_unavailable:
            return None
        owner = self.failures.owner
        if labels is None:
            _lightning.rank_zero_info(f"{owner} finds no labels in the validation batches, and so no mistakes.")
            self._logits_unavailable = True
            return None
        try:
            return capture.find(returned, count, logits=self.settings.logits, output=self.settings.output)
        except Exception as error:
            self._logits_unavailable = True
            _lightning.rank_zero_warn(
                f"{owner} can't read the logits of the validation ({type(error).__name__}: {error}), {HINT}"
            )
            return None

    # -- the drawing ---------------------------------------------------------------------------------------------------

    @contextmanager
    def guard(self, *, initial: bool, in_forward: bool = False) -> Iterator[None]:
        """What goes wrong inside costs this drawing; see `fail`."""
        try:
            yield
        except Exception as error:
            self.fail(error, initial=initial, in_forward=in_forward)

    def fail(self, error: Exception, *, initial: bool, in_forward: bool = False) -> None:
        """A drawing failed: before training that is an error, later it is told and endured.

        Args:
            error: what happened.
            initial: whether this was the drawing before training.
            in_forward: whether other ranks may be in the same forward.
        """
        self._error = error
        if initial and not isinstance(error, torch.OutOfMemoryError):
            self.dry_run_error = error
        elif in_forward and self.participation.must_raise(error):
            raise error
        elif self.participation.is_divided or not self._processes.is_rank_zero:
            return  # rank 0 learns of it where it gathers, or met the same error
        elif self.settings.on_error == "raise":
            raise error
        else:
            self.failures.add(error)

    def warn(self, doing: str, error: BaseException) -> None:
        """Something costs a part of the drawing; where ranks go in lockstep the others may be waiting."""
        if not self.participation.tries_again:
            raise error
        self.failures.warn(doing, error)

    def draw(self, context: DrawContext, on_model: Callable[[], AbstractContextManager[None]], start: float) -> None:
        """At the drawing moment: compute this rank's part, and draw it, unless others compute theirs.

        Args:
            context: what the drawing is made from.
            on_model: isolates the model.
            start: when the drawing began, by `time.perf_counter`.
        """
        initial = context.snapshot.initial
        try:
            with on_model():
                part = self.visualizer.compute(context, self.participation.share)
        except Exception as error:
            self.fail(error, initial=initial, in_forward=True)
            return
        self._computed = _Computed(context, part, time.perf_counter() - start)
        if not self.participation.is_divided:
            with self.guard(initial=initial):
                parts = self.participation.gather(part)
                if parts is not None:
                    self._render(parts)

    def finish(self) -> None:
        """The validation ends: draw what ranks computed apart; nothing stays on the device."""
        if self.participation.is_divided:
            parts = self.participation.gather(self._outcome())
            self.participation = Solo(self._processes)
            if parts is not None:
                with self.guard(initial=False):
                    for rank, part in enumerate(parts):
                        if isinstance(part, _Failed):
                            raise RuntimeError(f"rank {rank}: {part.reason}")
                    self._render(parts)
        self.forget()

    def forget(self) -> None:
        """Nothing of a validation stays on the device while training goes on."""
        self._computed = None
        if self._listener is not None:
            self._listener = None
            with self.guard(initial=False):
                self.visualizer.end_validation()

    def _outcome(self) -> Any:
        """This rank's part, or why there is none."""
        if self._error is not None:
            return _Failed(f"{type(self._error).__name__}: {self._error}")
        return _Failed("it saw no last batch") if self._computed is None else self._computed.part

    def _render(self, parts: Sequence[Any]) -> None:
        """Draw what was computed, and keep the pictures until they are handed over."""
        assert self._computed is not None  # this rank, which draws, has computed its part, too
        context, start = self._computed.context, time.perf_counter()
        with torch.inference_mode(False), torch.no_grad():
            result = self.visualizer.draw(context, parts)
            # Waits for the device, so that the time is whole.
            pictures = {tag: picture.cpu() for tag, picture in result.pictures.items()}
        seconds = self._computed.seconds + time.perf_counter() - start
        result = DrawResult(pictures, dict(result.scalars), str(result.diagnostics), dict(result.animations))
        self.failures.in_a_row = 0
        self._computed = None
        self._check_finite(context)
        drawn = _Drawn(context.snapshot, result, seconds)
        if context.snapshot.initial:
            self._initial = drawn
        else:
            self._drawn = drawn

    def _check_finite(self, context: DrawContext) -> None:
        """Tell of a network that has diverged; waits for the device."""
        result = context.result
        seen = [*result.outputs.values(), *([] if result.logits is None else [result.logits])]
        if all(bool(each.isfinite().all()) for each in seen):
            return
        is_fine = bool(context.probes.images.isfinite().all())
        why = "Its training has probably diverged." if is_fine else "So are the probes: look at your data."
        self._once.warn(
            f"lightning_convviz ({context.snapshot.caption}): the network answers the probes with values that are not "
            f"finite (NaN or infinite). {why}",
            key="not finite",
        )

    # -- handing over --------------------------------------------------------------------------------------------------

    def submit_initial(self, queue: PictureQueue) -> None:
        """Training begins: what was drawn before it stands at step 0, once."""
        if self._initial is not None and self.schedule.last_step < 0:
            with self.guard(initial=False):
                queue.put(self._logged(self._initial, self.schedule.next_step(0)), self.settings.save_dir)

    def submit(self, trainer: Trainer, queue: PictureQueue, step: int | None = None) -> None:
        """Hand over what was drawn; `step` is that of the validation's metrics, where it is known better by now."""
        if self._drawn is None:
            return
        drawn, self._drawn = self._drawn, None
        with self.guard(initial=False):
            if not _lightning.is_fit(trainer):
                queue.put(self._logged_alone(trainer, drawn), self.settings.save_dir)
                return
            step = self.schedule.next_step(drawn.snapshot.step if step is None else step)
            queue.put(self._logged(drawn, step), self.settings.save_dir)
            self._animations = (drawn.snapshot.epoch, step, drawn.result.animations)

    def submit_animations(self, queue: PictureQueue) -> None:
        """The fit ends: what its last drawing showed, once more in time."""
        epoch, step, animations = self._animations or (0, 0, {})
        self._animations = None
        if animations:
            with self.guard(initial=False):
                pictures = {tag: animate() for tag, animate in animations.items()}
                name = f"animation/{self.settings.name}"
                queue.put(sinks.LoggedDrawing(name, epoch, step, pictures), self.settings.save_dir)

    def _logged(self, drawn: _Drawn, step: int, prefix: str = "") -> sinks.LoggedDrawing:
        name, result = prefix + self.settings.name, drawn.result
        pictures = {prefix + tag: picture for tag, picture in result.pictures.items()}
        scalars = {f"convviz/seconds/{name}": drawn.seconds}
        scalars |= {f"convviz/{name}/{tag}": value for tag, value in result.scalars.items()}
        texts = {f"convviz/diagnostics/{name}": result.diagnostics} if result.diagnostics and not prefix else {}
        return sinks.LoggedDrawing(name, drawn.snapshot.epoch, step, pictures, scalars, texts)

    def _logged_alone(self, trainer: Trainer, drawn: _Drawn) -> sinks.LoggedDrawing:
        """Under tags of their own: every trainer counts its steps anew, and a tag's steps must not fall."""
        prefix = f"{_lightning.stage(trainer)}/"
        places = sinks.with_folder(sinks.destinations(trainer.loggers), self.settings.save_dir)
        step = sinks.next_step(places, prefix + self.settings.name, drawn.snapshot.step)
        return self._logged(drawn, step, prefix)
