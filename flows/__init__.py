"""Prefect flows over embedkit's stages. The only place that knows Prefect.

Prefect reads its settings from the environment when it is imported, so ours are set here, before that; what the user set
already is left as it is. With a server, `PREFECT_LOGGING_EXTRA_LOGGERS` brings embedkit's own log into the run's log.
"""

import logging
import os

from flows.lifetime import CHILD_OF, end_with

for _name, _value in {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_RUNNER_POLL_FREQUENCY": "2",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "embedkit" if os.environ.get("PREFECT_API_URL") else "",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "RAY_USAGE_STATS_ENABLED": "0",
}.items():
    os.environ.setdefault(_name, _value)
_log = logging.getLogger("embedkit")
_log.setLevel(logging.INFO)
if os.environ["PREFECT_LOGGING_EXTRA_LOGGERS"]:  # Prefect's console shows it then; the command line's own would say it twice
    _log.handlers = [handler for handler in _log.handlers if isinstance(handler, logging.NullHandler)]
if _parent := os.environ.pop(CHILD_OF, None):
    end_with(int(_parent))
