"""gRPC: the wire on one side, `tuner_server.service` on the other."""
