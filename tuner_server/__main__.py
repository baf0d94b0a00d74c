"""`python -m tuner_server` is `lrpilot`."""

from tuner_server.cli import main

main()
