"""`make demo`: the whole mesh on one machine, from a camera's message to an alert, a search and dwell times."""
