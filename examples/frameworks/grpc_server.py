"""A gRPC server with a policy for all methods, and one method with its own limit.

Messages are bytes, so it needs no protoc.

python examples/frameworks/grpc_server.py
"""

from concurrent.futures import ThreadPoolExecutor

import grpc

from ratekeeper import Policy
from ratekeeper.frameworks.grpc import RateLimitInterceptor, rate_limit

POLICY = Policy.parse("""
[attributes]
api_key = "header:x-api-key"

[[rules]]
name = "each key"
match = { path = "/shop.Items/*" }
key = ["api_key"]
limit = "100/minute"
""")


def get(request: bytes, context: grpc.ServicerContext) -> bytes:
    return b"item " + request


@rate_limit("2/hour")
def export(request: bytes, context: grpc.ServicerContext):
    for line in range(3):
        yield b"line %d" % line


def server() -> grpc.Server:
    limited = grpc.server(ThreadPoolExecutor(8), interceptors=[RateLimitInterceptor(POLICY)])
    methods = {"Get": grpc.unary_unary_rpc_method_handler(get), "Export": grpc.unary_stream_rpc_method_handler(export)}
    limited.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Items", methods),))
    return limited


if __name__ == "__main__":
    serving = server()
    serving.add_insecure_port("127.0.0.1:50051")
    serving.start()
    serving.wait_for_termination()
