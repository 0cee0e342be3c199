"""RESP2 and RESP3, the protocol of Redis clients, as one of the service's wires."""
