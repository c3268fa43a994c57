"""How the tokens of one step are divided.

Decode rows come first, one token each: a step never makes a running stream wait. What is left goes to prompts:

- The first in order gets half of it, or more if the others leave some. So a long prompt always moves.
- The others share the other half, those with the fewest tokens left first. So a short prompt does not wait behind a
  long one, and equal prompts finish one after the other instead of all at the end, which is the better mean time to
  the first token.

New sequences are admitted while fewer than `MIN_PREFILLS` prompts are in hand, or while those behind the first cannot
use up a step's tokens by themselves; admitting more would only take slots and blocks early.
"""

MIN_PREFILLS = 4


def divide(remaining_tokens: list[int], budget_tokens: int) -> list[int]:
    """Chunk sizes (0: not in this step) for prompts that have `remaining_tokens` to compute, in their order."""
    chunks = [0] * len(remaining_tokens)
    if not remaining_tokens or budget_tokens <= 0:
        return chunks
    left = budget_tokens
    chunks[0] = min(remaining_tokens[0], (budget_tokens + 1) // 2)
    left -= chunks[0]
    for index in sorted(range(1, len(remaining_tokens)), key=lambda index: (remaining_tokens[index], index)):
        if not left:
            break
        chunks[index] = min(remaining_tokens[index], left)
        left -= chunks[index]
    chunks[0] += min(remaining_tokens[0] - chunks[0], left)
    return chunks


def wants_more(remaining_tokens: list[int], budget_tokens: int) -> bool:
    """Whether another prompt should be admitted beside those that have `remaining_tokens` to compute."""
    return len(remaining_tokens) < MIN_PREFILLS or sum(remaining_tokens[1:]) < budget_tokens
