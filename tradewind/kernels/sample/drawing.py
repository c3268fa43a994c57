"""Drawing by the columns on the device, with torch's sampling: for the CPU, where reading them costs nothing."""

from torch import Tensor

from tradewind.kernels.sample import DrawColumns, SampleRows
from tradewind.kernels.sample.vectorised import sample


def draw(logits_NV: Tensor, columns: DrawColumns, tokens_SP: Tensor, drawn_N: Tensor, told_UN: Tensor) -> None:
    """See `tradewind.kernels.sample.Draw`."""
    count = int(columns.count_1)
    rows = SampleRows(
        columns.temperature_N[:count].double().numpy(),
        columns.top_k_N[:count].long().numpy(),
        columns.top_p_N[:count].double().numpy(),
        columns.min_p_N[:count].double().numpy(),
        columns.uniforms_N[:count].numpy(),
    )
    drawn_N[:count] = sample(logits_NV[:count].clone(), rows)
    tokens_SP[columns.slots_N[:count].long(), columns.positions_N[:count].long()] = (
        drawn_N[:count].clamp(min=0).to(tokens_SP.dtype)
    )
    told_UN[int(columns.turn_1), :count] = drawn_N[:count]
