"""Serves gRPC: translates between the wire and `tuner_server.service.tuner_service`."""
