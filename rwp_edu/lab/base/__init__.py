"""What every screen shares: event loop, figure, controls, explorers."""
