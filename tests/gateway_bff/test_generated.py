"""Requests that are made up from the document: every answer is one that the document names."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any, Final

import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.engine import from_schema
from schemathesis.engine.events import FatalError, NonFatalError, ScenarioFinished

from consulmesh.local_issuer import LocalIssuer
from gateway_bff import freshness
from tests.chaos.figures import LONG, figure
from tests.gateway_bff import examples, typical
from tests.gateway_bff.conftest import Gateway

EXAMPLES: Final = 600 if LONG else 4
CASES: Final = 10_000 if LONG else 1_000
REFUSED: Final = (
    "400",
    "401",
    "403",
    "404",
    "405",
    "409",
    "413",
    "414",
    "415",
    "422",
    "429",
    "5xx",
)
STREAMS: Final = ["streamFlight", "streamPrices"]

schemathesis.openapi.format("search-position", st.just(freshness.encode(examples.positions())))
schemathesis.openapi.format(
    "printable", st.text(min_size=1).filter(lambda text: text.isprintable() and text.strip())
)
schemathesis.openapi.format("printable-address", st.emails())


def configuration(issuer: LocalIssuer) -> schemathesis.Config:
    """All checks, right data and wrong; whoever needs a token has one of the role."""
    tokens = {
        role: {"bearer": issuer.token("ann", {role}, timedelta(hours=3))}
        for role in ("customer", "operator")
    }
    return schemathesis.Config.from_dict(
        {
            "seed": 2026,
            "continue-on-failure": True,
            "request-timeout": 30,
            "generation": {"max-examples": EXAMPLES, "no-shrink": True, "database": "none"},
            "auth": {"openapi": tokens},
            "phases": {"stateful": {"enabled": False}},
            "checks": {"negative_data_rejection": {"expected-statuses": list(REFUSED)}},
            "operations": [
                # its owners are away, so a live stream does not begin
                {
                    "include-operation-id": name,
                    "checks": {"not_a_server_error": {"expected-statuses": ["2xx", "4xx", "503"]}},
                }
                for name in STREAMS
            ],
        }
    )


@pytest.mark.timeout(3_600 if LONG else 600)
async def test_every_answer_is_as_the_document_says(gateway: Gateway, issuer: LocalIssuer) -> None:
    """No server error, no status, media type, header or body that the document does not name."""
    typical.answer(gateway.fakes)
    typical.no_streams(gateway.fakes)
    async with gateway.client.get("/openapi.json") as response:
        document = await response.json()
    config = configuration(issuer)
    config.projects.default.base_url = f"http://127.0.0.1:{gateway.port}"
    schema = schemathesis.openapi.from_dict(document, config=config)

    run = await asyncio.to_thread(Run, schema)

    figure(
        "X1",
        f"{run.cases:,} generated requests of {len(run.operations)} operations, "
        f"{run.checks:,} checks, {len(run.failures)} failures; "
        + ", ".join(f"{status}: {number:,}" for status, number in sorted(run.statuses.items())),
    )
    assert run.failures == []
    assert run.cases >= CASES
    assert len(run.operations) == 17


class Run:
    """What came of a run."""

    def __init__(self, schema: Any) -> None:
        self.cases = self.checks = 0
        self.operations: set[str] = set()
        self.statuses: Counter[int] = Counter()
        self.failures: list[str] = []
        for event in from_schema(schema).execute():
            if isinstance(event, ScenarioFinished):
                self._count(event)
            elif isinstance(event, FatalError | NonFatalError):
                self.failures.append(f"{event}: {getattr(event, 'value', event)!r}")

    def _count(self, event: ScenarioFinished) -> None:
        recorder = event.recorder
        self.cases += len(recorder.cases)
        for case_id, interaction in recorder.interactions.items():
            node = recorder.cases[case_id]
            operation = node.value.operation
            self.operations.add(operation.label)
            response = interaction.response
            if response is None:
                self.failures.append(f"{operation.label}: no answer")
                continue
            self.statuses[response.status_code] += 1
            if interaction.request.method.upper() != operation.method.upper():
                continue  # another method at its path, of which the document says nothing
            if str(response.status_code) not in operation.definition.raw["responses"]:
                self.failures.append(f"{operation.label}: {response.status_code} is not listed")
        for checks in recorder.checks.values():
            self.checks += len(checks)
            self.failures += [
                f"{check.failure_info.code_sample}\n{check.failure_info.failure}"
                for check in checks
                if check.failure_info is not None
            ]
