"""What a person types, as `etude <name>`."""

import tasks.shell  # noqa: F401 - before a command imports anything: another Python may have to go on
