"""One for each Trainer: what its callbacks share, and the order in which a validation becomes drawings.

Lightning calls each of our callbacks; the first one in the list drives the coordinator, which acts for all. So all
hooks are set after every callback is ready, a batch is read once, and the callbacks that look at the same probes get
what they want from one forward.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any
from weakref import ref

import torch

from lightning_convviz import _lightning, layers, sinks
from lightning_convviz._lightning import LightningModule, Trainer
from lightning_convviz.engine import checkpoint
from lightning_convviz.engine.contract import DrawContext, ForwardRequest, RunInfo, Settings, Visualizer
from lightning_convviz.engine.hooks import BatchReader, ValidationHooks
from lightning_convviz.engine.participant import Participant
from lightning_convviz.engine.participation import Lockstep, Participation, Plan, Shared, Solo, can_share
from lightning_convviz.engine.picture_queue import PictureQueue
from lightning_convviz.engine.probe_forward import ProbeForward, Results, sharing_key
from lightning_convviz.engine.probe_store import ProbeStore
from lightning_convviz.engine.processes import Processes, rank_local_buffers
from lightning_convviz.engine.schedule import take_snapshot
from lightning_convviz.isolation import isolated
from lightning_convviz.probes import Probes


class Coordinator:
    """Everything that the callbacks of one Trainer share.

    Attributes:
        participants: the callbacks, in the Trainer's order; the first one drives.
        processes: those of the run.
        queue: the drawings on their way to the loggers.
    """

    def __init__(self, trainer: Trainer | None = None, module: LightningModule | None = None) -> None:
        # Weakly: the callbacks hold the coordinator, and the trainer holds the callbacks.
        self._served = None if trainer is None else (ref(trainer), ref(module))
        self.participants: list[Participant] = []
        self.processes = Processes(trainer)
        self.queue = PictureQueue()
        self._participation: Participation = Solo(self.processes)
        self._store = ProbeStore()
        self._hooks = ValidationHooks()
        self._reader = BatchReader()
        self._forwards: dict[tuple[object, ...], ProbeForward] = {}
        self._plan = Plan()
        self._is_open = False  # whether the hooks of the current validation are set
        self._seen: dict[int, int] = {}  # by loader: how many images of it have passed in the current validation

    # -- joining -------------------------------------------------------------------------------------------------------

    def belongs_to(self, trainer: Trainer, module: LightningModule) -> bool:
        """Whether this is the coordinator of a trainer and its model."""
        return self._served is not None and self._served[0]() is trainer and self._served[1]() is module

    def is_driven_by(self, visualizer: Visualizer) -> bool:
        """Whether this callback's hooks are the ones that count."""
        return bool(self.participants) and self.participants[0].visualizer is visualizer

    def participant(self, visualizer: Visualizer) -> Participant | None:
        """The state of a callback in this run, if it has joined."""
        return next((each for each in self.participants if each.visualizer is visualizer), None)

    def begin(self, trainer: Trainer) -> None:
        """A fit, a validation or a test is set up: its data may be others, and its callbacks too."""
        self.queue.begin()
        self._participation = Lockstep(self.processes) if self.processes.is_sharded else Solo(self.processes)
        present = [id(callback) for callback in _lightning.callbacks(trainer)]
        self.participants = [each for each in self.participants if id(each.visualizer) in present]
        self._store.begin()
        self._forwards.clear()

    def join(self, visualizer: Visualizer, trainer: Trainer) -> None:
        """A callback is set up.

        Raises:
            ValueError: where another one has its name.
        """
        name = visualizer.settings.name
        known = self.participant(visualizer)
        if known is not None:
            known.loaded = None
            return
        if name in [each.settings.name for each in self.participants]:
            raise ValueError(
                f"`callbacks` holds two callbacks named {name!r}, and their tags would collide. Give one of them "
                "another `name=`."
            )
        self.participants.append(Participant(visualizer, self.processes, self.queue.once))
        visualizer.reset()
        if self.is_driven_by(visualizer):
            sinks.announce(trainer.loggers, visualizer.settings.save_dir)

    # -- before training -----------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Before anything runs: complain about names that the model does not have.

        Raises:
            ValueError: for such a name.
        """
        for participant in self.participants:
            self._validate(participant, module)
        if not trainer.enable_validation:
            _lightning.rank_zero_warn(
                "lightning_convviz draws at validations, and this run has none (`limit_val_batches=0`, or no "
                "`validation_step` or validation data): there will be no pictures."
            )

    def on_sanity_check_end(self, trainer: Trainer) -> None:
        """The dry run is over: what did not fit ends the run here, on all ranks."""
        self._sync_dry_run(trainer, self.participants)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Training starts, on all ranks; without a sanity check, given probes are tried here."""
        if not self.processes.is_sharded:
            sharing = can_share(self.processes, trainer)
            self._participation = Shared(self.processes) if sharing else Solo(self.processes)
        for participant in self.participants:
            _require_loader(participant, trainer)
        # Every rank has to decide this alike: not by pictures, which rank 0 alone has.
        untried = [
            each
            for each in self.participants
            if each.settings.initial and each.settings.probes is not None and not each.dry_run_done
        ]
        if trainer.global_step == 0 and untried:
            for participant in untried:
                participant.is_due = participant.is_active(trainer)
            if self._participation.plans_at == "epoch end":
                self._make_plan(trainer, module, untried, initial=True)
            self._draw_due(trainer, module, initial=True)
            for participant in untried:
                participant.finish()
            self._sync_dry_run(trainer, untried)
        if trainer.global_step == 0:
            for participant in self.participants:
                participant.submit_initial(self.queue)
            self.queue.flush(trainer)

    def _sync_dry_run(self, trainer: Trainer, participants: Sequence[Participant]) -> None:
        """On all ranks: what did not fit on the one that drew ends the run on all of them.

        An error on one rank alone would leave the others waiting in their next collective.
        """
        own = [(each.dry_run_error, each.visualizer.shared_choice()) for each in participants]
        told = self.processes.broadcast(trainer, [(None if e is None else str(e), choice) for e, choice in own])
        for participant, (_, choice) in zip(participants, told, strict=True):
            participant.dry_run_error, participant.dry_run_done = None, True
            if not self.processes.is_rank_zero:  # which ran no drawing, and is to observe the same layers
                participant.visualizer.adopt_choice(choice)
        for (error, _), (reason, _) in zip(own, told, strict=True):
            if reason is not None:
                raise error or ValueError(reason)

    @staticmethod
    def _validate(participant: Participant, module: LightningModule) -> None:
        _require_folder(participant)
        participant.visualizer.validate(module)
        if isinstance(participant.settings.forward, str):
            layers.find_one(module, participant.settings.forward, argument="forward")

    # -- a validation --------------------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """A validation starts, on every rank that has batches for it: who draws it?"""
        for participant in self.participants:
            if trainer.sanity_checking:
                _require_loader(participant, trainer)
            if not _lightning.is_fit(trainer):
                self._validate(participant, module)
            # Whether the work is divided is agreed on later; whether all go in lockstep is known.
            alone = Solo(self.processes)
            participant.start_validation(trainer, self._participation if self.processes.is_sharded else alone)
        self._is_open, self._plan = False, Plan()
        with self._watching():
            self._hooks.close()
            self._seen.clear()
            if self.processes.is_rank_zero and self._store.drop_incomplete(self._all_settings):
                self._forwards.clear()

    def on_validation_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        """A batch is about to be validated; before the first one, all hooks are set."""
        if not self._is_open:
            self._is_open = True
            if self._participation.plans_at == "first batch" and _lightning.is_fit(trainer):
                self._make_plan(trainer, module, self.participants, initial=False)
            initial = trainer.sanity_checking
            finds_input = any(settings.forward is None for settings in self._all_settings)
            listeners = [each.listener(self._run_info(each), initial=initial) for each in self._due()]
            with self._watching():
                self._hooks.open(module, listeners, finds_input=finds_input)
        with self._watching():
            self._reader.begin(trainer, batch)
            self._hooks.before_batch(self._reader)

    def on_validation_batch_end(self, trainer: Trainer, module: LightningModule, returned: Any, loader: int) -> None:
        """A batch has passed; the drawing moment is after the last one.

        Not the end of the epoch, where averaged weights may be gone again. Only ranks that have to run the model
        together meet there.
        """
        with self._watching():
            self._pass_on(trainer, returned, loader)
        self._hooks.after_batch()
        self._reader.clear()
        if _lightning.is_last_batch(trainer) and self._participation.plans_at != "epoch end":
            self._draw_due(trainer, module, initial=trainer.sanity_checking)

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """The end of a validation, where ranks may talk to each other."""
        if self._participation.plans_at == "epoch end":
            self._make_plan(trainer, module, self.participants, initial=trainer.sanity_checking)
        self._draw_due(trainer, module, initial=trainer.sanity_checking)  # where no batch announced to be the last, too
        for participant in self.participants:
            participant.finish()

    def on_validation_end(self, trainer: Trainer) -> None:
        """The metrics are logged: the pictures go to the same step."""
        self._hooks.close()
        step = _lightning.metrics_step(trainer) if _lightning.is_fit(trainer) else None
        for participant in self.participants:
            participant.submit(trainer, self.queue, step)
        self.queue.flush(trainer)

    def _pass_on(self, trainer: Trainer, returned: Any, loader: int) -> None:
        """Read what has passed, once, for those who collect probes and for those who watch."""
        due = self._due()
        if self.processes.is_rank_zero:  # which sends its probes to the others
            for wanted in self._store.loaders(self._all_settings):
                if _is_here(trainer, loader, wanted):
                    self._collect(trainer, wanted)
        watched = sorted({each.settings.dataloader_idx for each in due})
        for place in [each for each in watched if _is_here(trainer, loader, each)]:
            try:
                read = self._reader.read(place)
            except ValueError:  # a batch without images; whoever asks for probes is told why
                continue
            count, seen = len(read[0]), self._seen.get(place, 0)
            self._seen[place] = seen + count
            positions = self.processes.positions(seen, count)
            for participant in due:
                if participant.settings.dataloader_idx == place:
                    participant.take(read, returned, positions, has_labels=self._store.has_labels(place))

    def _collect(self, trainer: Trainer, loader: int) -> None:
        loaders = _lightning.loaders(trainer)
        dataset = getattr(loaders[loader], "dataset", None) if loader < len(loaders) else None
        try:
            if self._store.collect(loader, self._reader.read(loader), self._all_settings, dataset):
                self._forwards.clear()
        except ValueError as error:
            self._store.note_unreadable(loader, error)

    # -- the drawing ---------------------------------------------------------------------------------------------------

    def _draw_due(self, trainer: Trainer, module: LightningModule, *, initial: bool) -> None:
        """Let every callback draw that is due."""
        due = self._due()
        if not due:
            return
        for participant in due:
            participant.is_due = False
        self._hooks.close()  # the last batch has passed, and observers are not to see the probes
        groups: dict[tuple[object, ...], list[Participant]] = {}
        for participant in due:
            key = sharing_key(participant.settings, participant.visualizer.needs.classifier)
            groups.setdefault(key, []).append(participant)
        for key, group in groups.items():
            self._draw_group(trainer, module, key, group, initial)
        if _lightning.is_fit(trainer) and not initial and not all(participant.has_failed for participant in due):
            self._store.freeze()

    def _draw_group(
        self,
        trainer: Trainer,
        module: LightningModule,
        key: tuple[object, ...],
        group: list[Participant],
        initial: bool,
    ) -> None:
        """Callbacks that share their probes: one forward for all, then each by itself."""
        start = time.perf_counter()
        contexts: list[tuple[Participant, DrawContext]] = []
        try:
            with self._on_model(module, group):
                contexts = self._contexts(trainer, module, key, group, initial)
        except Exception as error:
            contexts = []
            for participant in [each for each in group if not each.has_failed]:
                participant.fail(error, initial=initial, in_forward=True)
        for participant, context in contexts:
            participant.draw(context, partial(self._on_model, module, [participant]), start)
            start = time.perf_counter()

    def _contexts(
        self,
        trainer: Trainer,
        module: LightningModule,
        key: tuple[object, ...],
        group: list[Participant],
        initial: bool,
    ) -> list[tuple[Participant, DrawContext]]:
        """What each callback's drawing is made from; inside `isolated(module)`."""
        forward = self._forward_of(trainer, module, key, group[0])
        requests: dict[str, ForwardRequest] = {}
        for participant in group:
            with participant.guard(initial=initial, in_forward=True):
                participant.visualizer.select(forward.view)
                requests[participant.settings.name] = participant.visualizer.request(forward.view)
        asking = [each for each in group if each.settings.name in requests]
        results: dict[str, Results] = {}
        try:
            results = forward.run(requests)
        except Exception:  # perhaps the fault of one: then each by itself
            if not self._participation.tries_again:
                raise
            for participant in asking:
                with participant.guard(initial=initial, in_forward=True):
                    name = participant.settings.name
                    results |= forward.run({name: requests[name]})
        contexts = []
        for participant in [each for each in asking if each.settings.name in results]:
            own, view = results[participant.settings.name], forward.view
            context = DrawContext(
                view.model,
                view.probes,
                view.photos,
                view.trace,
                view.forward,
                view.extra_inputs,
                view.labels_are_classes,
                snapshot=take_snapshot(trainer, participant.loaded, initial=initial),
                result=own.probes,
                explained=own.explained,
                run=self._run_info(participant),
                warn=participant.warn,
            )
            contexts.append((participant, context))
        return contexts

    def _forward_of(
        self,
        trainer: Trainer,
        module: LightningModule,
        key: tuple[object, ...],
        first: Participant,
    ) -> ProbeForward:
        """The way of these callbacks' probes through the model, as long as both stay the same."""
        known = self._forwards.get(key)
        if known is None or known.modules != [id(part) for part in module.modules()]:
            received = not self.processes.is_rank_zero
            known = ProbeForward.of(
                trainer,
                module,
                self._store.probes_of(first.settings, received=received),
                first.settings,
                input_module=self._hooks.input_module,
                classifier=first.visualizer.needs.classifier,
            )
            self._forwards[key] = known
            if known.has_foreign_labels:
                self._store.ignore_labels(first.settings.dataloader_idx)
        return known

    @contextmanager
    def _on_model(self, module: LightningModule, group: Sequence[Participant]) -> Iterator[None]:
        """The model isolated, and the same on this rank as on rank 0."""
        with isolated(module), torch.no_grad():
            group[0].participation.prepare(module, self._plan)
            yield

    # -- several ranks -------------------------------------------------------------------------------------------------

    def _make_plan(
        self,
        trainer: Trainer,
        module: LightningModule,
        participants: Sequence[Participant],
        *,
        initial: bool,
    ) -> None:
        """A collective: rank 0 says which callbacks are drawn by all ranks, and on what."""
        way, plan = self._participation, Plan()
        admitted = [
            each
            for each in participants
            if way.admits(each.visualizer.needs, probes_are_final=self._store.are_final(each.settings))
        ]
        if self.processes.is_rank_zero:
            try:
                plan = self._planned(module, [each for each in admitted if each.is_due])
            except Exception as error:  # the others wait
                self.queue.once.warn(f"lightning_convviz could not share its work ({type(error).__name__}: {error}).")
        self._plan = self.processes.broadcast(trainer, plan)
        if self._plan.probes and not self.processes.is_rank_zero:
            self._store.receive(self._plan.probes)
            self._forwards.clear()
        for participant in participants:
            if participant.settings.name in self._plan.names:
                participant.participation, participant.is_due = way, True
            elif participant.is_due and way.mode == "lockstep":  # no probes: it is told why, and nobody runs the model
                participant.is_due = False
                with participant.guard(initial=initial):
                    self._store.probes_of(participant.settings, received=False)

    def _planned(self, module: LightningModule, due: Sequence[Participant]) -> Plan:
        names: list[str] = []
        probes: dict[str, Probes] = {}
        for participant in due:
            with suppress(ValueError):  # it has no probes, and will say so
                news = self._store.news(participant.settings)
                names.append(participant.settings.name)
                probes |= {} if news is None else {participant.settings.name: news}
        return Plan(names, probes, rank_local_buffers(module) if names else {})

    def _run_info(self, participant: Participant) -> RunInfo:
        provisional = self._participation.is_divided and not participant.participation.is_divided
        return participant.run_info(provisional=provisional)

    # -- the end -------------------------------------------------------------------------------------------------------

    def on_fit_end(self, trainer: Trainer) -> None:
        """The fit ends: what its last drawings showed, once more in time."""
        for participant in self.participants:
            participant.submit_animations(self.queue)

    def finish(self, trainer: Trainer) -> None:
        """At the end of the run, also a broken one: write everything, let everything go."""
        self._hooks.close()
        self._reader.clear()
        for participant in self.participants:
            participant.submit(trainer, self.queue)
            participant.forget()
        self.queue.finish(trainer)
        self._forwards.clear()

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state_of(self, participant: Participant) -> dict[str, Any]:
        """What a checkpoint holds of a callback."""
        return checkpoint.state_of(participant, self._store, self._all_settings, self.queue.once)

    def restore(self, participant: Participant, state: Any) -> None:
        """Go on with what a checkpoint holds.

        Raises:
            ValueError: for a state of another version.
        """
        checkpoint.restore(participant, self._store, state)
        self._forwards.clear()

    # -- helpers -------------------------------------------------------------------------------------------------------

    @property
    def _all_settings(self) -> list[Settings]:
        return [participant.settings for participant in self.participants]

    def _due(self) -> list[Participant]:
        return [participant for participant in self.participants if participant.is_due]

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """What goes wrong while batches pass is told once, and harms nobody."""
        try:
            yield
        except Exception as error:
            if any(settings.on_error == "raise" for settings in self._all_settings):
                raise
            self.queue.once.warn(
                f"lightning_convviz could not watch a validation batch pass ({type(error).__name__}: {error}).",
                key=type(error).__name__,
            )


def _is_here(trainer: Trainer, passed: int, wanted: int) -> bool:
    """Whether a batch holds images of a loader: its own, or where loaders are combined side by side, any."""
    return passed == wanted or not _lightning.is_sequential(trainer)


def _require_loader(participant: Participant, trainer: Trainer) -> None:
    """Before training: complain about a loader that is not there.

    Raises:
        ValueError: where it is not.
    """
    loader, count = participant.settings.dataloader_idx, len(_lightning.batches(trainer))
    if participant.settings.probes is None and 0 < count <= loader:
        raise ValueError(f"`dataloader_idx` is {loader}, and there are {count} loaders, 0 to {count - 1}.")


def _require_folder(participant: Participant) -> None:
    """Before training: complain about a folder of one's own that can't be.

    Raises:
        ValueError: where it can't be made.
    """
    folder = participant.settings.save_dir
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"`save_dir` is {str(folder)!r}, which can't be made: {error}. Name another.") from error
