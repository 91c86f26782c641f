"""The stages of the pipelines: each module is one, run as ``python -m tasks.<name>`` and started by ``shell``."""

import tasks.shell  # noqa: F401 - first, because it may restart the stage with another Python
