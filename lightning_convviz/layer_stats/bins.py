"""Counts of values in bins of constant relative width, and percentiles out of them; they add up over batches and ranks.

Bin 0 has what is not above zero. From 2⁻²⁴ to 2²⁴ each octave is cut into 16 bins of equal width: those are the
leading bits of a float32, exponent and four bits of the mantissa, so that finding a bin takes a shift and no logarithm.
A bin is 1/16 to 1/31 of its values wide. The first takes what is smaller too; the last, what is larger, infinite or not
a number.

Counts are integers: they don't depend on the order, so that atomic additions on a GPU are deterministic too.
`index_add_` is what counts: `bincount` waits for the device; `histc` has no deterministic variant on CUDA, and raises
under `torch.use_deterministic_algorithms(True)`; sorting takes some ten times as long on a CPU.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

OCTAVE = 16  # bins
LEAST, MOST = -24, 24  # octaves
BINS = 2 + (MOST - LEAST) * OCTAVE
_SHIFT = 23 - 4  # of float32's 23 bits of mantissa the first four stay
_FIRST = ((127 + LEAST) << 23 >> _SHIFT) - 1  # what to take off, so that 2⁻²⁴ comes into bin 1


def counts(values: Float[Tensor, "*_"]) -> Int[Tensor, " bins"]:
    """How many of the values are in each bin; int32, nothing waits for the device.

    >>> found = counts(torch.tensor([-3.0, 0.0, 1.0, 1.01, 1e30]))
    >>> found.nonzero()[:, 0].tolist(), found[found > 0].tolist()
    ([0, 385, 769], [2, 2, 1])
    """
    found = values.abs().float().view(torch.int32)  # new memory, for what follows is done in place
    found.bitwise_right_shift_(_SHIFT).sub_(_FIRST).clamp_(1, BINS - 1)
    found.masked_fill_(values <= 0, 0)  # of the values: a small float64 may be 0 as a float32
    one = torch.ones((), dtype=torch.int32, device=values.device)
    return torch.zeros(BINS, dtype=torch.int32, device=values.device).index_add_(
        0, found.flatten(), one.expand(found.numel())
    )


def edge(index: int) -> float:
    """Where a bin begins, in the values' unit; it ends where the next one begins.

    >>> edge(1) == 2**-24, edge(385), edge(386), edge(769) == 2**24
    (True, 1.0, 1.0625, True)
    """
    octave, part = divmod(index - 1, OCTAVE)
    return float(2.0 ** (LEAST + octave) * (1 + part / OCTAVE))


def percentile(found: Int[Tensor, " bins"], share: float, most: float) -> float:
    """The smallest value that at least a `share` of all values don't exceed, within a bin.

    Args:
        found: counts, in main memory.
        share: in (0, 1].
        most: the largest value: nothing is above, and it stands for the last bin, that has no end.

    Returns:
        0.0 where it is in bin 0, for what is below zero is not told apart.

    Example:
        >>> percentile(counts(torch.arange(1.0, 101.0)), 0.5, most=100.0)
        51.0
    """
    up_to = found.double().cumsum(0)
    rank = share * float(up_to[-1])
    index = min(int(torch.searchsorted(up_to, rank - 1e-9 * rank)), BINS - 1)  # 0.995 · 200 is a bit above 199
    if index in {0, BINS - 1}:
        return most if index else 0.0
    within = (rank - float(up_to[index] - found[index])) / float(found[index])
    low = edge(index) if index > 1 else 0.0
    value = low + within * (edge(index + 1) - low)
    return most if value > most else value
