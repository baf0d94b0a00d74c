"""What tests share: a simulated training run, the client's side of the wire, a server process."""
