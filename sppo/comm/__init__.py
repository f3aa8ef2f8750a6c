"""Messages and collectives between ranks, and who is who among them."""
