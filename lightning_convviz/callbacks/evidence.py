"""What was seen of a few pictures, and what their captions say of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_convviz import cams
from lightning_convviz.mistakes import MistakeBatch
from lightning_convviz.probes import Probes
from lightning_convviz.render.heat import Row


@dataclass(frozen=True)
class Evidence:
    """Pictures, the logits for them and their maps, in the order of the explanations that were asked for.

    Attributes:
        probes: the pictures with their labels, names and ids.
        look: logits and maps.
        confidence: of mistakes, how sure the net was of the wrong class, in the validation's own forward.
    """

    probes: Probes
    look: cams.ForwardResult
    confidence: Tensor | None = None

    def __len__(self) -> int:
        return len(self.probes)

    def cpu(self) -> "Evidence":
        """The same in main memory, to be sent to another rank."""
        look = cams.ForwardResult(
            None if self.look.logits is None else self.look.logits.cpu(),
            {},
            [each.cpu() for each in self.look.maps],
            [each.cpu() for each in self.look.uniform_gradient],
        )
        confidence = None if self.confidence is None else self.confidence.cpu()
        return Evidence(self.probes.cpu(), look, confidence)

    def take(self, rows: Sequence[int]) -> "Evidence":
        """Some of the pictures, in this order."""
        index = torch.as_tensor(list(rows), dtype=torch.long)
        look = replace(
            self.look,
            logits=None if self.look.logits is None else self.look.logits[index],
            maps=[each[index] for each in self.look.maps],
        )
        return Evidence(self.probes.select(rows), look, None if self.confidence is None else self.confidence[index])


def merged(parts: Sequence[Evidence | None], count: int) -> Evidence | None:
    """The most confident mistakes of all ranks, worst first, in main memory."""
    found = [part for part in parts if part is not None]
    if not found:
        return None
    found = [part for part in found if part.probes.images.shape[1:] == found[0].probes.images.shape[1:]]
    confidence = torch.cat([part.confidence for part in found if part.confidence is not None])
    looks = [part.look for part in found]
    joined = Evidence(
        _joined([part.probes for part in found]),
        cams.ForwardResult(
            torch.cat([look.logits for look in looks if look.logits is not None]),
            {},
            [torch.cat(maps) for maps in zip(*(look.maps for look in looks), strict=True)],
            looks[0].uniform_gradient,
        ),
        confidence,
    )
    return joined.take(confidence.sort(descending=True, stable=True).indices[:count].tolist())


def _joined(parts: Sequence[Probes]) -> Probes:
    labels = [torch.as_tensor(part.labels) for part in parts if part.labels is not None]
    return replace(
        parts[0],
        masks=None,  # mistakes have none
        class_names=max((part.class_names for part in parts if part.class_names), key=len, default=None),
        images=torch.cat([part.images for part in parts]),
        labels=torch.cat(labels) if len(labels) == len(parts) else None,
        ids=[name for part in parts for name in part.ids or ()],
        extra_inputs={key: torch.cat([part.extra_inputs[key] for part in parts]) for key in parts[0].extra_inputs},
    )


def joined(parts: Sequence[Probes]) -> Probes:
    """Pictures of one shape, one after the other."""
    return parts[0] if len(parts) == 1 else _joined(parts)


def of_mistakes(found: MistakeBatch, like: Probes, ids: Sequence[int]) -> Probes:
    """Mistakes as probes, with class names and display as others of the same data."""
    highest = int(found.labels.max())
    names = None if like.class_names is None else [like.name(label) for label in range(highest + 1)]
    if like.class_names is not None and names is not None:
        names = [*names, *like.class_names[highest + 1 :]]
    return Probes(found.images, found.labels, names, ids=tuple(ids), extra_inputs=found.extra_inputs, space=like.space)


def facts(probes: Probes, logits: Tensor) -> list[dict[str, Any]]:
    """What the net says of each picture: classes by name, probabilities, margin in logits.

    `instead` is the true class where the net errs, and the second best where it is right or nobody knows. Of a net that
    has diverged, what is not a number is None.
    """
    logits = logits.detach().cpu().double()
    shares, best = logits.softmax(1), logits.argsort(dim=1, descending=True, stable=True)
    said, second = best[:, 0], best[:, min(1, logits.shape[1] - 1)]
    labels = None if probes.labels is None else torch.as_tensor(probes.labels).to(said)
    instead = second if labels is None else torch.where(said == labels, second, labels)
    items = []
    for row, fine in enumerate(logits.isfinite().all(1).tolist()):
        true = None if labels is None else int(labels[row])
        item: dict[str, Any] = {"id": (probes.ids or ())[row], "true": None if true is None else probes.name(true)}
        for key, index in (("predicted", int(said[row])), ("instead", int(instead[row]))):
            item[key] = probes.name(index) if fine else None
            item[f"p_{key}"] = round(float(shares[row, index]), 4) if fine else None
        item["p_true"] = None if true is None or not fine else round(float(shares[row, true]), 4)
        item["margin"] = float(f"{logits[row, said[row]] - logits[row, instead[row]]:.3g}") if fine else None
        item["right"] = int(said[row]) == true if fine and true is not None else None
        items.append(item)
    return items


WIDTH = 50  # letters that fit above a row


def called(name: int | str) -> str:
    """A picture's name in a caption: a place in the data with a mark."""
    return f"#{name}" if isinstance(name, int) else name


def row(item: dict[str, Any]) -> Row:
    """The line above a picture's maps."""
    if item["predicted"] is None:
        return Row(f"{called(item['id'])}: not a number", None, item)
    rest = {True: "2nd", False: "truth", None: "2nd"}[item["right"]]
    head, middle = f"{called(item['id'])} says ", f" {percent(item['p_predicted'])}, {rest} "
    tail, margin = f" {percent(item['p_instead'])}", f", margin {number(item['margin'])}"
    names = [item["predicted"], item["instead"]]
    used = len(head) + len(middle) + len(tail)
    if used + len(margin) + sum(map(len, names)) > WIDTH:
        margin = ""
    room = max(WIDTH - used - len(margin), 12)
    first = max(room // 2, room - len(names[1]))
    said, other = cut(names[0], first), cut(names[1], max(room // 2, room - len(names[0])))
    return Row(f"{head}{said}{middle}{other}{tail}{margin}", item["right"], item)


def percent(share: float) -> str:
    """A probability for people.

    >>> percent(0.123), percent(0.001), percent(0.0)
    ('12%', '<1%', '<1%')
    """
    return f"{share:.0%}" if share >= 0.005 else "<1%"


def number(value: float) -> str:
    """Two digits, and no powers of ten where they can be avoided.

    >>> number(0.123), number(12.3), number(26000.0)
    ('0.12', '12', '26000')
    """
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"


def cut(name: str, width: int) -> str:
    """A name of at most `width` letters.

    >>> cut("African elephant", 9)
    'African…'
    """
    return name if len(name) <= width else name[: width - 1].rstrip() + "…"
