"""What a person types, as `etude <name>`."""

import tasks.shell  # noqa: F401 - before a command imports anything: it may continue in another Python
