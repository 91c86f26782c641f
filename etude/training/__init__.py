"""The one loop, what it is told (plan), what it is fed (batches) and what it leaves behind (report)."""
