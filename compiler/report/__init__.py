"""What a compiled model does and where its time goes, as data, as text and as a page."""
