"""What people said of matches: kept by pair of appearance and person, and counted.

`reports` says what a report is and what follows from it for the pair's alert, `store` keeps reports in Redis with the
Lua of `scripts`, `suggest` computes what other thresholds would have done, `metrics` counts verdicts, and `service`
translates. A report of an alert's pair is written by the script that changes the alert (`alert_svc.log`).
"""
