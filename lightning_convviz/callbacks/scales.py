"""The ends of color scales, kept from drawing to drawing: only under one scale can epochs be compared."""


def hold(scales: dict[str, float], name: str, high: float) -> float:
    """The end of a scale, which stays as it is until the values' own, `high`, leaves it by a factor of two.

    >>> scales = {}
    >>> [hold(scales, "layer1", high) for high in (1.0, 1.9, 0.6, 2.1, 1.5, 0.0)]
    [1.0, 1.0, 1.0, 2.1, 2.1, 2.1]
    """
    kept = scales.get(name)
    if high > 0 and (kept is None or not kept / 2 <= high <= kept * 2):
        scales[name] = float(f"{high:.2g}")
    return scales.get(name, 1.0)
