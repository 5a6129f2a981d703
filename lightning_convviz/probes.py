"""The fixed pictures that a run watches: where they come from, their labels, names and other inputs."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lightning_convviz._probing import (
    check_ids,
    check_images,
    check_numbers,
    checked_class_names,
    checked_labels,
    checked_masks,
    is_index,
    masks_of,
    one_line,
    unnamed,
)
from lightning_convviz.batches import as_batch, read
from lightning_convviz.isolation import same_randomness
from lightning_convviz.pixels import Denormalization, datasets, estimate, find_normalization, for_channels, normalized

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"})


@dataclass(frozen=True, eq=False)
class Probes:
    """A few fixed images, the same for the whole run.

    Attributes:
        images: (n, c, h, w), floating point: input of the model, normalized as it is trained.
        labels: the true classes, (n,) integers; None where they are not known.
        class_names: names by class, a list, an array of strings or a dictionary {class: name}, kept as a list with each
            name in one line; None shows numbers.
        mean: of the normalization that was applied to images in [0, 1]; only undoes it for display.
        std: likewise.
        ids: what the images are called: indices of a data set, names of files.
        extra_inputs: further inputs of the model from the same batch, by their name or their place in it.
        space: how images are displayed; made from mean and std, or found, or estimated.
        masks: where the object is, (n, h, w) booleans: heatmaps are then measured against it.
        boxes: instead of masks, a tensor (n, 4), or for each image a list (of none, too) of boxes (x0, y0, x1, y1) in
            pixels, x1 and y1 just outside. They become masks.

    Raises:
        TypeError: where images are not a floating-point tensor, masks no tensor, boxes no list; names, numbers or other
            inputs of a wrong type.
        ValueError: where shapes, lengths, labels, masks or boxes don't fit.

    Example:
        >>> Probes(torch.rand(2, 3, 8, 8), labels=[1, 0], class_names=["cat", "dog"]).name(1)
        'dog'
        >>> Probes(torch.rand(1, 3, 4, 4), boxes=[[(0, 0, 2, 1), (3, 3, 4, 4)]]).masks.sum()
        tensor(3)
    """

    images: Tensor
    labels: Tensor | Sequence[int] | None = None
    class_names: Sequence[str] | Mapping[Any, str] | np.ndarray[Any, np.dtype[Any]] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    ids: Sequence[int | str] | None = None
    extra_inputs: Mapping[str | int, Tensor] = field(default_factory=dict)
    space: Denormalization | None = None
    masks: Tensor | None = None
    boxes: InitVar[Tensor | Sequence[Any] | None] = None

    def __post_init__(self, boxes: Tensor | Sequence[Any] | None) -> None:
        check_images(self.images)
        n, c, h, w = self.images.shape
        if boxes is not None and self.masks is not None:
            raise ValueError("`boxes` become masks, and `masks` are given, too. Give one of them.")
        if self.masks is not None:
            checked_masks(self.masks, (n, h, w))
        if boxes is not None:
            object.__setattr__(self, "masks", masks_of(boxes, (n, h, w)))
        check_ids(self.ids, self.extra_inputs)
        names = checked_class_names(self.class_names)
        object.__setattr__(self, "class_names", names)
        if self.space is not None and not isinstance(self.space, Denormalization):
            raise TypeError(f"`space` is a {type(self.space).__name__}. Give a Denormalization, or `mean` and `std`.")
        if self.labels is not None:
            object.__setattr__(self, "labels", checked_labels(self.labels, n, names))
        if (self.mean is None) != (self.std is None):
            raise ValueError("`mean` and `std` undo a normalization together. Give both or neither.")
        if self.mean is not None and self.std is not None:
            check_numbers("mean", self.mean)
            check_numbers("std", self.std)
            if len(self.mean) not in (1, c):
                raise ValueError(f"`mean` has {len(self.mean)} numbers for {c} channels. Give one for each channel.")
            object.__setattr__(self, "space", normalized(self.mean, self.std))
        named = range(n) if self.ids is None else self.ids
        object.__setattr__(self, "ids", tuple(one_line(each) if isinstance(each, str) else each for each in named))
        lengths = {"ids": len(self.ids or ())} | {
            f"extra_inputs[{key!r}]": len(other) for key, other in self.extra_inputs.items()
        }
        for argument, length in lengths.items():
            if length != n:
                raise ValueError(f"`{argument}` has {length} items for {n} images. Give one for each.")

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        indices: Sequence[int] | Tensor,
        *,
        class_names: Sequence[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> "Probes":
        """The items of a data set at `indices`; class names and normalization are looked up in it, if not given.

        Raises:
            ValueError: for no or unknown indices, or items without an image tensor.
        """
        if not isinstance(indices, Sequence | Tensor) or not all(is_index(index) for index in indices):
            raise TypeError(f"`indices` is {indices!r}. Give a list of integers, which items of the data set to watch.")
        indices = [int(index) for index in indices]
        if not indices:
            raise ValueError("`indices` is empty. Give the indices of one or more items.")
        if bad := [index for index in indices if not 0 <= index < len(dataset)]:
            raise ValueError(f"`indices` holds {bad[0]}; the data set has items 0 to {len(dataset) - 1}.")
        with same_randomness():  # transforms of training data are often random
            items = [read(as_batch(dataset[index])) for index in indices]
        images = _stacked([item[0] for item in items], [f"item {index}" for index in indices])
        known = [item[1] for item in items if item[1] is not None]
        shared = set.intersection(*(set(item[2]) for item in items))
        return cls(
            images,
            torch.cat(known) if len(known) == len(images) else None,
            class_names if class_names is not None else find_class_names(dataset),
            mean,
            std,
            ids=tuple(indices),
            extra_inputs={key: torch.cat([item[2][key] for item in items]) for key in sorted(shared, key=str)},
            space=for_channels(find_normalization(dataset), images.shape[1]),
        )

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        transform: Callable[[Image.Image], Tensor] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> "Probes":
        """The pictures in a folder, by name. `transform` makes them model input; default: RGB in [0, 1].

        Raises:
            ValueError: where the folder has no pictures, one can't be read, or they differ in size.
        """
        if not Path(path).is_dir():
            raise ValueError(f"`path` is {str(path)!r}, and there is no such folder. Give one that holds pictures.")
        files = sorted(file for file in Path(path).glob("*") if file.suffix.lower() in SUFFIXES)
        if not files:
            raise ValueError(f"`path` is {str(path)!r}, where there are no pictures. Give a folder that holds some.")
        with same_randomness():
            images = _stacked([_load(file, transform or _to_tensor) for file in files], [file.name for file in files])
        return cls(images, mean=mean, std=std, ids=tuple(file.name for file in files))

    def __len__(self) -> int:
        return len(self.images)

    def select(self, rows: Sequence[int]) -> "Probes":
        """Some of the probes, in this order."""
        index = torch.as_tensor(rows, device=self.images.device)
        ids, labels = self.ids or (), self.labels
        return self._with(
            images=self.images[index],
            labels=None if labels is None else torch.as_tensor(labels)[index.cpu()],
            ids=tuple(ids[row] for row in rows),
            extra_inputs={key: other[index.to(other.device)] for key, other in self.extra_inputs.items()},
            masks=None if self.masks is None else self.masks[index.to(self.masks.device)],
        )

    def cpu(self) -> "Probes":
        """The same probes in main memory."""
        extra_inputs = {key: other.cpu() for key, other in self.extra_inputs.items()}
        masks = None if self.masks is None else self.masks.cpu()
        return self._with(images=self.images.cpu(), extra_inputs=extra_inputs, masks=masks)

    def to(self, images: Tensor) -> "Probes":
        """The same probes with their images as these are, on another device or of another type, and all else there."""
        extra_inputs = {key: other.to(images.device) for key, other in self.extra_inputs.items()}
        return self._with(images=images, extra_inputs=extra_inputs)

    def _with(self, **changes: Any) -> "Probes":
        """Some fields changed, without the checks of the constructor: what was checked stays right."""
        changed = object.__new__(Probes)
        changed.__dict__.update(self.__dict__ | changes)
        return changed

    def state_dict(self) -> dict[str, Any]:
        """The probes as tensors, strings and numbers, which a checkpoint can hold."""
        space = self.space
        return {
            "images": self.images.cpu(),
            "labels": None if self.labels is None else torch.as_tensor(self.labels).tolist(),
            "class_names": None if self.class_names is None else [str(name) for name in self.class_names],
            "ids": list(self.ids or ()),
            "extra_inputs": {key: given.cpu() for key, given in self.extra_inputs.items()},
            "space": None if space is None else [list(space.scale), list(space.offset)],
            "masks": None if self.masks is None else self.masks.cpu(),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "Probes":
        """The probes that `state_dict` made plain."""
        space = state["space"]
        return cls(
            state["images"],
            state["labels"],
            state["class_names"],
            ids=tuple(state["ids"]),
            extra_inputs=dict(state["extra_inputs"]),
            space=None if space is None else Denormalization(tuple(space[0]), tuple(space[1])),
            masks=state["masks"],
        )

    def name(self, label: int) -> str:
        """The name of a class."""
        names = self.class_names or ()
        return str(names[label]) if label < len(names) else unnamed(label)

    def display(self) -> Tensor:
        """The images for display: (n, 3, h, w) in [0, 1]."""
        return (self.space or estimate(self.images)).display(self.images)

    def arguments(self, forward: Callable[..., Any]) -> dict[str, Tensor]:
        """The other inputs that a forward takes after the images: by name, else in their order in the batch.

        Raises:
            ValueError: where one that it needs is missing.
        """
        try:
            parameters = list(inspect.signature(getattr(forward, "forward", forward)).parameters.values())[1:]
        except (ValueError, TypeError):  # something built in: it takes images alone, or fails
            return {}
        places = iter([other for key, other in self.extra_inputs.items() if isinstance(key, int)])
        found: dict[str, Tensor] = {}
        for parameter in parameters:
            if parameter.name in self.extra_inputs:
                found[parameter.name] = self.extra_inputs[parameter.name]
            elif parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
                other = next(places, None)
                if other is None:
                    raise ValueError(
                        f"the model's forward needs {parameter.name!r} beside the images. Give `forward=` a function "
                        "(model, images) -> logits that supplies it."
                    )
                found[parameter.name] = other
        return found


ProbesLike = Probes | Tensor | str | Path | tuple[Any, Any] | None


def as_probes(given: Any) -> Probes:
    """Probes from what a user may give: probes, images, (images, labels), (data set, indices), or a folder.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(given, Probes):
        return given
    if isinstance(given, Tensor):
        return Probes(given)
    if isinstance(given, str | Path):
        return Probes.from_folder(given)
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], Tensor):
        return Probes(*given)
    if isinstance(given, tuple) and len(given) == 2 and hasattr(given[0], "__getitem__") and not _is_plain(given[0]):
        return Probes.from_dataset(*given)
    raise TypeError(
        f"`probes` is a {type(given).__name__}. It can be Probes, a tensor of images, (images, labels), "
        "(data set, indices) or the path of a folder of pictures."
    )


