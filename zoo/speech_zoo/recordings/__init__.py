"""Long recordings: windows, what is heard when, and how that is written down."""
