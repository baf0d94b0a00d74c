"""Generated from protos/lrpilot/v1/tuner.proto."""
