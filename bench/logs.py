"""Logging of measuring processes."""

from __future__ import annotations

import logging
import sys

import structlog


def configure() -> None:
    """Log from INFO on, as daemons do by default, to stderr: stdout speaks to the parent.

    For a process of its own, once: loggers keep what they were configured with when first used.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
