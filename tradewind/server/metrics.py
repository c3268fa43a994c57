"""Prometheus metrics: vLLM's meanings under a `tradewind:` prefix.

Observations are plain counters in this process (a histogram is a list of integers and a bisection), so that one costs
well under a microsecond; prometheus_client's types appear only when somebody asks for the page.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tradewind import __version__
from tradewind.protocol.request import FinishReason
from tradewind.protocol.result import EngineStats
from tradewind.protocol.sampling import SamplingParams
from tradewind.server.allowance import LIMITS, Allowances

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from tradewind.engine.client import AsyncEngine, RequestTimings

_FAST_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_TTFT_S = (*_FAST_S, 20.0, 40.0, 80.0, 160.0, 640.0)
_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0)
_REQUEST_S = (0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 600.0)
_COUNTS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_TOKENS = tuple(float(step * 10**power) for power in range(6) for step in (1, 2, 5))


class Histogram:
    """Counts of observations by upper bound (inclusive), and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last one: above all bounds
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self._sum += value

    def observe_all(self, values: list[float]) -> None:
        """Count several."""
        bounds, counts = self.bounds, self.counts
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        self._sum += sum(values)

    @property
    def total(self) -> float:
        """The sum of all values."""
        return self._sum

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus has them: `[("0.001", 3), ..., ("+Inf", 9)]`."""
        names = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
        cumulative, running = [], 0
        for name, count in zip(names, self.counts, strict=True):
            running += count
            cumulative.append((name, float(running)))
        return cumulative


class Metrics:
    """What the server counts itself, as a listener of the engine; the rest comes from the engine's own figures."""

    def __init__(self) -> None:
        self.time_to_first_token = Histogram(_TTFT_S)
        self.inter_token = Histogram(_TOKEN_S)
        self.queue_time = Histogram(_REQUEST_S)
        self.e2e = Histogram(_REQUEST_S)
        self.time_per_output_token = Histogram(_TOKEN_S)
        self.prefill_time = Histogram(_REQUEST_S)
        self.decode_time = Histogram(_REQUEST_S)
        self.inference_time = Histogram(_REQUEST_S)
        self.answers_asked = Histogram(_COUNTS)
        self.most_tokens_asked = Histogram(_TOKENS)
        self.prompt_lengths = Histogram(_TOKENS)
        self.output_lengths = Histogram(_TOKENS)
        self.finished: Counter[str] = Counter()
        self.responses: Counter[tuple[str, int]] = Counter()
        self.slow_readers = 0

    def on_step(self, ttft_s: list[float], inter_token_s: list[float]) -> None:
        """See EngineListener."""
        if ttft_s:
            self.time_to_first_token.observe_all(ttft_s)
        self.inter_token.observe_all(inter_token_s)

    def on_finished(self, timings: "RequestTimings") -> None:
        """See EngineListener."""
        self.finished[str(timings.finish_reason)] += 1
        self.e2e.observe(timings.e2e_s)
        self.prompt_lengths.observe(timings.prompt_tokens)
        self.output_lengths.observe(timings.completion_tokens)
        if timings.queue_s is None:
            return
        self.queue_time.observe(timings.queue_s)
        self.inference_time.observe(timings.e2e_s - timings.queue_s)
        if timings.ttft_s is None:
            return
        decode_s = timings.e2e_s - timings.ttft_s
        self.prefill_time.observe(timings.ttft_s - timings.queue_s)
        self.decode_time.observe(decode_s)
        if timings.completion_tokens > 1:
            self.time_per_output_token.observe(decode_s / (timings.completion_tokens - 1))

    def on_asked(self, params: SamplingParams) -> None:
        """A request for text was taken."""
        self.answers_asked.observe(params.n)
        if params.max_tokens is not None:
            self.most_tokens_asked.observe(params.max_tokens)


