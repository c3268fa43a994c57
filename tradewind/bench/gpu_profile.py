"""What a GPU does in a steady decode: which kernels, for how long, and how long nothing."""

from collections import defaultdict
from collections.abc import Callable

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


def profile_steps(step: Callable[[], object], count: int, layers: int) -> str:
    """A table of the kernels of `count` steps, per step, and the share of time in which none ran."""
    with profile(activities=[ProfilerActivity.CUDA]) as measured:
        for _ in range(count):
            step()
        torch.cuda.synchronize()
    spans = sorted(
        (event.time_range.start, event.time_range.end, event.name)
        for event in measured.events() or ()
        if event.device_type == DeviceType.CUDA
    )
    if not spans:
        return "the profiler saw no kernels"
    busy, end = 0.0, spans[0][0]
    times: dict[str, list[float]] = defaultdict(list)
    for begun, ended, name in spans:
        busy += max(0.0, ended - max(begun, end))
        end = max(end, ended)
        times[name].append(ended - begun)
    whole = end - spans[0][0]
    kernels = sum(len(each) for name, each in times.items() if not name.startswith("Mem"))
    lines = [
        f"{whole / count:.0f} us a step, idle {100 * (1 - busy / whole):.1f} %, "
        f"{kernels / count:.0f} kernels a step, {kernels / count / layers:.1f} a layer"
    ]
    for name, each in sorted(times.items(), key=lambda item: -sum(item[1]))[:14]:
        share = sum(each) / whole
        lines.append(f"  {len(each) / count:6.1f} x {sum(each) / len(each):8.1f} us {100 * share:5.1f} %  {name[:90]}")
    return "\n".join(lines)
