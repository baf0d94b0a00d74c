"""How close a tuned run comes to the best schedules that know the answer, on small real training tasks."""
