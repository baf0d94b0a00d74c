"""One client of a federation: rounds of local steps, after which the clients' updates are averaged."""
