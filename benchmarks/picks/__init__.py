"""What policy `budget` would commit with other constants, simulated on tables of probes: nothing is trained again."""
