import aiohttp
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from consulmesh.metrics import RpcMetrics, metrics_endpoint, rpc_metrics


def test_durations_fall_into_cumulative_buckets() -> None:
    """A histogram as Prometheus defines it: bounds are inclusive, +Inf counts all."""
    registry = CollectorRegistry()
    method = RpcMetrics(registry).served("a.B/C")
    for seconds in (0.0004, 0.0005, 0.02, 99.0):
        method.started()
        method.ended("OK", seconds)

    def bucket(bound: str) -> float | None:
        return registry.get_sample_value(
            "rpc_server_call_duration_seconds_bucket",
            {"rpc_method": "a.B/C", "rpc_response_status_code": "OK", "le": bound},
        )

    assert [bucket(b) for b in ("0.0005", "0.01", "0.025", "10.0", "+Inf")] == [2, 2, 3, 3, 4]
    assert (
        registry.get_sample_value(
            "rpc_server_call_duration_seconds_sum",
            {"rpc_method": "a.B/C", "rpc_response_status_code": "OK"},
        )
        == 0.0004 + 0.0005 + 0.02 + 99.0
    )


def test_a_method_has_one_set_of_metrics() -> None:
    """Two servers or stubs in a process add up."""
    metrics = RpcMetrics(CollectorRegistry())

    assert metrics.served("a.B/C") is metrics.served("a.B/C")
    assert metrics.made("x", "a.B/C") is not metrics.made("y", "a.B/C")


def test_a_registry_is_asked_for_its_metrics_once() -> None:
    """Several meshes in one process share what the registry can hold only once."""
    registry = CollectorRegistry()

    assert rpc_metrics(registry) is rpc_metrics(registry)


def test_what_is_written_can_be_parsed() -> None:
    """Names and types are valid in Prometheus' text format."""
    registry = CollectorRegistry()
    metrics = RpcMetrics(registry)
    metrics.made("up", "a.B/C").started()
    metrics.made("up", "a.B/C").ended("OK", 0.1)
    text = generate_latest(registry).decode()

    assert {family.name: family.type for family in text_string_to_metric_families(text)} == {
        "rpc_server_call_duration_seconds": "histogram",
        "rpc_server_active_calls": "gauge",
        "rpc_client_call_duration_seconds": "histogram",
        "rpc_client_active_calls": "gauge",
        "rpc_client_hedges": "counter",
        "rpc_client_hedges_won": "counter",
    }


async def test_the_endpoint_serves_a_registry_on_a_port_of_its_own() -> None:
    """GET /metrics gives the text, anything else 404, and the port is free again afterwards."""
    registry = CollectorRegistry()
    Counter("things", "Things.", registry=registry).inc(3)
    async with metrics_endpoint("127.0.0.1", 0, registry) as port, aiohttp.ClientSession() as web:
        async with web.get(f"http://127.0.0.1:{port}/metrics") as found:
            text = await found.text()
        async with web.get(f"http://127.0.0.1:{port}/") as missing:
            status = missing.status
    async with metrics_endpoint("127.0.0.1", port, registry) as again:
        pass

    assert "things_total 3.0" in text
    assert found.headers["Content-Type"].startswith("text/plain; version=")
    assert status == 404
    assert again == port
