"""From raw logs to prepared data: filters, shards, splits and the card beside them."""
