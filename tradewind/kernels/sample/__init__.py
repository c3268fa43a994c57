"""sample: from a row's logits to its next token.

The steps, each of which touches only the rows that ask for it:
1. `mask_logits` (an op of its own) and `adjust` (adjust.py): a grammar's mask, allowed tokens, biases,
   penalties, on the raw logits;
2. `sample` (below): temperature, min_p, top_k, top_p, then one draw per row;
3. `top_logprobs` (logprobs.py): log probabilities and ranks, of the raw logits.

Legend: R rows, V vocabulary, C chunks of a row, E sparse entries, P rows with penalties, L history, N rows that ask for
logprobs. What a row gets depends on that row alone: every sum runs over one row in a fixed order, and no shortcut is
taken because of what another row needs.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from tradewind.kernels.choice import Candidate, Choice, Device, pick

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Below this, a temperature means greedy: dividing by less could overflow.
LEAST_TEMPERATURE = 1e-5


@dataclass(frozen=True, slots=True)
class SampleRows:
    """How the rows of one step are sampled, in host columns: the host knows them all, and decides what to skip.

    temperature_R: float64, 0 for greedy, else at least LEAST_TEMPERATURE. top_k_R: int64, 0 for no limit.
    top_p_R: float64 in (0, 1]. min_p_R: float64 in [0, 1]. uniforms_R: float64 in [0, 1), see random.py.
    """

    temperature_R: "NDArray[np.float64]"
    top_k_R: "NDArray[np.int64]"
    top_p_R: "NDArray[np.float64]"
    min_p_R: "NDArray[np.float64]"
    uniforms_R: "NDArray[np.float64]"

    def take(self, chosen: "NDArray[np.int64]") -> "SampleRows":
        """The rows with these indices."""
        return SampleRows(
            self.temperature_R[chosen],
            self.top_k_R[chosen],
            self.top_p_R[chosen],
            self.min_p_R[chosen],
            self.uniforms_R[chosen],
        )


class Sample(Protocol):
    """`sample(logits_RV, rows) -> tokens_R`: int64 ids, or -1 for a row that has nothing to choose.

    logits_RV: float32, contiguous; it may be overwritten. A row's answer is -1 if its largest logit is not a finite
    number: there is a NaN or +inf among them, or they are all -inf.

    A greedy row takes its largest logit, the first of equal ones. For the others p = softmax(logits / temperature), and
    each filter drops tokens by their probability, so that tokens of equal probability stay or go together:
    - min_p keeps p >= min_p * max(p);
    - top_k keeps p >= the k-th largest p;
    - top_p keeps p >= q, where the tokens above or at q are the fewest, in descending order, whose share of what min_p
      and top_k left is at least top_p. The largest is always kept.
    The token is then the first one, in vocabulary order, at which the running sum of what is kept exceeds
    uniform * (sum of what is kept): the inverse of the cumulative distribution.

    Implementations may differ where rounding decides: which of two tokens of nearly the same probability is the last
    to be kept, or at which of two neighbours a running sum of float32 probabilities exceeds its share. Each gives a
    row the same token whatever the other rows are and on any number of threads; the C++ one also keeps or drops equal
    logits together, and the k largest of them to the bit, at every temperature.
    """

    def __call__(self, logits_RV: Tensor, rows: SampleRows) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class DrawColumns:
    """The same for a device that does not ask the host: tensors there, contiguous. Rows past count_1 are not drawn.

    count_1, turn_1, slots_N, positions_N, top_k_N: int32. temperature_N, top_p_N, min_p_N: float32. uniforms_N:
    float64. `slots_N` and `positions_N` say where each token goes, `turn_1` which of the host's rows is told of them.
    """

    count_1: Tensor
    turn_1: Tensor
    slots_N: Tensor
    positions_N: Tensor
    temperature_N: Tensor
    top_k_N: Tensor
    top_p_N: Tensor
    min_p_N: Tensor
    uniforms_N: Tensor


class Draw(Protocol):
    """`draw(logits_NV, columns, tokens_SP, drawn_N, told_UN)`: as `Sample` answers, into drawn_N (int64), without the
    host.

    logits_NV: float32, contiguous, left as it is. The token is also stored, as int32, at columns.positions_N of row
    columns.slots_N of tokens_SP (0 for a row that has failed), where the next step reads it. Nothing depends on the
    host, so it may be part of a CUDA graph. told_UN: int64, pinned memory of the host's, whose row columns.turn_1 gets
    what drawn_N gets; the host may read it once the device has got that far.
    """

    def __call__(
        self, logits_NV: Tensor, columns: DrawColumns, tokens_SP: Tensor, drawn_N: Tensor, told_UN: Tensor
    ) -> None: ...


def choose(device: Device, prefer: str | None = None, level: str | None = None) -> Choice[Sample]:
    """The implementation for `device`.

    `prefer` as in `tradewind.kernels.choice.pick`; `level`: an instruction set, as in `tradewind.kernels.native.load`.
    """
    from tradewind.kernels import native
    from tradewind.kernels.sample import reference, vectorised
    from tradewind.kernels.sample.cpu import NativeSample

    library = native.load(level)
    candidates = [
        Candidate[Sample]("native", NativeSample(library), library.unavailable, f"C++, {library.level}"),
        Candidate[Sample]("torch", vectorised.sample, about="vectorised over rows; no full sort on the CPU"),
        Candidate[Sample]("reference", reference.sample),
    ]
    return pick(candidates, device, torch.float32, prefer)


def choose_draw(device: Device, prefer: str | None = None) -> Choice[Draw]:
    """The implementation of `Draw` for `device`; `prefer` as in `tradewind.kernels.choice.pick`."""
    from tradewind.kernels import gpu
    from tradewind.kernels.sample import drawing

    def triton(chip: gpu.Chip) -> Draw:
        from tradewind.kernels.sample.triton import TritonDraw

        return TritonDraw(chip)

    candidates = [
        *gpu.candidates(device, torch.float32, triton, drawing.draw),
        Candidate[Draw]("torch", drawing.draw, about="columns are read back to the host"),
    ]
    return pick(candidates, device, torch.float32, prefer)
