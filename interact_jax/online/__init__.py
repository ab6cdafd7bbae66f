"""Online runs: where prompts come from, who reacts to replies, and what they want."""
