"""What is published: compared with its original, described by a card, uploaded."""
