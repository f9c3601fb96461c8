"""The services of the API over gRPC. They translate, nothing else."""

from typing import Any

from gpve.server.control import Control
from gpve.server.rpc.cluster import ClusterService, TaskService
from gpve.server.rpc.guests import AgentService, GuestService, VClusterService
from gpve.server.rpc.service import Careful, served
from gpve.v1 import cluster_pb2_grpc, guest_pb2_grpc


def add_services(server: Any, control: Control) -> None:
    """Serve all of them."""
    server = Careful(server)
    guest_pb2_grpc.add_GuestServiceServicer_to_server(served(GuestService(control)), server)
    guest_pb2_grpc.add_VClusterServiceServicer_to_server(served(VClusterService(control)), server)
    guest_pb2_grpc.add_AgentServiceServicer_to_server(served(AgentService(control)), server)
    cluster_pb2_grpc.add_ClusterServiceServicer_to_server(served(ClusterService(control)), server)
    cluster_pb2_grpc.add_TaskServiceServicer_to_server(served(TaskService(control)), server)
