"""A simulation of clients, servers, their network and their disk, in which one seed decides everything.

    history  what clients asked and what they were told
    world    time, chance and the tasks, of which one runs at a time
    disk     SQLite's own code on a file, with faults at transactions
    server   the service's own code, which can be killed at any point
    network  the library's own transport, over wires that lose, delay and repeat
    clients  trainings with the library's own session, clients that send what they like, and operators
    reference, checker   what the contract promises, and whether a history keeps it
    episode  one whole history from a seed
    mutants  bugs that are planted, so that it is known that such bugs are found

`python -m tests.simulation --histories 5000 --seed 1` runs many.
"""
