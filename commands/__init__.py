"""What a person types, as `etude <name>`."""

import tasks.shell  # noqa: F401 - before other imports: it may run the same command line in another Python
