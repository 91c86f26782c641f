"""Pictures of the untouched base and of artifacts: each is drawn once, in fixed batches, and cached by its content key.

This code has its own folder, so that an edited grid or metric draws nothing again, and edited drawing trains nothing
again.
"""
