"""What Orkestra costs beside the bare Temporal SDK, as ratios of alternating runs."""
