"""Images with what the network predicted for them and the heatmaps that explain it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_convviz.cams import ForwardResult
from lightning_convviz.mistakes import MistakeBatch
from lightning_convviz.probes import Probes


@dataclass(frozen=True)
class Prediction:
    """What the network predicts for an image: classes by name, probabilities in [0, 1].

    What is not known, or of a network that has diverged no number, is None.

    Attributes:
        id: of the image.
        true: its class.
        predicted: the class with the highest logit.
        p_predicted: its probability.
        instead: the true class in a mistake; where the network is right or nobody knows, the second best.
        p_instead: its probability.
        p_true: the probability of the true class.
        margin: the logit of `predicted` minus that of `instead`, three digits.
        right: whether `predicted` is the true class.
    """

    id: int | str
    true: str | None
    predicted: str | None = None
    p_predicted: float | None = None
    instead: str | None = None
    p_instead: float | None = None
    p_true: float | None = None
    margin: float | None = None
    right: bool | None = None

    def facts(self) -> dict[str, Any]:
        """What travels with a picture's file."""
        return asdict(self)


@dataclass(frozen=True)
class ExplainedImages:
    """Images, the logits for them and their maps, in the order of the explanations that were asked for.

    Attributes:
        probes: the images with their labels, names and ids.
        result: logits and maps.
        confidence: of mistakes, the probability of the wrong class in the validation's own forward.
        has_classes: whether the logits are those of classes; they may be scores of another kind.

    Example:
        >>> result = ForwardResult(torch.tensor([[2.0, 0.0]]), {}, [torch.ones(1, 2, 2)], [torch.tensor(True)])
        >>> seen = ExplainedImages(Probes(torch.rand(1, 3, 8, 8), [1], ["cat", "dog"]), result)
        >>> seen.predictions[0].predicted, seen.predictions[0].instead, seen.predictions[0].p_true
        ('cat', 'dog', 0.1192)
    """

    probes: Probes
    result: ForwardResult
    confidence: Float[Tensor, " n"] | None = None
    has_classes: bool = True

    def __len__(self) -> int:
        return len(self.probes)

    @property
    def ids(self) -> list[int | str]:
        """What the images are called."""
        return list(self.probes.ids or ())

    @cached_property
    def predictions(self) -> list[Prediction]:
        """One for each image; none where the logits are not those of classes. Waits for the device, once."""
        logits = self.result.logits
        return _predictions(self.probes, logits) if self.has_classes and logits is not None and logits.ndim == 2 else []

    def cpu(self) -> "ExplainedImages":
        """The same in main memory, without outputs of layers: to be kept, or sent to another rank."""
        result = ForwardResult(
            None if self.result.logits is None else self.result.logits.cpu(),
            {},
            [maps.cpu() for maps in self.result.maps],
            [uniform.cpu() for uniform in self.result.uniform_gradient],
        )
        confidence = None if self.confidence is None else self.confidence.cpu()
        return replace(self, probes=self.probes.cpu(), result=result, confidence=confidence)

    def select(self, rows: Sequence[int]) -> "ExplainedImages":
        """Some of the images, in this order."""
        index = torch.as_tensor(list(rows), dtype=torch.long)
        result = replace(
            self.result,
            logits=None if self.result.logits is None else self.result.logits[index],
            maps=[maps[index] for maps in self.result.maps],
        )
        confidence = None if self.confidence is None else self.confidence[index]
        return replace(self, probes=self.probes.select(rows), result=result, confidence=confidence)

    def fits(self, other: "ExplainedImages") -> bool:
        """Whether the images of both can stand in one batch."""
        one, two = self.probes, other.probes
        return one.images.shape[1:] == two.images.shape[1:] and one.extra_inputs.keys() == two.extra_inputs.keys()

    @staticmethod
    def concatenate(parts: Sequence["ExplainedImages"]) -> "ExplainedImages":
        """Images that fit together, one part after the other."""
        if len(parts) == 1:
            return parts[0]
        logits = [part.result.logits for part in parts if part.result.logits is not None]
        confidence = [part.confidence for part in parts if part.confidence is not None]
        result = ForwardResult(
            torch.cat(logits) if logits else None,
            {},
            [torch.cat(maps) for maps in zip(*(part.result.maps for part in parts), strict=True)],
            parts[0].result.uniform_gradient,
        )
        return ExplainedImages(
            _concatenate_probes([part.probes for part in parts]),
            result,
            torch.cat(confidence) if len(confidence) == len(parts) else None,
            parts[0].has_classes,
        )

    @staticmethod
    def merge(parts: Sequence["ExplainedImages | None"], count: int) -> "ExplainedImages | None":
        """The `count` most confident mistakes of all ranks, worst first; None where no rank has any.

        Images of another shape than those of the first rank with mistakes are left out.
        """
        found = [part for part in parts if part is not None]
        if not found:
            return None
        joined = ExplainedImages.concatenate([part for part in found if part.fits(found[0])])
        assert joined.confidence is not None  # mistakes have one
        worst = joined.confidence.sort(descending=True, stable=True).indices[:count]
        return joined.select(worst.tolist())


def probes_of_mistakes(mistakes: MistakeBatch, like: Probes) -> Probes:
    """Mistakes as probes, called by their position in the data, with class names and display as other probes have.

    Classes that have no name get their number for one.
    """
    named = 0 if like.class_names is None else len(like.class_names)
    labels = range(max(named, int(mistakes.labels.max()) + 1))
    return Probes(
        mistakes.images,
        mistakes.labels,
        [like.name(label) for label in labels] if named else None,
        ids=tuple(mistakes.positions.tolist()),
        extra_inputs=mistakes.extra_inputs,
        space=like.space,
    )


def _concatenate_probes(parts: Sequence[Probes]) -> Probes:
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


def _predictions(probes: Probes, logits: Float[Tensor, "n k"]) -> list[Prediction]:
    logits = logits.detach().cpu().double()
    shares, ranking = logits.softmax(1), logits.argsort(dim=1, descending=True, stable=True)
    predicted, runner_up = ranking[:, 0], ranking[:, min(1, logits.shape[1] - 1)]
    labels = None if probes.labels is None else torch.as_tensor(probes.labels).to(predicted)
    instead = runner_up if labels is None else torch.where(predicted == labels, runner_up, labels)
    is_finite = logits.isfinite().all(1).tolist()
    known = [] if labels is None else labels.tolist()
    names = {each: probes.name(each) for each in {*predicted.tolist(), *instead.tolist(), *known}}
    found = []
    for row, name in enumerate(probes.ids or ()):
        true = None if labels is None else int(labels[row])
        true_name = None if true is None else names[true]
        if not is_finite[row]:
            found.append(Prediction(name, true_name))
            continue
        best, other = int(predicted[row]), int(instead[row])
        prediction = Prediction(
            id=name,
            true=true_name,
            predicted=names[best],
            p_predicted=_four_digits(shares[row, best]),
            instead=names[other],
            p_instead=_four_digits(shares[row, other]),
            p_true=None if true is None else _four_digits(shares[row, true]),
            margin=float(f"{logits[row, best] - logits[row, other]:.3g}"),
            right=None if true is None else best == true,
        )
        found.append(prediction)
    return found


def _four_digits(share: Float[Tensor, ""]) -> float:
    return round(float(share), 4)