class EngineCollector:
    """Everything on the page, for one model name. A prometheus_client collector."""

    def __init__(self, metrics: Metrics, engine: "AsyncEngine", model: str, allowances: Allowances) -> None:
        self._metrics = metrics
        self._allowances = allowances
        self._engine = engine
        self._model = model

    def collect(self) -> Iterator["Metric"]:
        """All metrics, now."""
        stats = self._engine.stats
        yield from self._gauges(stats)
        yield from self._counters(stats)
        yield from self._histograms()
        yield from self._labelled()
        yield from self._by_key()

    def _gauges(self, stats: EngineStats) -> Iterator["Metric"]:
        from prometheus_client.core import GaugeMetricFamily

        used = stats.blocks_used / stats.blocks_total if stats.blocks_total else 0.0
        values = {
            "num_requests_running": ("requests in the batch", stats.running),
            "num_requests_waiting": ("requests waiting for a place in the batch", stats.waiting),
            "kv_cache_usage_perc": ("share of the KV cache held by running requests, 0 to 1", used),
            "kv_blocks": ("blocks of the KV cache", stats.blocks_total),
            "kv_blocks_cached": ("free blocks that hold a reusable prefix", stats.blocks_cached),
            "engine_ready": ("1 while the engine takes requests", float(self._engine.state == "ready")),
        }
        for name, (text, value) in values.items():
            family = GaugeMetricFamily(f"tradewind:{name}", text, labels=("model_name",))
            family.add_metric((self._model,), value)
            yield family

    def _counters(self, stats: EngineStats) -> Iterator["Metric"]:
        from prometheus_client.core import CounterMetricFamily

        values = {
            "prefix_cache_queries": ("prompt tokens looked up in the prefix cache", stats.prefix_query_tokens),
            "prefix_cache_hits": ("prompt tokens found in the prefix cache", stats.prefix_hit_tokens),
            "num_preemptions": ("requests stopped for want of KV blocks, to be computed again", stats.preemptions),
            "prompt_tokens": ("prompt tokens computed", stats.prompt_tokens),
            "generation_tokens": ("tokens generated", stats.output_tokens),
            "steps": ("engine steps", stats.steps),
            "step_host_seconds": ("time spent planning, applying and serialising steps", stats.host_s),
            "step_device_seconds": ("time the device spent on steps", stats.device_s),
            "kernels_compiled": ("kernels compiled or loaded since the engine began, at boot", stats.compiled_kernels),
            "steps_without_graph": ("steps launched kernel by kernel for want of a graph", stats.eager_steps),
            "engine_restarts": ("times the engine process was started again", self._engine.restarts),
            "slow_readers": ("clients dropped because they stopped reading", self._metrics.slow_readers),
        }
        for name, (text, value) in values.items():
            family = CounterMetricFamily(f"tradewind:{name}", text, labels=("model_name",))
            family.add_metric((self._model,), value)
            yield family

    def _histograms(self) -> Iterator["Metric"]:
        from prometheus_client.core import HistogramMetricFamily

        metrics = self._metrics
        values = {
            "time_to_first_token_seconds": ("from submission to the first token", metrics.time_to_first_token),
            "inter_token_latency_seconds": ("between two tokens of one sequence", metrics.inter_token),
            "request_queue_time_seconds": ("from submission to the first step", metrics.queue_time),
            "e2e_request_latency_seconds": ("from submission to the last token", metrics.e2e),
            "request_time_per_output_token_seconds": (
                "after the first token, on average over a sequence",
                metrics.time_per_output_token,
            ),
            "request_prefill_time_seconds": ("from the first step to the first token", metrics.prefill_time),
            "request_decode_time_seconds": ("from the first token to the last", metrics.decode_time),
            "request_inference_time_seconds": ("from the first step to the last token", metrics.inference_time),
            "request_prompt_tokens": ("prompt lengths", metrics.prompt_lengths),
            "request_generation_tokens": ("output lengths", metrics.output_lengths),
            "request_params_n": ("answers asked for, a request", metrics.answers_asked),
            "request_params_max_tokens": ("most tokens asked for, where a request says so", metrics.most_tokens_asked),
        }
        for name, (text, histogram) in values.items():
            family = HistogramMetricFamily(f"tradewind:{name}", text, labels=("model_name",))
            family.add_metric((self._model,), histogram.buckets(), histogram.total)
            yield family

    def _labelled(self) -> Iterator["Metric"]:
        from prometheus_client.core import CounterMetricFamily, InfoMetricFamily

        finished = CounterMetricFamily(
            "tradewind:request_success", "sequences that ended, by reason", labels=("model_name", "finished_reason")
        )
        for reason in FinishReason:
            finished.add_metric((self._model, str(reason)), self._metrics.finished[str(reason)])
        yield finished
        responses = CounterMetricFamily(
            "tradewind:http_responses", "HTTP responses, by path and status", labels=("path", "status")
        )
        for (path, status), count in self._metrics.responses.items():
            responses.add_metric((path, str(status)), count)
        yield responses
        info = InfoMetricFamily("tradewind:build", "what runs here", labels=("model_name",))
        info.add_metric((self._model,), {"version": __version__})
        yield info

    def _by_key(self) -> Iterator["Metric"]:
        """What each caller has had, under the name of its key."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        labels = ("model_name", "key")
        running = GaugeMetricFamily("tradewind:key_requests_open", "requests now, by API key", labels=labels)
        requests = CounterMetricFamily("tradewind:key_requests", "requests let in, by API key", labels=labels)
        refused = CounterMetricFamily(
            "tradewind:key_refused", "requests beyond a limit of their API key", labels=(*labels, "limit")
        )
        tokens = CounterMetricFamily("tradewind:key_tokens", "tokens, by API key", labels=(*labels, "kind"))
        for label, allowances in self._allowances.by_label().items():
            key = (self._model, label)
            counts = [allowance.counts for allowance in allowances]
            running.add_metric(key, sum(allowance.open for allowance in allowances))
            requests.add_metric(key, sum(each.requests for each in counts))
            tokens.add_metric((*key, "prompt"), sum(each.prompt_tokens for each in counts))
            tokens.add_metric((*key, "generation"), sum(each.completion_tokens for each in counts))
            for limit in LIMITS:
                refused.add_metric((*key, limit), sum(each.refused[limit] for each in counts))
        yield from (running, requests, refused, tokens)
