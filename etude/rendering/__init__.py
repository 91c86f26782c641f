"""Pictures drawn once: untouched base and artifacts side by side, in fixed groups, kept by content.

A room of its own: an edited grid or metric draws nothing again, and an edited cache trains nothing again.
"""
