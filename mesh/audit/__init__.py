"""Who read or changed what is kept of people: records that are only ever added, each chained to the one before.

`recorder.Auditor` writes them, `interceptor.AuditInterceptor` writes those of calls (`methods` says of which), `record`
writes one of anything else. `chain` is how they lie in Redis, `verify` finds what was changed or is missing, and
`python -m mesh.audit` serves them to auditors. That is a server of its own because the records are about all services:
one that is down, or is being looked into, must not keep auditors from the records; and it alone needs to read them.
"""

from mesh.audit.recorder import Auditor, record, record_refusal

__all__ = ["Auditor", "record", "record_refusal"]
