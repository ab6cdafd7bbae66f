"""Learning online: sample replies, let users react, learn from what they say."""
