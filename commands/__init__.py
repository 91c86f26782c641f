"""What a person types, run as ``python -m commands.<name>``."""

import tasks.shell  # noqa: F401 - before a command imports anything: another Python may have to go on
