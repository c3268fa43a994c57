"""What the tokens of a step cost a device, beside each other."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ContextCost:
    """What reading their contexts costs tokens, in units of what the rest of a token costs (its share of the products).

    `kinds`: layers that are alike, as (cost, window). A token that sees n tokens, itself among them, costs `cost` *
    min(n, window) more for each of them; a window of None is without end. Without kinds, contexts cost nothing.

    `least_tokens`: a row's context is read from memory once for all its tokens, and in that time so many tokens could
    be computed with it. A row of fewer costs for its context what one of so many would. At least 1.
    """

    kinds: tuple[tuple[float, int | None], ...] = ()
    least_tokens: float = 1.0
