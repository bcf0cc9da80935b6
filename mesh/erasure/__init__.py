"""Erases a person everywhere: asks all who keep something of people, in an order in which nothing comes back.

`looking` finds what there is (the plan), `eraser` erases it and does not give up, `store` remembers how far that is,
and `receipts` signs what was done. `keepers` are who is asked: services over `TraceService`, approvals here. It runs in
the audit server: what it leaves is evidence, and who asks for it answers for the data of all services.
"""
