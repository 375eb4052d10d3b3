"""What the endpoint counts, exported by Ray's Prometheus endpoint as `ray_tandem_*`."""

from __future__ import annotations

from collections.abc import Callable

from ray.util.metrics import Counter, Gauge, Histogram

from serving.router import Scored

BATCH_REQUESTS: list[float] = [1, 2, 4, 8, 16, 32, 64]
BATCH_CANDIDATES: list[float] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
LATENCY_MS: list[float] = [1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 2000, 5000, 10000]
STATES = {"closed": 0, "half_open": 1, "open": 2}


class Metrics:
    """The counters of one ingress process."""

    def __init__(self) -> None:
        self._requests = Counter("tandem_requests", "Answered requests.", ("endpoint", "status"))
        self._latency_ms = Histogram(
            "tandem_latency_ms",
            "From the request's head to the answer's end, without Serve's queue.",
            LATENCY_MS,
            ("endpoint", "arm"),
        )
        self._candidates = Counter("tandem_candidates", "Scored candidates by the arm whose answer counts.", ("arm",))
        self._fallbacks = Counter("tandem_fallbacks", "Requests whose answer is degraded, by cause.", ("cause",))
        self._failures = Counter("tandem_llm_failures", "Questions that the LLM did not answer, by cause.", ("cause",))
        self._breaker = Gauge("tandem_breaker", "The circuit before llm, crm or events: 0 closed, 1 half open, 2 open.", ("before",))
        self._policy_refused = Gauge("tandem_policy_refused", "1 while the last user_config was refused.")
        self._ongoing = Gauge("tandem_ongoing_requests", "Requests that are being answered.")
        self._count = 0

    def started(self) -> None:
        self._count += 1
        self._ongoing.set(self._count)

    def finished(self, endpoint: str, status: int, arm: str, latency_ms: float) -> None:
        self._count -= 1
        self._ongoing.set(self._count)
        self._requests.inc(1, {"endpoint": endpoint, "status": str(status)})
        self._latency_ms.observe(latency_ms, {"endpoint": endpoint, "arm": arm})

    def breaker(self, before: str) -> Callable[[str], None]:
        """Return what hears the state of the circuit before another side."""
        return lambda state: self._breaker.set(STATES[state], {"before": before})

    def scored(self, scored: Scored) -> None:
        llm = int((scored.arm == "llm").sum())
        for arm, count in (("llm", llm), ("crm", len(scored.arm) - llm)):
            if count:
                self._candidates.inc(count, {"arm": arm})
        if scored.degraded_cause is not None:
            self._fallbacks.inc(1, {"cause": scored.degraded_cause})

    def policy_refused(self, refused: bool) -> None:
        self._policy_refused.set(float(refused))

    def llm_failed(self, cause: str) -> None:
        self._failures.inc(1, {"cause": cause})


class LlmMetrics:
    """The counters of one LLM process."""

    def __init__(self) -> None:
        self._requests = Histogram("tandem_llm_batch_requests", "Questions computed together.", BATCH_REQUESTS)
        self._candidates = Histogram("tandem_llm_batch_candidates", "Candidates computed together.", BATCH_CANDIDATES)
        self._compute_ms = Histogram("tandem_llm_compute_ms", "Time that a batch computes.", LATENCY_MS)

    def computed(self, requests: int, candidates: int, compute_ms: float) -> None:
        self._requests.observe(requests)
        self._candidates.observe(candidates)
        self._compute_ms.observe(compute_ms)
