"""Known voices: enrolled, identified, found again in recordings."""
