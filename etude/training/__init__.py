"""The one training loop (fit), its settings (plan), its input (batches) and its output (report)."""
