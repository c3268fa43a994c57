"""Bytes and seconds, written and read the way people write them."""

import re

_SCALES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """`"512"`, `"4GB"`, `"1.5GiB"`, `"300M"` -> bytes. Raises ValueError on anything else."""
    match = _BYTES.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an amount of bytes; write for instance 4GiB, 500MB or 1000000")
    return int(float(match.group(1)) * _SCALES[(match.group(2) or "").lower()])


def format_bytes(amount_bytes: float) -> str:
    """Bytes -> `"1.50 GiB"`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount_bytes) < 1024:
            return f"{amount_bytes:.0f} B" if unit == "B" else f"{amount_bytes:.2f} {unit}"
        amount_bytes /= 1024
    return f"{amount_bytes:.2f} TiB"


def format_seconds(seconds: float) -> str:
    """Seconds -> `"12 us"`, `"3.4 ms"`, `"1.20 s"`."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.2f} s"
