"""Several processes: where each stands, what they agree on, and who watches over them."""
