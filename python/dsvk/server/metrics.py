"""What Prometheus asks for: vLLM's names and units, with dsvk in front, so that its dashboards need another prefix and no more."""
from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Iterator

import dsvk
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from .engine import Engine

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1, 2, 4, 8, 15, 30, 60, 120, 240, 480, 960)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000)
FINISHED = {"stop": "stop", "calls": "stop", "length": "length", "context": "length", "resource": "error"}
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Counts:
    """What the scheduler counts, read when somebody asks."""

    def __init__(self, engine: "Engine"):
        self.engine = engine

    def collect(self) -> Iterator[Metric]:
        def one(kind: type[GaugeMetricFamily] | type[CounterMetricFamily], name: str, text: str, value: float) -> Metric:
            metric = kind(f"dsvk:{name}", text, labels=["model_name"])
            metric.add_metric([self.engine.name], value)
            return metric

        try:
            report, memory = self.engine.scheduler.report, self.engine.model.device.memory()
        except dsvk.Error:      # closed, or the device is gone
            return
        used, most = memory["cache"]["used"], memory["cache"]["budget"]
        yield one(GaugeMetricFamily, "num_requests_running", "Sequences that have memory and run.", report["running"])
        yield one(GaugeMetricFamily, "num_requests_waiting", "Sequences that wait.", report["waiting"])
        yield one(GaugeMetricFamily, "kv_cache_usage_perc", "Device memory of caches in use; 1 is all there is.",
                  used / (most or used + memory["heap"]["free"]))
        yield one(GaugeMetricFamily, "prefix_cache_bytes", "Device memory of kept prefixes.", report["cache"]["bytes"])
        yield one(CounterMetricFamily, "prompt_tokens", "Tokens of prompts that have begun.", report["prompt_tokens"])
        yield one(CounterMetricFamily, "generation_tokens", "Tokens generated.", report["completion_tokens"])
        yield one(CounterMetricFamily, "prefix_cache_queries", "Tokens of prompts looked up among kept ones.", report["prompt_tokens"])
        yield one(CounterMetricFamily, "prefix_cache_hits", "Tokens of prompts found kept.", report["cached_tokens"])
        yield one(CounterMetricFamily, "num_preemptions", "Sequences that had to give their memory away.", report["preempted"])


class Metrics:
    """Of one engine, in a registry of its own."""

    def __init__(self, engine: "Engine"):
        self.registry = CollectorRegistry()
        self.registry.register(Counts(engine))

        def made(kind: Any, name: str, text: str, labels: tuple[str, ...] = (), **options: Any) -> Any:
            metric = kind(f"dsvk:{name}", text, ["model_name", *labels], registry=self.registry, **options)
            return metric if labels else metric.labels(engine.name)

        self.success = made(Counter, "request_success", "Choices that ended, by why.", ("finished_reason",))
        self.first = made(Histogram, "time_to_first_token_seconds", "From a request to its first token.", buckets=SECONDS)
        self.between = made(Histogram, "inter_token_latency_seconds", "Between tokens of a choice.", buckets=SECONDS)
        self.whole = made(Histogram, "e2e_request_latency_seconds", "From a request to its end.", buckets=SECONDS)
        self.prompt = made(Histogram, "request_prompt_tokens", "Tokens of a request's prompts.", buckets=TOKENS)
        self.generation = made(Histogram, "request_generation_tokens", "Tokens generated for a request.", buckets=TOKENS)
        self.name = engine.name

    def text(self) -> bytes:
        return generate_latest(self.registry)


class Watch:
    """Times one request from here on."""

    def __init__(self, metrics: Metrics):
        self.metrics, self.began = metrics, time.perf_counter()
        self.last: dict[int, float] = {}

    def tokens(self, choice: int, n: int) -> None:
        """So many of this choice have come together: each took its share of the time since those before."""
        now = time.perf_counter()
        if choice in self.last:
            for _ in range(n):
                self.metrics.between.observe((now - self.last[choice]) / n)
        elif not self.last:
            self.metrics.first.observe(now - self.began)
        self.last[choice] = now

    def end(self, finishes: list[str], prompt: int, generated: int) -> None:
        """finishes: of its choices, as in Piece; "" is for one that was given up, by its client or by an error."""
        for finish in finishes:
            self.metrics.success.labels(self.metrics.name, FINISHED.get(finish, "abort")).inc()
        self.metrics.whole.observe(time.perf_counter() - self.began)
        self.metrics.prompt.observe(prompt)
        self.metrics.generation.observe(generated)
