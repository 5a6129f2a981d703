"""What the user's own validation says of each batch: its logits, without a second pass over the data."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_convviz import _lightning, batches, outputs

if TYPE_CHECKING:
    from lightning_convviz.callbacks.base import Watcher

HINT = (
    "so it draws no mistakes. Let `validation_step` return {'loss': ..., 'logits': ...}, or give `logits=` a function "
    "(what `validation_step` returns) -> logits."
)


class Answers:
    """The outputs of the module's forward in one validation batch.

    A call in which another one happens does not count: strategies run `validation_step` itself through the module's
    forward, and the call that is meant is inside (https://github.com/Lightning-AI/pytorch-lightning/pull/17531).
    """

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self._wanted = wanted  # whether a drawing is due: nothing else is kept for it
        self._count = 0
        self._first: Any = None
        self._open: list[int] = []

    def listen(self, part: nn.Module) -> list[RemovableHandle]:
        """Take what this part returns, until the handles are removed."""
        return [part.register_forward_pre_hook(self._enter), part.register_forward_hook(self._leave)]

    def clear(self) -> None:
        """A new batch begins, or the last one ended."""
        self._count, self._first, self._open = 0, None, []

    def take(self, part: nn.Module, args: Any, output: Any) -> None:
        """A forward hook for a part that is known only since it was called."""
        self._count += 1
        self._first = output if self._count == 1 and self._wanted() else None

    def _enter(self, part: nn.Module, args: Any) -> None:
        redirected = getattr(part.forward, "__name__", "") == "wrapped_forward"
        self._open.append(-1 if redirected else self._count)

    def _leave(self, part: nn.Module, args: Any, output: Any) -> None:
        if self._open and self._open.pop() == self._count:
            self.take(part, args, output)

    def logits(
        self,
        returned: Any,
        count: int,
        *,
        given: Callable[[Any], Any] | None = None,
        output: Callable[[Any], Any] | None = None,
    ) -> Tensor:
        """The batch's logits (n, k): of what the step returned, else of what the forward did.

        Args:
            returned: by `validation_step`.
            count: how many images the batch has.
            given: how to get logits out of `returned`.
            output: how to get logits out of what the forward returns.

        Raises:
            ValueError: where there are none, or not one row for each image.
        """
        if given is not None:
            found = outputs.logits(given(returned))
        elif isinstance(returned, Mapping) and "logits" in returned:
            found = outputs.logits(returned["logits"])
        elif self._count == 1:
            found = outputs.logits(self._first, output)
        else:
            raise ValueError(
                f"`validation_step` called the module's forward {self._count} times, not once, as far as seen"
            )
        if len(found) != count:
            raise ValueError(f"there are {len(found)} rows of logits for {count} images")
        return found


def hear(watcher: "Watcher", answers: Answers, trainer: Any, batch: Any, returned: Any) -> None:
    """Let a callback hear the answers to a batch; without labels there is nothing to hear.

    Where the logits can't be had, it is told once, and the callback goes deaf.
    """
    try:
        images, labels, extra_inputs = batches.read(_lightning.of_loader(trainer, batch, watcher.dataloader_idx))
    except ValueError:  # perhaps the next; the collector of the probes complains
        return
    if labels is None:
        _lightning.rank_zero_info(
            f"{type(watcher).__name__} finds no labels in the validation batches, and so no mistakes."
        )
        watcher.hears = False
        return
    try:
        logits = answers.logits(returned, len(images), given=watcher.logits, output=watcher.output)
        watcher.hear(images, labels, logits, extra_inputs)
    except Exception as error:
        watcher.hears = False
        _lightning.rank_zero_warn(
            f"{type(watcher).__name__} can't read the logits of the validation ({type(error).__name__}: {error}), "
            f"{HINT}"
        )
