"""The most confident errors among validation images that pass, and which classes are taken for which.

Everything stays on the device, and nothing waits for it: this runs between the batches of a user's own validation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor
from torch.nn import functional as F

MOST_CLASSES = 1_000  # of a table of confusions: 8 MB
EXAMPLES = 32  # kinds of confusion of which an example is kept
SIDE = 48  # pixels of an example, at most

Rows = dict[Any, Tensor]  # by name, other inputs by ("other", their name)
Examples = dict[tuple[int, int], tuple[float, Tensor]]


@dataclass(frozen=True)
class MistakeBatch:
    """Images with what the net predicted for them, worst first.

    Attributes:
        images: (n, c, h, w), as they passed.
        labels: (n,), the true classes.
        positions: (n,), which images of the data they are, from 0.
        confidence: (n,), the probability of the wrong class, in (0, 1].
        extra_inputs: further inputs of the model.
    """

    images: Tensor
    labels: Int[Tensor, " n"]
    positions: Int[Tensor, " n"]
    confidence: Float[Tensor, " n"]
    extra_inputs: Mapping[str | int, Tensor]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Confusions:
    """How often which class was taken for which in a validation, in main memory.

    Attributes:
        seen: how many images passed.
        labeled: how many of them had a label and finite logits.
        table: (k, k), true class, then predicted class -> how many; None where there are too many classes, or nothing
            passed.
        examples: of the most frequent confusions, see `Mistakes.examples`.
    """

    seen: int = 0
    labeled: int = 0
    table: Int[Tensor, "k k"] | None = None
    examples: Examples = field(default_factory=dict)

    @property
    def wrong(self) -> int | None:
        """How many images were taken for another class; None where that was not counted."""
        return None if self.table is None else int(self.table.sum() - self.table.diagonal().sum())

    @staticmethod
    def merge(parts: Sequence["Confusions"]) -> "Confusions":
        """What several ranks counted, as one; of each kind the most confident example."""
        tables = [part.table for part in parts if part.table is not None]
        examples: Examples = {}
        for kind, example in (item for part in parts for item in part.examples.items()):
            if kind not in examples or example[0] > examples[kind][0]:
                examples[kind] = example
        return Confusions(
            sum(part.seen for part in parts),
            sum(part.labeled for part in parts),
            torch.stack(tables).sum(0) if tables else None,
            examples,
        )


class Mistakes:
    """A running list of the `count` most confident errors.

    Confidence is the softmax probability of the predicted class: the baseline of Hendrycks and Gimpel 2017
    (https://arxiv.org/abs/1610.02136), and known to be too high in deep nets (Guo et al. 2017,
    https://arxiv.org/abs/1706.04599): good for an order, not as a rate of errors.

    Example:
        >>> mistakes = Mistakes(2)
        >>> logits = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
        >>> mistakes.update(torch.zeros(3, 1, 2, 2), torch.tensor([0, 0, 0]), logits)
        >>> found = mistakes.compute()
        >>> found.positions, found.confidence, mistakes.table
        (tensor([2, 1]), tensor([0.8808, 0.7311]), tensor([[1, 2],
                [0, 0]]))
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.reset()

    def reset(self) -> None:
        """A new validation begins."""
        self.seen = 0
        self.table: Int[Tensor, "k k"] | None = None  # true class, then predicted class -> how many
        self._kept: Rows | None = None
        self._examples: Rows | None = None
        self._labeled: Tensor | None = None

    def labeled(self) -> int:
        """How many images had a label and finite logits. Waits for the device."""
        return 0 if self._labeled is None else int(self._labeled)

    def update(
        self,
        images: Float[Tensor, "n *chw"],
        labels: Integer[Tensor, " n"],
        logits: Float[Tensor, "n k"],
        extra_inputs: Mapping[str | int, Tensor] | None = None,
        *,
        positions: range | None = None,
    ) -> None:
        """Take a batch; images whose label is no class of the net (a mark for "not labeled") do not count.

        Images of another shape than the first ones, or with other inputs of another shape, are counted, but not kept:
        they can't stand in one batch with them.

        Args:
            images: of the batch.
            labels: the true classes.
            logits: of the model, for these images.
            extra_inputs: further inputs of the model, a row for each image.
            positions: which images of the data these are; by default those that follow the last batch's.
        """
        positions = range(self.seen, self.seen + len(images)) if positions is None else positions
        with torch.inference_mode(False), torch.no_grad():
            logits, labels = logits.detach().to(images.device, torch.float32), labels.to(images.device).long()
            confidence, predicted = logits.softmax(1).max(1)
            known = (labels >= 0) & (labels < logits.shape[1]) & confidence.isfinite()
            self._labeled = known.sum() if self._labeled is None else self._labeled + known.sum()
            self._tally(labels, predicted, known, logits.shape[1])
            scores = torch.where(known & (predicted != labels), confidence, -1.0)
            places = torch.arange(positions.start, positions.stop, positions.step, device=scores.device)
            tagged: Rows = {("other", name): rows for name, rows in (extra_inputs or {}).items()}
            self._merge({**tagged, "images": images, "labels": labels, "positions": places, "scores": scores})
            self._exemplify(images, labels, predicted, scores)
            self.seen += len(images)

    def _exemplify(self, images: Tensor, labels: Tensor, predicted: Tensor, scores: Tensor) -> None:
        """Keep the most confident example of each kind of confusion, of the most frequent kinds so far."""
        if self.table is None or images.ndim != 4:
            return
        if len(scores) > 4 * EXAMPLES:  # all pairs are compared below
            rows = scores.sort(descending=True, stable=True).indices[: 4 * EXAMPLES]
            images, labels, predicted, scores = images[rows], labels[rows], predicted[rows], scores[rows]
        small = _resize_to_side(images)
        if self._examples is not None and small.shape[1:] != self._examples["images"].shape[1:]:
            return
        kinds = torch.where(scores > 0, labels * len(self.table) + predicted, 0)
        batch: Rows = {"images": small, "kinds": kinds, "scores": scores}
        if self._examples is None:
            self._examples = {name: _blank(rows, EXAMPLES) for name, rows in batch.items()}
        both = {name: torch.cat([kept, batch[name]]) for name, kept in self._examples.items() if name != "images"}
        kinds, scores = both["kinds"], both["scores"]
        order = torch.arange(len(kinds), device=kinds.device)
        better = (scores[None] > scores[:, None]) | ((scores[None] == scores[:, None]) & (order[None] < order[:, None]))
        first = ~((kinds[None] == kinds[:, None]) & better).any(1) & (scores > 0)
        frequency = torch.where(first, self.table.flatten()[kinds], -1)
        best = frequency.sort(descending=True, stable=True).indices[:EXAMPLES]
        self._examples = {name: _picked(kept, batch[name], best) for name, kept in self._examples.items()}
        self._examples["scores"] = torch.where(frequency[best] > 0, self._examples["scores"], 0.0)

    def _tally(self, labels: Tensor, predicted: Tensor, known: Tensor, classes: int) -> None:
        if classes > MOST_CLASSES:
            return
        # A product of indicators: one_hot and bincount would wait for the device.
        numbers = torch.arange(classes, device=labels.device)
        true = ((labels[:, None] == numbers) & known[:, None]).float()
        counts = (true.T @ (predicted[:, None] == numbers).float()).round().long()
        self.table = counts if self.table is None else self.table + counts

    def _merge(self, batch: Rows) -> None:
        if self._kept is None:
            self._kept = {name: _blank(rows, self.count) for name, rows in batch.items()}
            self._kept["scores"] -= 1
        shapes = {name: rows.shape[1:] for name, rows in batch.items()}
        if any(shapes.get(name) != kept.shape[1:] for name, kept in self._kept.items()):
            return
        scores = torch.cat([self._kept["scores"], batch["scores"]])
        order = scores.sort(descending=True, stable=True).indices[: self.count]
        self._kept = {name: _picked(kept, batch[name], order) for name, kept in self._kept.items()}

    def compute(self) -> MistakeBatch | None:
        """The errors so far, worst first; None where there are none. Waits for the device."""
        if self._kept is None:
            return None
        rows = dict(self._kept)
        number = int((rows["scores"] > 0).sum())
        images, labels, positions, scores = (
            rows.pop(name)[:number] for name in ("images", "labels", "positions", "scores")
        )
        return MistakeBatch(
            images, labels, positions, scores, {name[1]: other[:number] for name, other in rows.items()}
        )

    def confusions(self) -> Confusions:
        """What was counted so far. Waits for the device."""
        table = None if self.table is None else self.table.cpu()
        return Confusions(self.seen, self.labeled(), table, self.examples())

    def examples(self) -> Examples:
        """For the most frequent confusions (true class, predicted class) an example: its confidence, its image.

        Images are at most `SIDE` pixels large. Waits for the device.
        """
        if self._examples is None or self.table is None:
            return {}
        rows, classes = {name: kept.cpu() for name, kept in self._examples.items()}, len(self.table)
        kinds = [divmod(kind, classes) for kind in rows["kinds"].tolist()]
        found = zip(kinds, rows["scores"].tolist(), rows["images"], strict=True)
        return {kind: (confidence, image) for kind, confidence, image in found if confidence > 0}


def _resize_to_side(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c v u"]:
    h, w = images.shape[2:]
    if max(h, w) <= SIDE:
        return images
    size = max(1, round(h * SIDE / max(h, w))), max(1, round(w * SIDE / max(h, w)))
    return F.interpolate(images.float(), size=size, mode="area")


def _blank(rows: Tensor, count: int) -> Tensor:
    return rows.new_zeros(count, *rows.shape[1:])


def _picked(kept: Tensor, batch: Tensor, order: Int[Tensor, " m"]) -> Tensor:
    """Rows of both, one after the other; only the chosen ones are copied."""
    old = kept[order.clamp(max=len(kept) - 1)]
    new = batch[(order - len(kept)).clamp(min=0)].to(kept)
    return torch.where((order < len(kept)).view(-1, *[1] * (kept.ndim - 1)), old, new)
