"""Cost of Orkestra compared with the bare Temporal SDK, as ratios of alternating runs."""
