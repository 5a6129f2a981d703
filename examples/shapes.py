"""A small procedural picture set in which every class pair hangs on one visual cue.

Ten classes in five pairs: outline (triangle / star), texture (striped / checked disk), color (red / blue cross),
orientation (a bar leaning left / right) and count (two / three dots). Colors, places, sizes, clutter and lighting are
random, so only the cue named by the pair tells its two classes apart. All pictures are drawn in memory in a few
seconds; nothing is downloaded.

    train = Shapes(8000, seed=0)
    image, label = train[0]  # float image (3, 48, 48) in [0, 1], int
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

Array = npt.NDArray[Any]  # float32 unless a docstring says otherwise

CLASSES = (
    "triangle",
    "star",
    "striped disk",
    "checked disk",
    "red cross",
    "blue cross",
    "leans left",
    "leans right",
    "two dots",
    "three dots",
)
TRIANGLE, STAR, STRIPED, CHECKED, RED, BLUE, LEFT, RIGHT, TWO, THREE = range(len(CLASSES))

SHORTCUT_CLASS = STAR
"""The class that carries the planted mark when a set is made with ``shortcut=True``."""

MARK_SIZE = 5
_MAGENTA, _LIME = (255, 0, 200), (150, 255, 0)
_CHUNK = 128  # pictures drawn at a time: few enough for the work arrays to stay in the processor's cache


class Shapes(Dataset[tuple[Tensor, int]]):
    """Pictures of simple shapes on cluttered backgrounds, with the mask of the object in each.

    Attributes:
        images: The pictures, uint8 ``(count, 3, size, size)``.
        labels: Class of each picture, int64 ``(count,)``; classes are balanced to within one, in shuffled order.
        masks: True on the object, bool ``(count, size, size)``.
        marks: True on the planted mark, bool ``(count, size, size)``; all False unless ``shortcut`` is set.
        classes: Names of the classes, in the order of the labels.
        transform: What is applied to the float picture, or None.
    """

    def __init__(
        self,
        count: int,
        *,
        seed: int = 0,
        size: int = 48,
        shortcut: bool = False,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Draw the whole set.

        Args:
            count: Number of pictures, at least 1.
            seed: Equal seeds give equal sets; torch's and NumPy's global generators are left alone.
            size: Height and width in pixels, 32 to 64.
            shortcut: Plant a small mark on every picture of ``SHORTCUT_CLASS``.
            transform: Applied by indexing to the float picture in [0, 1], for instance a ``Normalize``.
        """
        if count < 1 or not 32 <= size <= 64:
            raise ValueError(f"count must be at least 1 and size 32 to 64, got {count} and {size}")
        rng = np.random.default_rng(seed)
        labels = rng.permutation(np.arange(count, dtype=np.int64) % len(CLASSES))
        chunks = [_draw(labels[start : start + _CHUNK], size, rng) for start in range(0, count, _CHUNK)]
        self.images = torch.from_numpy(np.concatenate([images for images, _ in chunks]))
        self.masks = torch.from_numpy(np.concatenate([masks for _, masks in chunks]))
        self.labels = torch.from_numpy(labels)
        self.marks = torch.zeros_like(self.masks)
        self.classes = list(CLASSES)
        self.transform = transform
        if shortcut:
            marked = self.labels == SHORTCUT_CLASS
            self.images[marked], self.marks[marked] = plant(self.images[marked], rng, self.masks[marked])

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Give one picture as floats in [0, 1], passed through ``transform`` if there is one, and its label."""
        image = self.images[index].float() / 255
        return (image if self.transform is None else self.transform(image)), int(self.labels[index])

    def planted(self, seed: int = 0, *, every: int = 1) -> Shapes:
        """Give the same set with the mark on every picture, whatever its class: does a net fall for it?

        Args:
            seed: Of the random places.
            every: Mark only one in so many, those at its multiples.
        """
        twin = copy.copy(self)
        twin.images, twin.marks = self.images.clone(), self.marks.clone()
        images, marks = plant(self.images[::every], np.random.default_rng(seed), self.masks[::every])
        twin.images[::every], twin.marks[::every] = images, marks
        return twin


def plant(images: Tensor, generator: np.random.Generator, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Put the shortcut's mark on every picture, at a random place along the border.

    Args:
        images: uint8 ``(count, 3, height, width)``; left as they are.
        generator: Source of the random places.
        masks: Pixels the mark must keep off, bool ``(count, height, width)``, such as ``Shapes.masks``; with None the
            mark may cover the object.

    Returns:
        The marked pictures, and where the mark is: bool ``(count, height, width)``.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"plant expects uint8 pictures, got {images.dtype}")
    count, _, height, width = images.shape
    tops, lefts = _border_places(height, width)
    free = np.ones((count, len(tops)), dtype=bool)
    if masks is not None:
        windows = np.lib.stride_tricks.sliding_window_view(masks.cpu().numpy(), (MARK_SIZE, MARK_SIZE), axis=(1, 2))
        free &= ~windows[:, tops, lefts].any(axis=(2, 3))
    if not free.any(axis=1).all():
        raise ValueError("no room for the mark along the border of some picture")
    picks = np.where(free, generator.random(free.shape), -1).argmax(axis=1)
    offsets = np.arange(MARK_SIZE)
    rows = torch.from_numpy(tops[picks][:, None] + offsets)[:, :, None]
    columns = torch.from_numpy(lefts[picks][:, None] + offsets)[:, None, :]
    which = torch.arange(count)[:, None, None]
    marked, marks = images.clone(), torch.zeros((count, height, width), dtype=torch.bool)
    marked[which, :, rows, columns] = _mark().to(images.device)
    marks[which, rows, columns] = True
    return marked, marks


def _mark() -> Tensor:
    """The mark itself, a tiny checkerboard: uint8 ``(MARK_SIZE, MARK_SIZE, 3)``."""
    line = torch.arange(MARK_SIZE)
    odd = (line[:, None] + line) % 2 == 1
    return torch.where(odd[..., None], torch.tensor(_LIME), torch.tensor(_MAGENTA)).to(torch.uint8)


def _border_places(height: int, width: int) -> tuple[Array, Array]:
    """Top-left corners at which the mark lies one or two pixels inside the border."""
    tops, lefts = np.mgrid[1 : height - MARK_SIZE, 1 : width - MARK_SIZE].reshape(2, -1)
    gaps = np.minimum.reduce([tops, lefts, height - MARK_SIZE - tops, width - MARK_SIZE - lefts])
    return tops[gaps <= 2], lefts[gaps <= 2]


# --- drawing; throughout, n pictures of s x s pixels are handled at once ---


def _draw(labels: Array, size: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw one picture per label: uint8 ``(n, 3, s, s)``, and the masks, bool ``(n, s, s)``."""
    picture = _background(len(labels), size, rng)
    for _ in range(4):
        _add_stroke(picture, rng)
    x, y, radius = _object_coordinates(labels, size, rng)
    distance = np.empty_like(x)
    tone = np.ones_like(x)
    for label in np.unique(labels):
        rows = labels == label
        distance[rows] = _outline(label, x[rows], y[rows], rng)
        if label in (STRIPED, CHECKED):
            tone[rows] = _texture(label, x[rows], y[rows], radius[rows], rng)
    cover = np.clip(0.5 - distance * radius, 0, 1)  # half a pixel of soft edge on either side of the outline
    _paint(picture, labels, cover, tone, rng)
    _add_stroke(picture, rng)  # one stroke may run over the object
    return _expose(picture, rng), cover > 0.5


