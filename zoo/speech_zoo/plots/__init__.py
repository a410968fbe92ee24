"""Pictures; nothing is computed here."""
