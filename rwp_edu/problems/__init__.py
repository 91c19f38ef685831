"""Problems: initial weights, loss, batches and metrics, for many runs at once."""
