"""gRPC: the wire on one side, `tuner_server.service.tuner_service` on the other."""