def _uniform(rng: np.random.Generator, low: float, high: float, *shape: int) -> Array:
    """Uniform float32 numbers in [low, high)."""
    numbers: Array = low + (high - low) * rng.random(shape, dtype=np.float32)
    return numbers


def _rgb(hue: Array, saturation: Array, value: Array) -> Array:
    """HSV to RGB, all in [0, 1]; the three colors go on a new last axis."""
    k = (np.array([5, 3, 1], dtype=np.float32) + 6 * hue[..., None]) % 6
    colors: Array = value[..., None] * (1 - saturation[..., None] * np.clip(np.minimum(k, 4 - k), 0, 1))
    return colors


def _smooth(rng: np.random.Generator, cells: int, size: int, *shape: int) -> Array:
    """Smooth noise in [0, 1), ``(*shape, s, s)``: a coarse random grid of ``cells`` squared, bilinearly enlarged."""
    places = np.linspace(0, cells - 1, size, dtype=np.float32)
    weights = np.clip(1 - abs(places[:, None] - np.arange(cells, dtype=np.float32)), 0, 1)
    noise: Array = weights @ rng.random((*shape, cells, cells), dtype=np.float32) @ weights.T
    return noise


def _background(n: int, size: int, rng: np.random.Generator) -> Array:
    """Muted color gradients with grainy texture, roughly in [0, 1]: ``(n, 3, s, s)``.

    It is drawn without knowing the class, so that nothing about it can give the class away.
    """
    base = _rgb(_uniform(rng, 0, 1, n), _uniform(rng, 0, 0.6, n), _uniform(rng, 0.2, 0.85, n))
    gradient = _smooth(rng, 3, size, n, 3) - 0.5
    lumps = _smooth(rng, size // 4, size, n, 1) - 0.5
    grain = rng.random((n, 1, size, size), dtype=np.float32) - 0.5
    strengths = _uniform(rng, 0, 1, 3, n, 1, 1, 1) * np.array([0.7, 0.5, 0.25], np.float32).reshape(3, 1, 1, 1, 1)
    picture: Array = base[..., None, None] + strengths[0] * gradient + strengths[1] * lumps + strengths[2] * grain
    return picture


def _add_stroke(picture: Array, rng: np.random.Generator) -> None:
    """Draw a thin straight stroke of random color, length and direction on each picture, in place."""
    n, _, size, _ = picture.shape
    line = np.arange(size, dtype=np.float32)
    start_x, start_y, end_x, end_y = _uniform(rng, 0, size, 4, n, 1, 1)
    dx, dy = end_x - start_x, end_y - start_y
    x, y = line - start_x, line[:, None] - start_y
    along = np.clip((x * dx + y * dy) / (dx**2 + dy**2 + 1e-3), 0, 1)
    distance = np.hypot(x - along * dx, y - along * dy)
    opacity = np.clip(_uniform(rng, 0.5, 1.3, n, 1, 1) + 0.5 - distance, 0, 1) * _uniform(rng, 0.3, 0.9, n, 1, 1)
    color = _rgb(_uniform(rng, 0, 1, n), _uniform(rng, 0.2, 1, n), _uniform(rng, 0.1, 1, n))
    picture += opacity[:, None] * (color[..., None, None] - picture)


def _object_coordinates(labels: Array, size: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Pixel positions as the object sees them: shifted to its center, turned upright, in units of its radius.

    Returns:
        x to the right and y upward, each ``(n, s, s)``, and the radius in pixels, ``(n, 1, 1)``.
    """
    n = len(labels)
    radius = _uniform(rng, 0.19, 0.31, n, 1, 1) * size
    room = 0.5 * size - radius - 1
    center_x, center_y = 0.5 * (size - 1) + _uniform(rng, -1, 1, 2, n, 1, 1) * room
    angle = _uniform(rng, -0.35, 0.35, n)
    lean = _uniform(rng, 0.3, 0.9, n)  # radians away from upright
    angle = np.where(labels == LEFT, lean, np.where(labels == RIGHT, -lean, angle))
    free = np.isin(labels, (STRIPED, CHECKED, TWO, THREE))
    angle = np.where(free, _uniform(rng, -math.pi, math.pi, n), angle).astype(np.float32)[:, None, None]
    line = np.arange(size, dtype=np.float32)
    right, up = (line - center_x) / radius, (center_y - line[:, None]) / radius
    cos, sin = np.cos(angle), np.sin(angle)
    return right * cos + up * sin, up * cos - right * sin, radius


def _outline(label: int, x: Array, y: Array, rng: np.random.Generator) -> Array:
    """Distance to the outline of a class, negative inside, in units of the radius: ``(n, s, s)``."""
    wide, high = abs(x), abs(y)
    distance: Array = np.hypot(x, y) - 0.95
    if label == TRIANGLE:
        distance = np.maximum(-y, 0.866 * wide + 0.5 * y) - 0.5
    elif label == STAR:
        distance = _star(x, y)
    elif label in (RED, BLUE):
        distance = np.minimum(np.maximum(wide - 0.95, high - 0.3), np.maximum(wide - 0.3, high - 0.95))
    elif label in (LEFT, RIGHT):
        distance = np.maximum(wide - 0.25, high - 1)
    elif label in (TWO, THREE):
        distance = _dots(x, y, 2 if label == TWO else 3, rng)
    return distance


def _star(x: Array, y: Array) -> Array:
    """A five-pointed star: all its ten edges are one line, once the plane is folded into half a point."""
    turn = 2 * math.pi / 5
    reach = np.hypot(x, y)
    fold = abs((np.arctan2(x, y) + turn / 2) % turn - turn / 2)
    # Each edge runs from a tip at distance 1 to a notch at distance 0.45, half a turn further.
    notch_across, notch_along = 0.45 * math.sin(turn / 2), 0.45 * math.cos(turn / 2)
    across, along = reach * np.sin(fold), reach * np.cos(fold)
    distance: Array = (along - 1) * notch_across + across * (1 - notch_along)
    return distance / math.hypot(notch_across, 1 - notch_along)


def _dots(x: Array, y: Array, count: int, rng: np.random.Generator) -> Array:
    """Dots at some corners of an irregular triangle: two of them leave a gap where the third would be."""
    n = len(x)
    dot = _uniform(rng, 0.26, 0.38, n, 1, 1)
    distance = np.full_like(x, np.inf)
    for corner in range(count):
        angle = 2 * math.pi / 3 * corner + _uniform(rng, -0.25, 0.25, n, 1, 1)
        distance = np.minimum(distance, np.hypot(x - 0.62 * np.cos(angle), y - 0.62 * np.sin(angle)))
    return distance - dot


def _texture(label: int, x: Array, y: Array, radius: Array, rng: np.random.Generator) -> Array:
    """Stripes or checks with soft edges, 0 to 1: ``(n, s, s)``; their period does not depend on the radius."""
    n = len(x)
    period = _uniform(rng, 5.5, 8, n, 1, 1) / radius
    phase_x, phase_y = _uniform(rng, 0, 2 * math.pi, 2, n, 1, 1)
    wave = np.sin(2 * math.pi / period * x + phase_x)
    if label == CHECKED:
        wave = wave * np.sin(2 * math.pi / period * y + phase_y)
    tone: Array = np.clip(0.5 + 2 * wave, 0, 1)
    return tone


def _paint(picture: Array, labels: Array, cover: Array, tone: Array, rng: np.random.Generator) -> None:
    """Lay the object over each picture, in place, in a color that stands out from what is behind it."""
    n, _, size, _ = picture.shape
    hue = _uniform(rng, 0, 1, n, 4)
    hue = np.where((labels == RED)[:, None], 0.06 * hue - 0.03, hue)
    hue = np.where((labels == BLUE)[:, None], 0.08 * hue + 0.58, hue)
    vivid = np.isin(labels, (RED, BLUE))[:, None]
    saturation = np.where(vivid, _uniform(rng, 0.7, 1, n, 4), _uniform(rng, 0.3, 1, n, 4))
    colors = _rgb(hue.astype(np.float32), saturation, _uniform(rng, 0.5, 1, n, 4))
    behind = (picture * cover[:, None]).sum(axis=(2, 3)) / cover.sum(axis=(1, 2))[:, None]
    best = np.linalg.norm(colors - behind[:, None], axis=2).argmax(axis=1)
    first = colors[np.arange(n), best]
    # The other color of a texture is the first one mixed with black or white, whichever is further from it.
    second = 0.3 * first + 0.7 * (first.mean(axis=1, keepdims=True) < 0.5)
    first, second = first[..., None, None], second[..., None, None]
    shade = 1 + 0.4 * (_smooth(rng, 2, size, n, 1) - 0.5)
    picture += cover[:, None] * ((second + tone[:, None] * (first - second)) * shade - picture)


def _expose(picture: Array, rng: np.random.Generator) -> Array:
    """Vary contrast, brightness and sensor noise from picture to picture and round: uint8 ``(n, 3, s, s)``."""
    n, _, size, _ = picture.shape
    noise = _uniform(rng, -1, 1, n, 1, size, size) * _uniform(rng, 0, 0.1, n, 1, 1, 1)
    contrast, brightness = _uniform(rng, 0.6, 1.05, n, 1, 1, 1), _uniform(rng, -0.12, 0.12, n, 1, 1, 1)
    lit = 0.5 + brightness + contrast * (picture - 0.5) + noise
    exposed: Array = (np.clip(lit, 0, 1) * 255 + 0.5).astype(np.uint8)
    return exposed
