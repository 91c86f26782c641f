"""Calls of transformers without its progress bars and warnings, which are for programmers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers.utils import logging


def quietly(call: Callable[..., Any], *given: Any, **settings: Any) -> Any:
    """The result of ``call``; meanwhile transformers shows neither progress bars nor warnings."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return call(*given, **settings)
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
