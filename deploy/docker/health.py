"""Exit 0 if the server at HOST:PORT says it is serving; else one line says what it says."""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def problem_with(address: str) -> str:
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return "" if name == "SERVING" else name


if __name__ == "__main__":
    problem = problem_with(sys.argv[1])
    if problem:
        print(problem)
    sys.exit(bool(problem))
