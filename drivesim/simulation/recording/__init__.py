"""A rollout to disk as it comes: folder, state, keyframe journal, streams, timings; killed at any point and gone on with."""
