"""The arguments of the application: `serve run serving.app:build key=value ...`, or `args` in deploy/serve.yaml."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.schemas import MAX_DEADLINE_MS


class Arguments(BaseModel):
    """What is served and how; an unknown key is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: str = Field(description="the folder or URI of an artifact `ensemble/`, of a run that holds one, or models:/NAME@ALIAS")
    tracking_uri: str = Field("", description="where models are registered; empty: MLFLOW_TRACKING_URI, or runs/mlflow.db of the checkout")
    release: str = Field("", description="any text: another one loads models:/NAME@ALIAS anew, wherever the alias points then")
    events: str = Field("", description="sqlite:///ABSOLUTE/PATH or redis://HOST:PORT/DB; empty: runs/events.db of the checkout")

    ingress_replicas: int = Field(1, ge=1, description="processes with the CRM, at least")
    ingress_max_replicas: int = Field(0, ge=0, description="at most, by load; 0: as many as at least")
    llm_replicas: int = Field(1, ge=1, description="processes with the LLM, at least")
    llm_max_replicas: int = Field(0, ge=0, description="at most, by load; 0: as many as at least")
    llm_surge: bool = Field(True, description="a new version of the LLM loads beside the old one; false where no GPU is spare for it")
    crm_replicas: int = Field(0, ge=0, description="processes with the CRM alone; 0: it lives in the ingress, without a hop")
    crm_max_replicas: int = Field(0, ge=0, description="at most, by load; 0: as many as at least")
    ingress_cpus: float = Field(0.25, gt=0, description="CPUs that Ray reserves for an ingress or CRM process")
    llm_cpus: float = Field(0.5, gt=0, description="CPUs that Ray reserves for an LLM process")
    llm_gpus: float = Field(0.0, ge=0, description="GPUs of an LLM process; 0: it computes on the CPU")
    crm_threads: int = Field(1, ge=1, description="threads that the CRM computes with")
    llm_threads: int = Field(1, ge=1, description="threads that the LLM computes with")

    deadline_ms: int = Field(1_000, ge=1, le=MAX_DEADLINE_MS, description="for requests that name none")
    max_ongoing_requests: int = Field(
        64, ge=1, description="requests that one ingress process holds at once; more get 503 with Retry-After"
    )
    max_queued_requests: int = Field(64, ge=1, description="requests that wait before a process refuses or takes them")
    llm_max_ongoing_requests: int = Field(16, ge=1, description="questions that one LLM process holds at once")
    llm_max_queued_requests: int = Field(16, ge=1, description="questions that wait for it; for more the CRM answers")
    llm_max_batch_requests: int = Field(8, ge=1, description="questions that are computed together")
    llm_max_batch_tokens: int = Field(4_096, ge=1, description="tokens that are computed together")
    llm_cache_mib: int = Field(
        256, ge=0, description="memory of an LLM process for what it computed of users' histories, reused at their next request; 0: none"
    )
    health_check_period_s: float = Field(10.0, gt=0, description="how often each process answers a question to show that it can")
    health_check_timeout_s: float = Field(
        30.0, gt=0, description="after which a process that does not answer, or an LLM that computes the same questions, is replaced"
    )
    breaker_failures: int = Field(3, ge=1, description="failures of the LLM in a row after which it is not asked")
    breaker_pause_ms: int = Field(5_000, ge=1, description="after which one question tries it again")
    rank_head: int = Field(50, ge=1, le=500, description="best items by the CRM that the router looks at when ranking, at least k")

    max_body_bytes: int = Field(1 << 20, ge=1, description="of a request; more gets 413")
    max_body_ms: int = Field(30_000, ge=1, description="for a request's body to arrive; one that takes longer gets 408")
    api_key_file: str = Field("", description="a file with the key that clients send as `Authorization: Bearer KEY`; empty: no key")
    behind_proxy: bool = Field(False, description="a proxy in front authenticates: serve beyond loopback without a key")
    docs: bool | None = Field(None, description="serve /docs and /openapi.json; none: on loopback alone")

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Arguments:
        for name in ("ingress", "llm", "crm"):
            least, most = getattr(self, f"{name}_replicas"), getattr(self, f"{name}_max_replicas")
            if most and most < least:
                raise ValueError(f"{name}_max_replicas: expected 0, or at least {name}_replicas ({least}), got {most}")
        return self
