"""One stage of the pipelines each, run as ``python -m tasks.<name>``; ``shell`` is what each starts through."""

import tasks.shell  # noqa: F401 - before a stage imports anything: another Python may have to go on