def find_class_names(dataset: Any) -> Sequence[str] | None:
    """The `classes` of a data set, as torchvision's have them; looks through subsets and concatenations."""
    for part in datasets(dataset):
        names = getattr(part, "classes", None)
        if isinstance(names, list | tuple):
            names = [str(name) for name in names]
        with suppress(TypeError):  # it is something else that has this name
            if found := checked_class_names(names):
                return found
    return None


def _is_plain(given: Any) -> bool:
    """Whether this is a string or an array, which has items but is no data set."""
    return isinstance(given, str | np.ndarray)


def _stacked(images: Sequence[Tensor], names: Sequence[str]) -> Tensor:
    for image, name in zip(images, names, strict=True):
        if not isinstance(image, Tensor):
            raise TypeError(f"`probes`: {name} is a {type(image).__name__}. Give a transform that makes it a tensor.")
    images = [image[0] if image.ndim == 4 else image for image in images]
    for image, name in zip(images, names, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"`probes`: {name} has shape {tuple(image.shape)}, {names[0]} has {tuple(images[0].shape)}. Give a "
                "transform that makes all probes the same size."
            )
    return torch.stack(list(images))


def _load(file: Path, transform: Callable[[Image.Image], Tensor]) -> Tensor:
    try:
        with Image.open(file) as image:
            return transform(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"`path` holds {file.name!r}, which can't be read as a picture: {error}.") from error


def _to_tensor(image: Image.Image) -> Tensor:
    from torchvision.transforms.functional import to_tensor

    tensor: Tensor = to_tensor(image)
    return tensor
