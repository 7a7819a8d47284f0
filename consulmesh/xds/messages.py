"""The Envoy messages the mapping is written in.

xds-protos ships no type stubs: its classes are taken here as `Any`, and nowhere else.
"""

from enum import StrEnum
from typing import Any

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2, outlier_detection_pb2
from envoy.config.core.v3 import base_pb2, config_source_pb2, health_check_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2,
)
from envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3 import (
    client_side_weighted_round_robin_pb2,
)
from envoy.extensions.load_balancing_policies.round_robin.v3 import round_robin_pb2
from envoy.extensions.load_balancing_policies.wrr_locality.v3 import wrr_locality_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import any_pb2
from google.protobuf.message import Message

_ads: Any = ads_pb2_grpc
_base: Any = base_pb2
_circuit_breaker: Any = circuit_breaker_pb2
_cluster: Any = cluster_pb2
_config_source: Any = config_source_pb2
_discovery: Any = discovery_pb2
_endpoint: Any = endpoint_pb2
_endpoint_components: Any = endpoint_components_pb2
_health_check: Any = health_check_pb2
_listener: Any = listener_pb2
_manager: Any = http_connection_manager_pb2
_outlier_detection: Any = outlier_detection_pb2
_round_robin: Any = round_robin_pb2
_route: Any = route_pb2
_route_components: Any = route_components_pb2
_router: Any = router_pb2
_tls: Any = tls_pb2
_weighted_round_robin: Any = client_side_weighted_round_robin_pb2
_wrr_locality: Any = wrr_locality_pb2

AggregatedDiscoveryServiceServicer = _ads.AggregatedDiscoveryServiceServicer
add_AggregatedDiscoveryServiceServicer_to_server = (  # noqa: N816 - the generated name
    _ads.add_AggregatedDiscoveryServiceServicer_to_server
)
AggregatedDiscoveryServiceStub = _ads.AggregatedDiscoveryServiceStub
CircuitBreakers = _circuit_breaker.CircuitBreakers
ClientSideWeightedRoundRobin = _weighted_round_robin.ClientSideWeightedRoundRobin
Cluster = _cluster.Cluster
ClusterLoadAssignment = _endpoint.ClusterLoadAssignment
ConfigSource = _config_source.ConfigSource
DiscoveryRequest = _discovery.DiscoveryRequest
DiscoveryResponse = _discovery.DiscoveryResponse
HeaderMatcher = _route_components.HeaderMatcher
HashPolicy = _route_components.RouteAction.HashPolicy
HealthStatus = _health_check.HealthStatus
HttpConnectionManager = _manager.HttpConnectionManager
HttpFilter = _manager.HttpFilter
LbEndpoint = _endpoint_components.LbEndpoint
Listener = _listener.Listener
LoadBalancingPolicy = _cluster.LoadBalancingPolicy
LocalityLbEndpoints = _endpoint_components.LocalityLbEndpoints
OutlierDetection = _outlier_detection.OutlierDetection
RetryPolicy = _route_components.RetryPolicy
RoundRobin = _round_robin.RoundRobin
Route = _route_components.Route
RouteAction = _route_components.RouteAction
RouteConfiguration = _route.RouteConfiguration
RouteMatch = _route_components.RouteMatch
Router = _router.Router
TransportSocket = _base.TransportSocket
UpstreamTlsContext = _tls.UpstreamTlsContext
VirtualHost = _route_components.VirtualHost
WrrLocality = _wrr_locality.WrrLocality


class ResourceType(StrEnum):
    """The xDS resource types served, by type URL, in the order they are pushed.

    What a listener routes to is sent before the listener (make before break).
    """

    CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"


def pack(message: Message) -> any_pb2.Any:
    """Return the message as an Any whose bytes depend on its content alone."""
    packed = any_pb2.Any()
    packed.Pack(message, deterministic=True)
    return packed
