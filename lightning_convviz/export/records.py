"""Read the records of an event file as far as they go, and say what could not be read.

TensorBoard's own reader ends in the same way at the end of a file, at a record that is still being written and at one
that is damaged, and it checks every byte in Python. This one tells these apart, skips what is damaged where it can,
and lets numpy do the checking.
"""

import os
import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import UInt32
    from numpy import ndarray

POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), bits reversed
CHUNK = 256  # bytes that are checked one after the other; all chunks of a record side by side
SHORT = 2_048  # bytes below which plain Python is as fast

Warn = Callable[[str], None]


def records(path: Path, *, warn: Warn, progress: Callable[[int], None] = lambda count: None) -> Iterator[bytes]:
    """The contents of each intact record, in order.

    A record is its length (8 bytes), a checksum of that, the contents, and a checksum of these. Contents that are
    damaged are skipped; where a length is damaged nothing after it can be found.

    Args:
        path: of the event file.
        warn: told in one line what could not be read.
        progress: told the bytes that were read since the last time.
    """
    try:
        with path.open("rb") as file:
            yield from _records(path, file, warn, progress)
    except OSError as error:
        warn(f"{str(path)!r} could not be read on: {error.strerror or error}.")


def _records(path: Path, file: Any, warn: Warn, progress: Callable[[int], None]) -> Iterator[bytes]:
    start, damaged = 0, []
    while head := file.read(12):
        if len(head) < 12 or not (sound := _checked(head[:8], head[8:])):
            sound = len(head) < 12
            break
        length = struct.unpack("<Q", head[:8])[0]
        if length + 4 > _size(file) - start - 12:  # before anything is read: a length may be any number
            break
        contents, checksum = file.read(length), file.read(4)
        if _checked(contents, checksum):
            yield contents
        else:
            damaged.append(start)
        start += length + 16
        progress(length + 16)
    if damaged:
        what = "a damaged record is" if len(damaged) == 1 else f"{len(damaged)} damaged records are"
        warn(f"{str(path)!r}: {what} left out, at byte {damaged[0]}{', ...' * (len(damaged) > 1)}.")
    if head:
        why = "ends within a record: it is still being written, or was cut off" if sound else "is damaged"
        warn(f"{str(path)!r} {why}. Read: the first {start} of {_size(file)} bytes.")
    elif not start:
        warn(f"{str(path)!r} is empty.")


def _size(file: Any) -> int:
    return os.fstat(file.fileno()).st_size


def _checked(data: bytes, checksum: bytes) -> bool:
    """Whether the checksum, rotated and shifted as the format asks for, is that of the data."""
    crc = crc32c(data)
    return len(checksum) == 4 and (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF) == int.from_bytes(
        checksum, "little"
    )


def crc32c(data: bytes) -> int:
    """The CRC-32C checksum of some bytes (RFC 3720, B.4).

    The checksum is linear over the bits: that of a long text is put together from those of its chunks.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    >>> crc32c(bytes(range(256)) * 40) == _plain(bytes(range(256)) * 40)
    True
    """
    return _plain(data) if len(data) < SHORT else _side_by_side(data)


def _plain(data: bytes) -> int:
    table, crc = _numbers(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _side_by_side(data: bytes) -> int:
    import numpy as np

    table = np.array(_numbers(), dtype=np.uint32)
    padding = -len(data) % CHUNK  # in front, where zeros count for nothing
    padded = np.zeros(padding + len(data), dtype=np.uint8)
    padded[padding:] = np.frombuffer(data, dtype=np.uint8)
    padded[padding : padding + 4] ^= 0xFF  # what the checksum begins with
    sums = np.zeros(len(padded) // CHUNK, dtype=np.uint32)
    for column in np.ascontiguousarray(padded.reshape(-1, CHUNK).T):
        sums = table[(sums ^ column) & 0xFF] ^ sums >> 8
    doublings = CHUNK.bit_length() - 1
    while len(sums) > 1:
        if len(sums) % 2:
            sums = np.concatenate([np.zeros(1, dtype=np.uint32), sums])
        sums = _moved(sums[::2], doublings) ^ sums[1::2]
        doublings += 1
    return int(sums[0]) ^ 0xFFFFFFFF


def _moved(sums: "UInt32[ndarray, ' n']", doublings: int) -> "UInt32[ndarray, ' n']":
    """What checksums become after `2 ** doublings` more zero bytes."""
    import numpy as np

    result = np.zeros_like(sums)
    for bit, image in enumerate(_zeros(doublings)):
        result ^= np.where(sums >> np.uint32(bit) & np.uint32(1), np.uint32(image), np.uint32(0))
    return result


@cache
def _zeros(doublings: int) -> tuple[int, ...]:
    """What each of 32 bits becomes after `2 ** doublings` zero bytes."""
    if not doublings:
        table = _numbers()
        return tuple(table[1 << bit & 0xFF] ^ (1 << bit) >> 8 for bit in range(32))
    half = _zeros(doublings - 1)
    images = []
    for image in half:
        moved = 0
        for bit in range(32):
            moved ^= half[bit] if image >> bit & 1 else 0
        images.append(moved)
    return tuple(images)


@cache
def _numbers() -> tuple[int, ...]:
    """The checksum of each byte."""
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return tuple(table)
