"""Questions that may take longer than a request: a bounded queue, a few workers, results kept for a day."""

from __future__ import annotations

from syndb_hub.jobs.runner import JobRunner
from syndb_hub.store.jobs import Job, JobStatus

__all__ = ["Job", "JobRunner", "JobStatus"]
