"""What the user's own validation says of each batch: its logits, without a second pass over the data."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_convviz import outputs

HINT = (
    "so it draws no mistakes. Let `validation_step` return {'loss': ..., 'logits': ...}, or give `logits=` a function "
    "(what `validation_step` returns) -> logits."
)


class LogitsCapture:
    """The outputs of the module's forward in one validation batch.

    A call in which another one happens does not count: strategies run `validation_step` itself through the module's
    forward, and the call that is meant is inside (https://github.com/Lightning-AI/pytorch-lightning/pull/17531).
    """

    def __init__(self) -> None:
        self._calls = 0
        self._first: Any = None
        self._open: list[int] = []

    def attach(self, part: nn.Module) -> list[RemovableHandle]:
        """Take what this part returns, until the handles are removed."""
        return [part.register_forward_pre_hook(self._enter), part.register_forward_hook(self._leave)]

    def clear(self) -> None:
        """A new batch begins, or the last one ended."""
        self._calls, self._first, self._open = 0, None, []

    def take(self, part: nn.Module, args: Any, output: Any) -> None:
        """A forward hook for a part that is known only since it was called."""
        self._calls += 1
        self._first = output if self._calls == 1 else None

    def _enter(self, part: nn.Module, args: Any) -> None:
        redirected = getattr(part.forward, "__name__", "") == "wrapped_forward"
        self._open.append(-1 if redirected else self._calls)

    def _leave(self, part: nn.Module, args: Any, output: Any) -> None:
        if self._open and self._open.pop() == self._calls:
            self.take(part, args, output)

    def find(
        self,
        returned: Any,
        count: int,
        *,
        logits: Callable[[Any], Any] | None = None,
        output: Callable[[Any], Any] | None = None,
    ) -> Tensor:
        """The batch's logits (n, k): of what the step returned, else of what the forward did.

        Args:
            returned: by `validation_step`.
            count: how many images the batch has.
            logits: how to get them out of `returned`.
            output: how to get them out of what the forward returns.

        Raises:
            ValueError: where there are none, or not one row for each image.
        """
        if logits is not None:
            found = outputs.logits(logits(returned))
        elif isinstance(returned, Mapping) and "logits" in returned:
            found = outputs.logits(returned["logits"])
        elif self._calls == 1:
            found = outputs.logits(self._first, output)
        else:
            raise ValueError(
                f"`validation_step` called the module's forward {self._calls} times, not once, as far as seen"
            )
        if len(found) != count:
            raise ValueError(f"there are {len(found)} rows of logits for {count} images")
        return found
